//! Waiting for a condition, bounded by the time since the last progress and not by the time that
//! all of it takes: a busy machine makes a test slower and does not fail it.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Longest wait without progress.
pub const STALLED: Duration = Duration::from_mins(2);

/// Longest wait with progress that comes to no end. Whoever runs tests ends those that take still
/// longer, and then nobody tells what was waited for.
pub const ENDLESS: Duration = Duration::from_mins(15);

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
    while_progressing_or(async || look().await.ok_or(()), describe).await
}

/// Waits until `measure` says that all is done, as long as what it finds changes; fails after
/// [`STALLED`] without a change.
pub async fn while_progressing<T>(what: &str, measure: impl AsyncFn() -> Result<T, u64>) -> T {
    let last = std::cell::Cell::new(None);
    let look = async || {
        let found = measure().await;
        last.set(found.as_ref().err().copied());
        found
    };
    while_progressing_or(look, async || {
        last.get()
            .map_or_else(|| what.to_owned(), |now| format!("{what}, stuck at {now}"))
    })
    .await
}

/// As [`while_progressing`], whatever shows progress; fails with what `describe` says was expected
/// and what is there instead.
pub async fn while_progressing_or<T, P: PartialEq>(
    measure: impl AsyncFn() -> Result<T, P>,
    describe: impl AsyncFnOnce() -> String,
) -> T {
    let mut patience = Patience::default();
    let mut last = None;
    loop {
        // A look that hangs is no progress either.
        match patience.await_it(measure()).await {
            Some(Ok(done)) => return done,
            Some(Err(now)) if last.as_ref() != Some(&now) => {
                patience.renew();
                last = Some(now);
            }
            Some(Err(_)) | None => {}
        }
        if !patience.lasts() {
            // What is there is asked of those who may be why there was no end to it.
            let described = tokio::time::timeout(STALLED, describe()).await;
            let described = described.unwrap_or_else(|_| "what is there cannot be told".to_owned());
            panic!("no progress for {STALLED:?}, or no end to it: {described}");
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

/// Waits for what tells nothing of its progress; fails with `what` was expected after [`STALLED`].
pub async fn comes<T>(what: &str, future: impl Future<Output = T>) -> T {
    let come = Patience::default().await_it(future).await;
    come.unwrap_or_else(|| panic!("waited {STALLED:?} in vain: {what}"))
}

/// Waits until a watched value is what `found` looks for, as long as what `progress` makes of it
/// changes; fails with what `describe` makes of it. It is looked at as soon as it changes. None
/// where nobody will change it any more.
pub async fn watched<T, F, P: PartialEq>(
    watched: &mut watch::Receiver<T>,
    found: impl Fn(&T) -> Option<F>,
    progress: impl Fn(&T) -> P,
    describe: impl FnOnce(&T) -> String,
) -> Option<F> {
    let mut patience = Patience::default();
    let mut last = progress(&watched.borrow());
    loop {
        {
            let value = watched.borrow_and_update();
            if let Some(found) = found(&value) {
                return Some(found);
            }
            let now = progress(&value);
            if now != last {
                patience.renew();
                last = now;
            }
        }
        match tokio::time::timeout(PAUSE, watched.changed()).await {
            Ok(Ok(())) => {}
            // It may have changed last of all.
            Ok(Err(_)) => return found(&watched.borrow()),
            Err(_) => assert!(
                patience.lasts(),
                "no progress for {STALLED:?}, or no end to it: {}",
                describe(&watched.borrow())
            ),
        }
    }
}

/// How much longer a wait goes on.
#[derive(Debug)]
pub struct Patience {
    left: Duration,
    left_in_all: Duration,
    looked: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            left: STALLED,
            left_in_all: ENDLESS,
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
        self.left_in_all = self.left_in_all.saturating_sub(waited);
        !self.left.is_zero() && !self.left_in_all.is_zero()
    }

    /// Begins anew, since there was progress; [`ENDLESS`] goes on.
    pub const fn renew(&mut self) {
        self.left = STALLED;
    }

    /// What the future comes to; `None` where that takes more patience than there is.
    async fn await_it<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        loop {
            if let Ok(come) = tokio::time::timeout(PAUSE, &mut future).await {
                return Some(come);
            }
            if !self.lasts() {
                return None;
            }
        }
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
    #[should_panic(expected = "no progress for 120s, or no end to it: 5 steps, stuck at 3")]
    async fn missing_progress_fails() {
        amounts_to("steps", 5, async || 3).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no progress for 120s, or no end to it: rain")]
    async fn missing_condition_fails() {
        eventually("rain", async || None::<()>).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "or no end to it: peace")]
    async fn progress_without_end_fails() {
        let seen = Cell::new(0);
        let goes_on = async || {
            seen.set(seen.get() + 1);
            Err::<(), u64>(seen.get())
        };
        while_progressing_or(goes_on, async || "peace".to_owned()).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "or no end to it: an answer")]
    async fn a_look_that_hangs_fails() {
        eventually("an answer", async || {
            std::future::pending::<Option<()>>().await
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_in_the_end_is_waited_for() {
        let begun = Instant::now();
        comes("the end", tokio::time::sleep(STALLED / 2)).await;
        assert_eq!(begun.elapsed(), STALLED / 2);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waited 120s in vain: the end")]
    async fn what_never_comes_fails() {
        comes("the end", std::future::pending::<()>()).await;
    }

    /// Looks for the third of three numbers that come with pauses.
    async fn third(pause: Duration) -> Option<()> {
        let (send, mut numbers) = watch::channel(0);
        tokio::spawn(async move {
            for n in 1..=3 {
                tokio::time::sleep(pause).await;
                send.send_replace(n);
            }
        });
        watched(
            &mut numbers,
            |n| (*n == 3).then_some(()),
            |n| *n,
            |n| format!("3 in place of {n}"),
        )
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_watched_is_waited_for_while_it_changes() {
        assert_eq!(third(STALLED / 2).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "or no end to it: 3 in place of 0")]
    async fn what_is_watched_and_does_not_change_fails() {
        third(STALLED * 2).await;
    }

    #[tokio::test]
    async fn what_nobody_changes_any_more_is_not_waited_for() {
        let (_, mut nothing) = watch::channel(0);
        let found = watched(
            &mut nothing,
            |n| (*n == 1).then_some(()),
            |n| *n,
            |_| String::new(),
        );
        assert_eq!(found.await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_runs_does_not_count() {
        let mut patience = Patience::default();
        tokio::time::advance(STALLED * 10).await;
        assert!(patience.lasts());
    }
}
