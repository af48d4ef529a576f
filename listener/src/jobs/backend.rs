//! Where the jobs of a listener are kept. When that changes, those in the place before are worked
//! off first. This module owns `observer.job_queue.backend`.

use std::fmt;
use std::sync::Arc;

use ::queue::draining::Draining;
use ::queue::postgres::PostgresQueue;
use ::queue::redis::{Durability, OpenError, RedisQueue};
use ::queue::{JobQueue, Keeping};
use crds::config::{ListenerConfig, QueueBackend};
use sqlx::PgPool;

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The database could not be asked where jobs are.
    #[error("cannot ask where jobs are kept: {}", ::queue::told(.0))]
    Database(#[from] sqlx::Error),
    /// Jobs are where nobody is told how to reach them.
    #[error(
        "jobs of this listener are in Redis: name the server in spec.redis, at least until they are worked off"
    )]
    LeftInRedis,
    /// Redis is not used.
    #[error(transparent)]
    Redis(#[from] OpenError),
}

/// Whether jobs of a listener may be in Redis.
pub async fn is_in_redis(pool: &PgPool, listener: &str) -> Result<bool, sqlx::Error> {
    let place = "select backend from observer.job_queue where listener = $1";
    let place: Option<String> = sqlx::query_scalar(place)
        .bind(listener)
        .fetch_optional(pool)
        .await?;
    let is_redis = |place: &str| matches!(Kind::of(place), Kind::Redis);
    Ok(place.is_some_and(|place| place.split(',').any(is_redis)))
}

/// The queue of a listener.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where jobs are added and taken.
    pub queue: Arc<dyn JobQueue>,
    /// While the jobs of another place are worked off.
    draining: Option<Arc<Draining>>,
    pool: PgPool,
    listener: Arc<str>,
    kind: Kind,
    durability: Durability,
}

impl Place {
    /// Opens it. Where its jobs are kept in Postgres, `pool` leads there; its dead letters are there
    /// in any case.
    ///
    /// Should they be wanted in a third place while those of one are still worked off, or back in
    /// that one, this waits for the next opening after that.
    pub async fn open(listener: &ListenerConfig, pool: PgPool) -> Result<Self, PlaceError> {
        let identity = listener.identity();
        let wanted = match &listener.queue.backend {
            QueueBackend::Postgres => Kind::Postgres,
            QueueBackend::Redis(_) => Kind::Redis,
        };
        let (old, new) = places(&pool, &identity, wanted).await?;
        if new != wanted {
            tracing::warn!(
                "jobs are added in {new} until those in {wanted} from before are worked off; start again then to have them in {wanted}"
            );
        }
        let opening = Opening {
            listener,
            identity: &identity,
            pool: &pool,
        };
        let (newest, durability) = opening.open(new).await?;
        let mut draining = None;
        let mut queue = newest;
        if let Some(old) = old {
            let (old, _) = opening.open(old).await?;
            let both = Arc::new(Draining::new(old, queue));
            queue = both.clone();
            draining = Some(both);
        }
        Ok(Self {
            queue,
            draining,
            pool,
            listener: Arc::from(identity),
            kind: new,
            durability,
        })
    }

    /// Says what may be lost with the place.
    pub(crate) fn tell_durability(&self) {
        let lost = match self.durability {
            Durability::Always => return,
            Durability::EverySecond => "jobs of the last two seconds at most",
            Durability::System => "jobs that the system had not written yet",
            Durability::None => "jobs since the last snapshot",
            Durability::Unknown => "as many jobs as settings say that this user may not ask for",
        };
        tracing::warn!(
            "if Redis crashes, {lost} are lost with it; appendonly yes and appendfsync always keep all of them"
        );
    }

    /// Keeps in mind that the place before holds nothing any more, once that is so.
    pub(crate) async fn settle(&self) {
        let drained = self.draining.as_ref().is_some_and(|both| both.is_drained());
        if !drained {
            return;
        }
        let settled = sqlx::query(
            "update observer.job_queue set backend = $2 where listener = $1 and backend like '%,' || $2",
        )
        .bind(&*self.listener)
        .bind(self.kind.as_str())
        .execute(&self.pool)
        .await;
        match settled {
            Ok(settled) if settled.rows_affected() > 0 => {
                tracing::info!("all jobs are in {} now", self.kind);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot note where jobs are kept; trying again"),
        }
    }
}

/// What opens places.
struct Opening<'a> {
    listener: &'a ListenerConfig,
    identity: &'a str,
    pool: &'a PgPool,
}

impl Opening<'_> {
    async fn open(&self, kind: Kind) -> Result<(Arc<dyn JobQueue>, Durability), PlaceError> {
        let queue = &self.listener.queue;
        let keeping = Keeping {
            lease: queue.worker_lease_duration,
            retention: queue.completed_job_retention,
        };
        let pool = self.pool.clone();
        match (kind, &queue.redis) {
            (Kind::Postgres, _) => {
                let queue = PostgresQueue::new(pool, self.identity, keeping);
                Ok((Arc::new(queue), Durability::Always))
            }
            (Kind::Redis, Some(url)) => {
                let opening = RedisQueue::open(url.reveal(), self.identity, pool, keeping);
                let queue = opening.await?;
                let durability = queue.durability();
                Ok((Arc::new(queue), durability))
            }
            (Kind::Redis, None) => Err(PlaceError::LeftInRedis),
        }
    }
}

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Postgres,
    Redis,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Redis => "Redis",
        }
    }

    fn of(name: &str) -> Self {
        if name == Self::Redis.as_str() {
            Self::Redis
        } else {
            Self::Postgres
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where jobs from before are, if they are not where new ones are added; and where these are.
async fn places(
    pool: &PgPool,
    listener: &str,
    wanted: Kind,
) -> Result<(Option<Kind>, Kind), sqlx::Error> {
    // The column holds one place, or the old one and the new one.
    let place: String = sqlx::query_scalar(
        "insert into observer.job_queue as q (listener, backend) values ($1, $2)
         on conflict (listener) do update
         set backend = q.backend || case when q.backend like '%,%' or q.backend = $2 then '' else ',' || $2 end
         returning backend",
    )
    .bind(listener)
    .bind(wanted.as_str())
    .fetch_one(pool)
    .await?;
    Ok(match place.split_once(',') {
        Some((old, new)) => (Some(Kind::of(old)), Kind::of(new)),
        None => (None, Kind::of(&place)),
    })
}
