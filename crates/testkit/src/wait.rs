//! Waiting for a condition, bounded by the time since the last progress and not by the time that
//! all of it takes: a busy machine makes a test slower and does not fail it.

use std::pin::pin;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::time::Instant;

/// Longest wait without progress.
pub const STALLED: Duration = Duration::from_mins(2);

/// Longest wait with progress that comes to no end. Whoever runs tests ends those that take still
/// longer, and then nobody tells what was waited for.
pub const ENDLESS: Duration = Duration::from_mins(15);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// The same where a look asks more of the machine than of a process or a database.
const LONG_PAUSE: Duration = Duration::from_millis(50);

/// Most time that one look of [`until`] may take.
const LOOK: Duration = Duration::from_mins(1);

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

/// As [`while_progressing`], with any measure of progress; fails with what `describe` says was expected
/// and what is there instead.
pub async fn while_progressing_or<T, P: PartialEq>(
    measure: impl AsyncFn() -> Result<T, P>,
    describe: impl AsyncFnOnce() -> String,
) -> T {
    if let Ok(done) = looked(Patience::default(), PAUSE, measure).await {
        return done;
    }
    // What is there is asked of those who may be why there was no end to it.
    let described = tokio::time::timeout(STALLED, describe()).await;
    let described = described.unwrap_or_else(|_| "what is there cannot be told".to_owned());
    panic!("{}: {described}", in_vain(STALLED));
}

/// Waits until `look` succeeds, as long as the reasons change why it does not, and gives what it
/// found with the time that it took; fails with `what` was expected and the last reason after
/// `stalled` without another one. For those who have something to do yet when they have waited in
/// vain.
pub async fn until<T>(
    what: &str,
    stalled: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    let begun = Instant::now();
    let measure = async || match tokio::time::timeout(LOOK, look()).await {
        Ok(looked) => looked.map_err(|reason| format!("{reason:#}")),
        Err(_) => Err(format!("a look took more than {LOOK:?}")),
    };
    let found = looked(Patience::of(stalled), LONG_PAUSE, measure).await;
    let found = found.map_err(|last| {
        let last = last.unwrap_or_else(|| "no look came to an end".to_owned());
        anyhow!("{}: {what}. {last}", in_vain(stalled))
    })?;
    Ok((found, begun.elapsed()))
}

/// Looks until `measure` succeeds, as long as what it finds instead changes and there is patience;
/// fails with what it found last, if any look came to an end.
async fn looked<T, P: PartialEq>(
    mut patience: Patience,
    pause: Duration,
    mut measure: impl AsyncFnMut() -> Result<T, P>,
) -> Result<T, Option<P>> {
    let mut last = None;
    loop {
        // A look that hangs is no progress either. Boxed, since callers' futures would embed it several times.
        match patience.await_it(Box::pin(measure())).await {
            Some(Ok(done)) => return Ok(done),
            Some(Err(now)) if last.as_ref() != Some(&now) => {
                patience.renew();
                last = Some(now);
            }
            Some(Err(_)) | None => {}
        }
        if !patience.lasts() {
            return Err(last);
        }
        tokio::time::sleep(pause).await;
    }
}

fn in_vain(stalled: Duration) -> String {
    format!("no progress for {stalled:?}, or no end to it")
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
                "{}: {}",
                in_vain(STALLED),
                describe(&watched.borrow())
            ),
        }
    }
}

/// How much longer a wait goes on.
#[derive(Debug)]
pub struct Patience {
    /// Longest wait without progress.
    stalled: Duration,
    left: Duration,
    left_in_all: Duration,
    looked: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(STALLED)
    }
}

impl Patience {
    /// One for waits without progress of up to `stalled`.
    fn of(stalled: Duration) -> Self {
        Self {
            stalled,
            left: stalled,
            left_in_all: ENDLESS,
            looked: Instant::now(),
        }
    }

    /// Whether to wait on; to be asked at each look.
    pub fn lasts(&mut self) -> bool {
        let now = Instant::now();
        let waited = (now - self.looked).min(COUNTED);
        self.looked = now;
        self.left = self.left.saturating_sub(waited);
        self.left_in_all = self.left_in_all.saturating_sub(waited);
        !self.left.is_zero() && !self.left_in_all.is_zero()
    }

    /// Starts over, since there was progress; [`ENDLESS`] goes on.
    pub const fn renew(&mut self) {
        self.left = self.stalled;
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
mod tests;
