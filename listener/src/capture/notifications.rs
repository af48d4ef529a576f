//! Notifications of appended events, so that an idle reader need not look more often.
//!
//! A source that is the only writer of the log sends them; triggers do not, as that would have all writers
//! commit one after the other. A notification that is missed costs a pause, as without any.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;

/// Channel of the notifications.
pub(crate) const CHANNEL: &str = "observer_change_log";

/// Pause before another connection is made.
const RETRY: Duration = Duration::from_secs(1);

/// Wakes readers when something was appended. Does not end.
pub(crate) async fn follow(pool: PgPool, wake: Arc<Notify>) {
    loop {
        if let Err(error) = listen(&pool, &wake).await {
            tracing::debug!(%error, "no notifications of appended events; retrying");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(pool: &PgPool, wake: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        listener.recv().await?;
        wake.notify_one();
    }
}
