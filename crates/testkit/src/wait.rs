//! Waiting for a condition, bounded by the time since the last progress and not by the time that
//! all of it takes: a busy machine makes a test slower and does not fail it.

use std::time::Duration;

use tokio::time::Instant;

/// Longest wait without progress.
pub const STALLED: Duration = Duration::from_mins(2);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Most of the time between two looks that counts as waiting. What is beyond it, this process
/// itself did not get to run, so neither may have those it waits for.
const COUNTED: Duration = Duration::from_millis(500);

/// Waits until `look` finds something; fails with `what` was expected after [`STALLED`].
pub async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    eventually_or(look, async || what.to_owned()).await
}

/// Waits until `look` finds something; fails with what `describe` says was expected and what is
/// there instead.
pub async fn eventually_or<T>(
    look: impl AsyncFn() -> Option<T>,
    describe: impl AsyncFnOnce() -> String,
) -> T {
    let mut patience = Patience::default();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            patience.lasts(),
            "waited {STALLED:?} in vain: {}",
            describe().await
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until `measure` says that all is done, as long as its number changes; fails after
/// [`STALLED`] without a change.
pub async fn while_progressing<T>(what: &str, measure: impl AsyncFn() -> Result<T, u64>) -> T {
    let mut patience = Patience::default();
    let mut last = None;
    loop {
        match measure().await {
            Ok(done) => return done,
            Err(now) => {
                if last.replace(now) != Some(now) {
                    patience = Patience::default();
                }
                assert!(
                    patience.lasts(),
                    "no progress for {STALLED:?}: {what}, stuck at {now}"
                );
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for `count` of `what`, as long as they become more.
pub async fn amounts_to(what: &str, count: u64, look: impl AsyncFn() -> u64) {
    while_progressing(&format!("{count} {what}"), async || {
        let now = look().await;
        if now >= count { Ok(()) } else { Err(now) }
    })
    .await;
}

/// How much longer a wait goes on.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            left: STALLED,
            looked: Instant::now(),
        }
    }
}

impl Patience {
    /// Whether to wait on; to be asked at each look.
    pub fn lasts(&mut self) -> bool {
        let now = Instant::now();
        let waited = (now - self.looked).min(COUNTED);
        self.looked = now;
        self.left = self.left.saturating_sub(waited);
        !self.left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_progress_is_waited_for() {
        let begun = Instant::now();
        let seen = Cell::new(0);
        amounts_to("steps", 5, async || {
            tokio::time::sleep(STALLED / 2).await;
            seen.set(seen.get() + 1);
            seen.get()
        })
        .await;
        assert!(begun.elapsed() > STALLED * 2);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no progress for 120s: 5 steps, stuck at 3")]
    async fn missing_progress_fails() {
        amounts_to("steps", 5, async || 3).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waited 120s in vain: rain")]
    async fn missing_condition_fails() {
        eventually("rain", async || None::<()>).await;
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_runs_does_not_count() {
        let mut patience = Patience::default();
        tokio::time::advance(STALLED * 10).await;
        assert!(patience.lasts());
    }
}
