//! What the console needs of this process.

use async_trait::async_trait;
use axum::Router;
use console::{Host, HostState};
use sqlx::PgPool;

use super::HttpApi;
use crate::actions::postgres::own_database;

/// What the key of the console's sessions is derived for.
const PURPOSE: &str = "sessions of the console";

/// The HTTP API, as the console uses it.
#[derive(Debug)]
pub(super) struct ConsoleHost {
    api: HttpApi,
    routes: Router,
}

impl ConsoleHost {
    /// Creates the host with an API and its routes.
    pub(super) const fn new(api: HttpApi, routes: Router) -> Self {
        Self { api, routes }
    }
}

#[async_trait]
impl Host for ConsoleHost {
    fn api(&self) -> Router {
        self.routes.clone()
    }

    fn state(&self) -> Option<HostState> {
        let config = self.api.access().borrow().as_ref()?.console?;
        let context = self.api.context()?;
        Some(HostState {
            pool: context.pool,
            listener: context.listener,
            read_only: config.read_only,
        })
    }

    async fn session_key(&self, pool: &PgPool) -> Result<[u8; 32], sqlx::Error> {
        let Some(context) = self.api.context() else {
            return own_database::derive_key(pool, PURPOSE).await;
        };
        let key = context
            .sessions
            .get_or_try_init(|| own_database::derive_key(pool, PURPOSE));
        key.await.copied()
    }
}
