//! Holding a Lease: one task renews it, another watches the deadline, and the end of either,
//! however it comes about, ends the leadership.

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::decide::{Holding, Loss, Observed, holding};
use crate::lease::client::{CONFLICT_RETRY_DELAY, HeldLease, LeaseClient};
use crate::lease::record::read_record;
use crate::lease::store::StoreError;

/// The right to work, for as long as [`Leadership::lost`] is not cancelled.
///
/// Dropping it stops the renewals at once and leaves the Lease to expire;
/// [`Leadership::release`] hands it over.
#[derive(Debug)]
#[must_use = "dropping it ends the leadership"]
pub struct Leadership {
    calls: LeaseClient,
    lost: CancellationToken,
    held: watch::Receiver<HeldLease>,
    _ends: DropGuard,
    _renewing: AbortOnDropHandle<()>,
    _guarding: AbortOnDropHandle<()>,
}

impl Leadership {
    pub(crate) fn begin(calls: LeaseClient, held: HeldLease) -> Self {
        let (name, me) = (&calls.writer.name, &calls.writer.identity);
        info!(lease = name, holder = %me, "holding the lease");
        let lost = CancellationToken::new();
        let (renewed, held) = watch::channel(held);
        let renewing = tokio::spawn(renew(calls.clone(), renewed, lost.clone()));
        let guarding = tokio::spawn(guard(calls.clone(), held.clone(), lost.clone()));
        Self {
            calls,
            _ends: lost.clone().drop_guard(),
            lost,
            held,
            _renewing: AbortOnDropHandle::new(renewing),
            _guarding: AbortOnDropHandle::new(guarding),
        }
    }

    /// Cancelled when the right to work ends: at the deadline, by a timer that does not depend
    /// on the renewals, and as soon as the Lease is seen in other hands or deleted. Cancelling
    /// it gives the right up.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the Lease up, so that another process can take it at once. Cancels
    /// [`Leadership::lost`] first; what must not overlap with another's work must have ended
    /// before. Takes two retry periods at most: if the API server cannot be reached, the Lease
    /// is left to expire.
    pub async fn release(self) {
        self.lost.cancel();
        // A renewal that is still under way carries the same version as what is written here,
        // so one of the two is refused, and giving up then looks again.
        let lease = self.held.borrow().lease.clone();
        self.calls.release(Some(lease)).await;
    }
}

/// Ends the leadership at the deadline, or when the renewing task is gone.
async fn guard(calls: LeaseClient, mut held: watch::Receiver<HeldLease>, lost: CancellationToken) {
    let _ends = lost.clone().drop_guard();
    loop {
        let until = held.borrow_and_update().deadline;
        tokio::select! {
            biased;
            () = lost.cancelled() => return,
            renewed = held.changed() => if renewed.is_err() { return },
            () = sleep_until(until) => {
                let (name, me) = (&calls.writer.name, &calls.writer.identity);
                warn!(lease = name, holder = %me, "the lease was not renewed in time; stopping work");
                return;
            }
        }
    }
}

/// Renews until the leadership has ended.
async fn renew(calls: LeaseClient, held: watch::Sender<HeldLease>, lost: CancellationToken) {
    let _ends = lost.clone().drop_guard();
    if let Some(loss) = lost
        .run_until_cancelled(renew_until_lost(&calls, &held))
        .await
    {
        let (name, me) = (&calls.writer.name, &calls.writer.identity);
        warn!(lease = name, holder = %me, ?loss, "lost the lease; stopping work");
    }
}

async fn renew_until_lost(calls: &LeaseClient, held: &watch::Sender<HeldLease>) -> Loss {
    let mut lease = held.borrow().lease.clone();
    let mut next = Instant::now() + calls.timing.renewal_with_jitter(rand::random());
    loop {
        sleep_until(next).await;
        // Counted from before the call: one that took its whole time is tried again at once.
        let sent = Instant::now();
        next = sent + calls.timing.with_jitter(rand::random());
        let error = match calls.acquire_or_renew(Some(&lease)).await {
            Ok(renewed) => {
                next = sent + calls.timing.renewal_with_jitter(rand::random());
                lease = renewed.lease.clone();
                held.send_replace(renewed);
                continue;
            }
            Err(StoreError::Conflict | StoreError::Missing) => {
                let until = held.borrow().deadline;
                match look(calls, until).await {
                    Ok(Ok(now)) => {
                        lease = now;
                        next = Instant::now() + CONFLICT_RETRY_DELAY;
                        continue;
                    }
                    Ok(Err(loss)) => return loss,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let name = &calls.writer.name;
        warn!(
            lease = name,
            error = &error as &dyn std::error::Error,
            "could not renew the lease"
        );
    }
}

/// Looks at a Lease that could not be renewed as it was known. It is ours still when somebody
/// else wrote to it, or when a renewal without an answer succeeded.
async fn look(calls: &LeaseClient, until: Instant) -> Result<Result<Lease, Loss>, StoreError> {
    let lease = calls.get().await?;
    let now = Instant::now();
    let mut observed = Observed::default();
    observed.note(lease.as_ref().map(read_record), now);
    Ok(
        match holding(&calls.writer.identity, &observed, now, until) {
            Holding::Renew => lease.ok_or(Loss::Deleted),
            Holding::Lost(loss) => Err(loss),
        },
    )
}
