//! Notifications of appended events, so that an idle reader need not look more often.
//!
//! A source that is the only writer of the log sends them; triggers do not, as that would have all writers
//! commit one after the other. A notification that is missed costs a pause, as without any.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;

/// Channel of the notifications.
pub(crate) const CHANNEL: &str = "observer_change_log";

/// Pause before another connection is made.
const RETRY: Duration = Duration::from_secs(1);

/// Notifications of appended events, for one reader.
#[derive(Debug, Default)]
pub struct AppendNotifications {
    wake: Notify,
    connected: AtomicBool,
}

impl AppendNotifications {
    /// Wakes the reader when something was appended. Does not end.
    pub(crate) async fn follow(&self, pool: PgPool) {
        loop {
            if let Err(error) = self.listen(&pool).await {
                tracing::debug!(%error, "no notifications of appended events; retrying");
            }
            self.connected.store(false, Ordering::Relaxed);
            // What it waits for may not be told any more.
            self.wake.notify_one();
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn listen(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        // To itself, since behind some poolers none arrives.
        sqlx::query("select pg_catalog.pg_notify($1, '')")
            .bind(CHANNEL)
            .execute(&mut listener)
            .await?;
        while listener.try_recv().await?.is_some() {
            self.connected.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Returns whether notifications arrive now.
    #[must_use]
    pub(crate) fn are_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Waits until something was appended.
    pub(crate) async fn appended(&self) {
        self.wake.notified().await;
    }
}
