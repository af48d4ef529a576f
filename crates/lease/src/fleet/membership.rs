//! A membership, and the task that ends it in time and does nothing else.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::name::Id;

/// The right to work at all: all holds end with it.
pub(super) struct Membership {
    pub(super) me: Id,
    until: watch::Sender<Instant>,
    pub(super) lost: CancellationToken,
    _ends: DropGuard,
    _guarding: AbortOnDropHandle<()>,
}

impl Membership {
    pub(super) fn begin(me: Id, until: Instant) -> Self {
        let lost = CancellationToken::new();
        let (sender, until) = watch::channel(until);
        Self {
            me,
            until: sender,
            _ends: lost.clone().drop_guard(),
            _guarding: AbortOnDropHandle::new(tokio::spawn(guard(until, lost.clone()))),
            lost,
        }
    }

    /// Has it last until then, unless it has ended.
    pub(super) fn prolong(&self, until: Instant) {
        self.until.send_replace(until);
    }
}

/// Ends the membership at its deadline.
async fn guard(mut until: watch::Receiver<Instant>, lost: CancellationToken) {
    let _ends = lost.clone().drop_guard();
    loop {
        let deadline = *until.borrow_and_update();
        tokio::select! {
            biased;
            prolonged = until.changed() => if prolonged.is_err() { return },
            () = sleep_until(deadline) => return,
        }
    }
}
