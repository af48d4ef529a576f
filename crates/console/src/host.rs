//! What the console needs of the process that serves it.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use sqlx::PgPool;

/// The process that serves the console.
#[async_trait]
pub trait Host: Debug + Send + Sync + 'static {
    /// Returns the routes of the HTTP API, with their paths from the root.
    fn api(&self) -> Router;

    /// Returns what the console needs of a running listener; nothing while the listener is not running, or has
    /// no console.
    fn state(&self) -> Option<HostState>;

    /// Returns the key that seals sessions, the same in all processes of the listener.
    async fn session_key(&self, pool: &PgPool) -> Result<[u8; 32], sqlx::Error>;
}

/// A running listener, as the console needs it.
#[derive(Clone, Debug)]
pub struct HostState {
    /// Connections to the listener's database.
    pub pool: PgPool,
    /// The listener, `namespace/name`.
    pub listener: Arc<str>,
    /// Whether nobody may change anything here.
    pub read_only: bool,
}
