//! Renew deadline of a membership, enforced by a task that does nothing else.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::names::MemberId;

/// Deadline by which a membership ends unless it is extended; all shard leases end with it.
pub(super) struct RenewDeadline {
    pub(super) identity: MemberId,
    deadline: watch::Sender<Instant>,
    pub(super) lost: CancellationToken,
    _cancel_on_drop: DropGuard,
    _deadline_task: AbortOnDropHandle<()>,
}

impl RenewDeadline {
    /// Starts the task that enforces the deadline.
    pub(super) fn start(identity: MemberId, deadline: Instant) -> Self {
        let lost = CancellationToken::new();
        let (sender, deadline) = watch::channel(deadline);
        Self {
            identity,
            deadline: sender,
            _cancel_on_drop: lost.clone().drop_guard(),
            _deadline_task: AbortOnDropHandle::new(tokio::spawn(enforce(deadline, lost.clone()))),
            lost,
        }
    }

    /// Extends the deadline, unless the membership has ended.
    pub(super) fn extend(&self, deadline: Instant) {
        self.deadline.send_replace(deadline);
    }
}

/// Ends the membership at its deadline.
async fn enforce(mut deadlines: watch::Receiver<Instant>, lost: CancellationToken) {
    let _cancel_on_drop = lost.clone().drop_guard();
    loop {
        let deadline = *deadlines.borrow_and_update();
        tokio::select! {
            biased;
            extended = deadlines.changed() => if extended.is_err() { return },
            () = sleep_until(deadline) => return,
        }
    }
}
