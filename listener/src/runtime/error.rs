//! Why a listener does not run, or runs no longer.

use std::error::Error as _;
use std::net::SocketAddr;

use ::queue::redis::OpenError;
use chrono::SecondsFormat;

use crate::capture::change_log::LogError;
use crate::capture::reader::ReadError;
use crate::checkpoint::CheckpointError;
use crate::coordination::heartbeat::NewerConfig;
use crate::coordination::membership::MembershipError;
use crate::database::DatabaseError;
use crate::dispatch::DispatchError;
use crate::jobs::backend::PlaceError;
use crate::migrate::MigrateError;

/// Why a listener does not run, or ran no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No connection.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The schema is not as it must be.
    #[error(transparent)]
    Schema(#[from] MigrateError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A shard cannot be claimed.
    #[error(transparent)]
    Claim(#[from] CheckpointError),
    /// The database was there and is away for longer than the shards can be kept.
    #[error("the database has been away for too long, so the shards are left to others: {0}")]
    Away(String),
    /// The job queue cannot be used.
    #[error(transparent)]
    Queue(#[from] PlaceError),
    /// Reading cannot go on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Dispatch cannot go on.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// Metrics cannot be registered.
    #[error("cannot register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The address for health and metrics cannot be used.
    #[error(
        "cannot answer on {at}: {source}. Choose another address with --listen, or `--listen off`"
    )]
    Listen {
        /// The address.
        at: SocketAddr,
        /// The error.
        source: std::io::Error,
    },
    /// Another process of the listener has a newer configuration.
    #[error(
        "this process stands by, since its observers are older than those that {member} runs (known since {since}): an \
         event would meet one or the other. Give all processes of the listener the same files; they are taken up without \
         a restart"
    )]
    ConfigOutdated {
        /// The other process.
        member: String,
        /// Since when its observers have been known.
        since: String,
    },
    /// This process takes no part any more, and nobody asked it to.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A task died.
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl From<NewerConfig> for RunError {
    fn from(newer: NewerConfig) -> Self {
        Self::ConfigOutdated {
            member: newer.member,
            since: newer.since.to_rfc3339_opts(SecondsFormat::Secs, true),
        }
    }
}

impl RunError {
    /// Whether the database could not be asked, so that a later try may succeed.
    pub(crate) const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Away(_)
                | Self::Database(
                    DatabaseError::Unreachable { .. }
                        | DatabaseError::Unwritable { .. }
                        | DatabaseError::Full { .. }
                )
                | Self::Claim(
                    CheckpointError::Database(_) | CheckpointError::Log(LogError::Database(_))
                )
                | Self::Queue(
                    PlaceError::Database(_)
                        | PlaceError::Queue(_)
                        | PlaceError::Redis(OpenError::Redis(_))
                )
                | Self::Log(LogError::Database(_))
                | Self::Schema(MigrateError::Database(_))
        )
    }

    /// Whether no connection was to be had in time, as on a busy machine: that says of nothing that
    /// it is wrong.
    pub(super) fn is_late(&self) -> bool {
        if matches!(self, Self::Database(DatabaseError::Full { .. })) {
            return true;
        }
        let mut causes = std::iter::successors(self.source(), |&cause| cause.source());
        causes.any(|cause| matches!(cause.downcast_ref(), Some(sqlx::Error::PoolTimedOut)))
    }

    /// Whether the queue has to be opened again, in another backend.
    pub(crate) const fn is_queue_switch(&self) -> bool {
        matches!(
            self,
            Self::Queue(PlaceError::Switched(_))
                | Self::Claim(CheckpointError::QueueSwitched)
                | Self::Dispatch(DispatchError::Checkpoint(CheckpointError::QueueSwitched))
        )
    }

    /// Whether the server has begun a new life, in which what was saved is all that counts.
    pub(crate) const fn is_new_life(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::ServerRestarted)
                | Self::Dispatch(DispatchError::Checkpoint(CheckpointError::ServerRestarted))
        )
    }
}
