//! Errors of a search index.

/// Why a search index did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The server is not reachable, is overloaded, refuses writes for now, or takes too long: the same
    /// call may succeed later.
    #[error("the search index is not available: {0}")]
    Unavailable(String),
    /// The server refuses what was sent, and will again: wrong credentials, missing rights, an index
    /// that somebody else has made.
    #[error("the search index refuses this: {0}")]
    Refused(String),
    /// The query is not one: the caller is to write another.
    #[error("the query is not valid at character {}: {message}", .position + 1)]
    Query {
        /// Number of characters before the place.
        position: usize,
        /// What is wrong, and what to write.
        message: String,
    },
    /// The response cannot be understood.
    #[error("the search index gave an invalid response: {0}")]
    Response(String),
}
