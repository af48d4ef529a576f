//! Errors of Postgres in words for people.

/// What an error says. The client tells of a server that is away as of a pool that timed out, which
/// names nothing that can be looked at.
#[must_use]
pub fn told(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => {
            "no connection to Postgres came about in time: the server is away, or takes no more connections"
                .to_owned()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::told;
    use crate::QueueError;

    #[test]
    fn a_server_that_is_away_is_not_told_as_a_pool() {
        let said = QueueError::Postgres(sqlx::Error::PoolTimedOut).to_string();
        assert!(
            said.contains("no connection to Postgres") && !said.contains("pool"),
            "{said}"
        );
        let closed = sqlx::Error::WorkerCrashed;
        assert_eq!(told(&closed), closed.to_string());
    }
}
