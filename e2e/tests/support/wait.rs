//! Waiting: for a condition, up to a deadline, with the last reason in the message.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// For what happens within seconds on an idle machine; a busy one takes twenty times as long.
pub(crate) const SOON: Duration = Duration::from_mins(5);

/// For what begins with an image that is started for the first time.
pub(crate) const LATE: Duration = Duration::from_mins(10);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Most time one look may take.
const LOOK: Duration = Duration::from_mins(1);

/// Looks until there is something to see, and gives it with the time that it took.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        let reason = match tokio::time::timeout(LOOK, look()).await {
            Ok(Ok(found)) => return Ok((found, start.elapsed())),
            Ok(Err(reason)) => reason,
            Err(_) => anyhow!("a look took more than {LOOK:?}"),
        };
        if start.elapsed() > within {
            return Err(anyhow!(
                "waited {within:?} in vain for this: {what}. {reason:#}"
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
