//! The errors that end a session or the process.

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
use crate::jobs::backend::QueueBackendError;
use crate::migrate::MigrateError;

/// Why a session or the process ended.
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
    /// The database was there and has been away for longer than the shards can be kept.
    #[error("database outage lasts too long, so the shards are left to other processes: {0}")]
    DatabaseOutage(String),
    /// The job queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueBackendError),
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
        "cannot listen on {at}: {source}. Choose another address with --listen, or `--listen off`"
    )]
    Listen {
        /// The address.
        at: SocketAddr,
        /// The error.
        source: std::io::Error,
    },
    /// Another process of the listener runs a newer configuration.
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
    /// The membership ended without a request.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A task panicked.
    #[error("a task panicked: {0}")]
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
    /// Returns whether the database or the job queue cannot be reached, so that a retry may succeed.
    pub(crate) const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::DatabaseOutage(_)
                | Self::Database(
                    DatabaseError::Unreachable { .. }
                        | DatabaseError::Unwritable { .. }
                        | DatabaseError::Full { .. }
                )
                | Self::Claim(
                    CheckpointError::Database(_) | CheckpointError::Log(LogError::Database(_))
                )
                | Self::Queue(
                    QueueBackendError::Database(_)
                        | QueueBackendError::Queue(_)
                        | QueueBackendError::Redis(OpenError::Redis(_))
                )
                | Self::Log(LogError::Database(_))
                | Self::Schema(MigrateError::Database(_))
        )
    }

    /// Returns whether no connection was available in time, as on a busy machine, which does not show that
    /// anything is wrong.
    pub(super) fn is_late(&self) -> bool {
        if matches!(self, Self::Database(DatabaseError::Full { .. })) {
            return true;
        }
        let mut causes = std::iter::successors(self.source(), |&cause| cause.source());
        causes.any(|cause| matches!(cause.downcast_ref(), Some(sqlx::Error::PoolTimedOut)))
    }

    /// Returns whether the job queue has to be opened again, in another backend.
    pub(crate) const fn is_queue_switch(&self) -> bool {
        matches!(
            self,
            Self::Queue(QueueBackendError::Switched(_))
                | Self::Claim(CheckpointError::QueueSwitched)
                | Self::Dispatch(DispatchError::Checkpoint(CheckpointError::QueueSwitched))
        )
    }

    /// Returns whether it is a mistake in the program, which a retry alone does not get past.
    pub(super) const fn is_internal(&self) -> bool {
        matches!(
            self,
            Self::Task(_) | Self::Membership(_) | Self::Dispatch(DispatchError::Task(_))
        )
    }

    /// Returns whether the server has restarted, after which only what was saved counts.
    pub(crate) const fn is_server_restart(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::ServerRestarted)
                | Self::Dispatch(DispatchError::Checkpoint(CheckpointError::ServerRestarted))
        )
    }
}
