//! Holding a Lease: one task renews it, another enforces the deadline, and the end of either task
//! ends the leadership.

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::election::decision::{HolderAction, LossReason, ObservedLease, decide_as_holder};
use crate::lease::client::{CONFLICT_RETRY_DELAY, HeldLease, LeaseClient};
use crate::lease::record::read_record;
use crate::lease::store::StoreError;

/// Leadership that lasts until [`Leadership::lost`] is cancelled.
///
/// Dropping it stops the renewals at once and leaves the Lease to expire; [`Leadership::release`]
/// hands it over.
#[derive(Debug)]
#[must_use = "dropping it ends the leadership"]
pub struct Leadership {
    client: LeaseClient,
    lost: CancellationToken,
    held: watch::Receiver<HeldLease>,
    _cancel_on_drop: DropGuard,
    _renewal_task: AbortOnDropHandle<()>,
    _deadline_task: AbortOnDropHandle<()>,
}

impl Leadership {
    /// Starts the renewal task and the deadline task.
    pub(crate) fn start(client: LeaseClient, held: HeldLease) -> Self {
        let (name, me) = (&client.writer.name, &client.writer.identity);
        info!(lease = name, holder = %me, "lease acquired");
        let lost = CancellationToken::new();
        let (renewed, held) = watch::channel(held);
        let renewal_task = tokio::spawn(run_renewals(client.clone(), renewed, lost.clone()));
        let deadline_task =
            tokio::spawn(enforce_deadline(client.clone(), held.clone(), lost.clone()));
        Self {
            client,
            _cancel_on_drop: lost.clone().drop_guard(),
            lost,
            held,
            _renewal_task: AbortOnDropHandle::new(renewal_task),
            _deadline_task: AbortOnDropHandle::new(deadline_task),
        }
    }

    /// Token that is cancelled when the leadership ends: at the deadline, by a timer that does not
    /// depend on the renewals, and as soon as the Lease is seen with another holder or deleted.
    /// Cancelling it ends the leadership.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Releases the Lease, so that another process can acquire it at once. Cancels
    /// [`Leadership::lost`] first; work that must not overlap with another leader's must have ended
    /// before. Takes two retry periods at most: if the API server cannot be reached, the Lease is
    /// left to expire.
    pub async fn release(self) {
        self.lost.cancel();
        // A renewal in flight carries the same version as the release, so one of the two is
        // rejected, and the release then reads the Lease again.
        let lease = self.held.borrow().lease.clone();
        self.client.release(Some(lease)).await;
    }
}

/// Ends the leadership at the deadline, or when the renewal task is gone.
async fn enforce_deadline(
    client: LeaseClient,
    mut held: watch::Receiver<HeldLease>,
    lost: CancellationToken,
) {
    let _cancel_on_drop = lost.clone().drop_guard();
    loop {
        let deadline = held.borrow_and_update().deadline;
        tokio::select! {
            biased;
            () = lost.cancelled() => return,
            renewed = held.changed() => if renewed.is_err() { return },
            () = sleep_until(deadline) => {
                let (name, me) = (&client.writer.name, &client.writer.identity);
                warn!(lease = name, holder = %me, "lease lost: renew deadline exceeded");
                return;
            }
        }
    }
}

/// Renews the Lease until the leadership has ended.
async fn run_renewals(
    client: LeaseClient,
    held: watch::Sender<HeldLease>,
    lost: CancellationToken,
) {
    let _cancel_on_drop = lost.clone().drop_guard();
    if let Some(reason) = lost
        .run_until_cancelled(renew_until_lost(&client, &held))
        .await
    {
        let (name, me) = (&client.writer.name, &client.writer.identity);
        warn!(lease = name, holder = %me, ?reason, "lease lost");
    }
}

/// Renews at each interval and returns why the Lease was lost.
async fn renew_until_lost(client: &LeaseClient, held: &watch::Sender<HeldLease>) -> LossReason {
    let mut lease = held.borrow().lease.clone();
    let mut next_renewal = Instant::now() + client.timing.renewal_with_jitter(rand::random());
    loop {
        sleep_until(next_renewal).await;
        // Counted from before the request: after one that timed out, the next follows at once.
        let sent = Instant::now();
        next_renewal = sent + client.timing.with_jitter(rand::random());
        let error = match client.acquire_or_renew(Some(&lease)).await {
            Ok(renewed) => {
                next_renewal = sent + client.timing.renewal_with_jitter(rand::random());
                lease = renewed.lease.clone();
                held.send_replace(renewed);
                continue;
            }
            Err(StoreError::Conflict | StoreError::Missing) => {
                let deadline = held.borrow().deadline;
                match recheck_lease(client, deadline).await {
                    Ok(Ok(current)) => {
                        lease = current;
                        next_renewal = Instant::now() + CONFLICT_RETRY_DELAY;
                        continue;
                    }
                    Ok(Err(reason)) => return reason,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let name = &client.writer.name;
        warn!(
            lease = name,
            error = &error as &dyn std::error::Error,
            "lease renewal failed; retrying"
        );
    }
}

/// Reads a Lease whose renewal was rejected. This process is still the holder if another program
/// has only edited it, or if a renewal without a response succeeded.
async fn recheck_lease(
    client: &LeaseClient,
    deadline: Instant,
) -> Result<Result<Lease, LossReason>, StoreError> {
    let lease = client.get().await?;
    let now = Instant::now();
    let mut observed = ObservedLease::default();
    observed.observe(lease.as_ref().map(read_record), now);
    Ok(
        match decide_as_holder(&client.writer.identity, &observed, now, deadline) {
            HolderAction::Renew => lease.ok_or(LossReason::Deleted),
            HolderAction::Stop(reason) => Err(reason),
        },
    )
}
