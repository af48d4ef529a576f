//! Errors of the queue, in words for people.

/// Why a call to the queue failed. Every call may be retried.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Postgres failed.
    #[error("the job queue's database failed: {}", describe_error(.0))]
    Postgres(#[from] sqlx::Error),
    /// Redis failed.
    #[error("the job queue's Redis failed: {0}")]
    Redis(#[from] ::redis::RedisError),
    /// The queue holds data that this program did not write.
    #[error("a job cannot be decoded: {0}")]
    Unreadable(String),
    /// The call timed out.
    #[error("the job queue timed out")]
    NoAnswer,
}

impl QueueError {
    /// Whether a claim that failed like this may still have claimed jobs, which then stay claimed for as
    /// long as their worker sends heartbeats. (The Redis backend returns such jobs before it claims
    /// more.)
    #[must_use]
    pub fn may_have_claimed(&self) -> bool {
        use sqlx::Error::{Database, PoolClosed, PoolTimedOut};
        match self {
            // It was rejected, or never sent.
            Self::Postgres(Database(_) | PoolClosed | PoolTimedOut) | Self::Redis(_) => false,
            Self::Postgres(_) | Self::Unreadable(_) | Self::NoAnswer => true,
        }
    }
}

/// Describes a database error. The driver reports a server that is down as a pool that timed out, which
/// does not name the server.
#[must_use]
pub fn describe_error(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => {
            "no connection to Postgres in time: the server is down, or accepts no more connections"
                .to_owned()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_server_is_not_described_as_a_pool() {
        let said = QueueError::Postgres(sqlx::Error::PoolTimedOut).to_string();
        assert!(
            said.contains("no connection to Postgres") && !said.contains("pool"),
            "{said}"
        );
        let closed = sqlx::Error::WorkerCrashed;
        assert_eq!(describe_error(&closed), closed.to_string());
    }
}
