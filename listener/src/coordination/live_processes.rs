//! The live processes of a listener, as far as its database shows: checked before an operation that needs
//! a listener at rest.

use sqlx::{PgPool, Row};

use super::process;

/// How recent a save or a claim is that shows a live process.
const RECENT_SECONDS: f64 = 60.0;

/// A trace that a process left in the database.
#[derive(Debug)]
struct LivenessSignal {
    /// The name that the process gave itself there.
    name: String,
    /// Identity of its process, which says which process of which machine it is, if known.
    identity: String,
    /// Whether it shows a live process; otherwise it only shows a name.
    alive: bool,
}

/// Returns the names of the processes of a listener that are alive or may be. There are three signals: a
/// Lease in the database that was renewed in time; a worker of the job queue that sends heartbeats; and, as
/// in a cluster the Leases are elsewhere, the holder of a shard that has saved lately. At rest nothing is
/// saved, so without Leases in the database a holder counts too as long as any listener is connected, and
/// has been for longer than this process. A process of this machine that has ended does not count.
pub async fn present(pool: &PgPool, listener: &str) -> Result<Vec<String>, sqlx::Error> {
    let found = sqlx::query(
        "with leases as (
             select lease->'spec'->>'holderIdentity' as holder,
                    (lease->'spec'->>'renewTime')::timestamptz
                        + make_interval(secs => (lease->'spec'->>'leaseDurationSeconds')::float8)
                        > clock_timestamp() as alive
             from observer.lease where listener = $1 and name <> ''
         )
         select holder, bool_or(coalesce(alive, false)), holder from leases where holder <> '' group by holder
         union all
         select c.holder, bool_or(
             greatest(c.saved_at, c.claimed_at) > clock_timestamp() - make_interval(secs => $2)
             or not exists (select from leases) and exists (
                 select from pg_stat_activity a
                 where a.application_name = 'observer-listener' and a.datname = current_database()
                     and a.backend_start < clock_timestamp() - interval '10 s')), c.holder
         from observer.checkpoint c where c.listener = $1 and c.holder <> '' group by c.holder
         union all
         select w.name, true, coalesce(w.name || '_' || m.uid || '_', w.name)
         from observer.job_worker w
         left join observer.member m on m.listener = $1 and m.name = w.name
         where w.queue = observer.job_queue_of($1) and w.expires_at > clock_timestamp()",
    )
    .bind(listener)
    .bind(RECENT_SECONDS)
    .fetch_all(pool)
    .await?;
    let signals: Result<Vec<LivenessSignal>, sqlx::Error> = found
        .iter()
        .map(|row| {
            Ok(LivenessSignal {
                name: row.try_get(0)?,
                alive: row.try_get(1)?,
                identity: row.try_get(2)?,
            })
        })
        .collect();
    Ok(alive(&signals?, process::ended()))
}

/// Returns each live process once: an identity starts with the name of its member, and a worker has that
/// name alone.
fn alive(signals: &[LivenessSignal], ended: impl Fn(&str) -> bool) -> Vec<String> {
    let of_member = |identity: &LivenessSignal, name: &str| {
        let rest = identity.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('_'))
    };
    let mut names: Vec<String> = signals
        .iter()
        .filter(|signal| signal.alive && !ended(&signal.identity))
        .filter(|signal| !signals.iter().any(|other| of_member(other, &signal.name)))
        .map(|signal| signal.name.clone())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(name: &str, alive: bool) -> LivenessSignal {
        LivenessSignal {
            name: name.to_owned(),
            identity: name.to_owned(),
            alive,
        }
    }

    #[test]
    fn each_live_process_is_listed_once() {
        let ended = |name: &str| name == "b-2_x_1";
        let signals = [
            signal("a-1_x_1", true),
            signal("a-1_x_1", true),
            // Its worker.
            signal("a-1", true),
            signal("b-2_x_1", true),
            // The worker of one that has ended.
            signal("b-2", true),
            signal("c-3_x_1", false),
            signal("only-jobs", true),
        ];
        assert_eq!(alive(&signals, ended), ["a-1_x_1", "only-jobs"]);
    }
}
