//! Waiting for a Lease and taking it. While it stands by, a process follows the changes of the
//! Lease, so that one that is given up is taken at once; where it may not watch, it looks again
//! each retry period.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, future};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::election::decision::{CandidateAction, ObservedLease, decide_as_candidate};
use crate::election::leadership::Leadership;
use crate::lease::Identity;
use crate::lease::client::{CONFLICT_RETRY_DELAY, HeldLease, LeaseClient};
use crate::lease::record::{LeaseWriter, read_record};
use crate::lease::store::{KubeLeaseStore, LeaseStore, LeaseWatch, StoreError};
use crate::lease::timing::Timing;

/// One process's candidacy for one Lease.
#[derive(Debug)]
pub struct Elector {
    client: LeaseClient,
    observed: ObservedLease,
    /// Ends the leadership that this elector gave last: a process has one at a time.
    current: CancellationToken,
    /// Whether the holder is to be followed rather than looked at now and then.
    can_watch: bool,
    /// Whether a claim was sent that was not answered and may have succeeded.
    unconfirmed_claim: bool,
    /// Whether the API server did not answer last time, which was said then.
    store_failing: bool,
    /// The holder that was last told of.
    logged_holder: Option<String>,
}

/// How a round of standing by ended.
enum StandbyRound {
    Acquired(Box<HeldLease>),
    Stopped,
    /// To be begun anew, after a pause.
    Retry(Duration),
}

impl Elector {
    /// A candidacy for the Lease `name`, which is made with `labels` when it is missing.
    ///
    /// `api` should have a client that does not retry by itself (`default_retry` of
    /// [`kube::Config`] set to false, which is not its default). Retries within a client are
    /// harmless, as each call is bounded and guarded, but they use up the time in which this
    /// crate would try again with what it has learned.
    #[must_use]
    pub fn new(
        api: Api<Lease>,
        name: impl Into<String>,
        identity: Identity,
        timing: Timing,
        labels: BTreeMap<String, String>,
    ) -> Self {
        let store = Arc::new(KubeLeaseStore::new(api, ""));
        Self::with_store(store, name.into(), identity, timing, labels)
    }

    /// Has the Lease go when its owners are deleted.
    #[must_use]
    pub fn owned_by(mut self, owners: Vec<OwnerReference>) -> Self {
        Arc::make_mut(&mut self.client.writer).owners = owners;
        self
    }

    pub(crate) fn with_store(
        store: Arc<dyn LeaseStore>,
        name: String,
        me: Identity,
        timing: Timing,
        labels: BTreeMap<String, String>,
    ) -> Self {
        let writer = LeaseWriter {
            name,
            identity: me,
            duration: timing.duration(),
            labels,
            owners: Vec::new(),
        };
        Self {
            client: LeaseClient {
                store,
                writer: Arc::new(writer),
                timing,
            },
            observed: ObservedLease::default(),
            current: CancellationToken::new(),
            can_watch: true,
            unconfirmed_claim: false,
            store_failing: false,
            logged_holder: None,
        }
    }

    /// Waits until this process holds the Lease, or until `stop` is cancelled. Ends the
    /// leadership that this elector gave before, if that has not ended.
    ///
    /// Must be awaited to its end: use `stop` rather than dropping it, lest a Lease that was
    /// just taken stays in the hands of nobody until it expires.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> Option<Leadership> {
        self.current.cancel();
        (self.can_watch, self.unconfirmed_claim) = (true, false);
        loop {
            let delay = match self.wait_for_lease(stop).await {
                StandbyRound::Acquired(held) if stop.is_cancelled() => {
                    self.client.release(Some(held.lease)).await;
                    return None;
                }
                StandbyRound::Acquired(held) => {
                    let leadership = Leadership::start(self.client.clone(), *held);
                    self.current = leadership.lost().clone();
                    return Some(leadership);
                }
                StandbyRound::Stopped => break,
                StandbyRound::Retry(delay) => delay,
            };
            if stop.run_until_cancelled(sleep(delay)).await.is_none() {
                break;
            }
        }
        if self.unconfirmed_claim {
            self.client.release(None).await;
        }
        None
    }

    /// Looks at the Lease, and follows it until it can be claimed or must be looked at anew.
    async fn wait_for_lease(&mut self, stop: &CancellationToken) -> StandbyRound {
        let mut lease = match stop.run_until_cancelled(self.client.get()).await {
            None => return StandbyRound::Stopped,
            Some(Err(error)) => return self.report_failure(&error),
            Some(Ok(lease)) => lease,
        };
        self.store_failing = false;
        let mut watch: Option<LeaseWatch> = None;
        loop {
            let now = Instant::now();
            self.observed.observe(lease.as_ref().map(read_record), now);
            let (me, timing) = (&self.client.writer.identity, &self.client.timing);
            let wait_until = match decide_as_candidate(me, &self.observed, now, timing) {
                CandidateAction::Claim if stop.is_cancelled() => return StandbyRound::Stopped,
                CandidateAction::Claim => return self.try_claim(lease.as_ref()).await,
                CandidateAction::Wait(until) => until,
            };
            self.log_new_leader(lease.as_ref());
            if watch.is_none() {
                watch = self.start_watch(lease.as_ref()).await;
            }
            // A watch that has silently died is found out at the latest when the record that
            // was seen last would have expired.
            let wake = match watch {
                Some(_) => wait_until,
                None => wait_until.min(Instant::now() + self.jittered_retry()),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return StandbyRound::Stopped,
                event = next_event(&mut watch) => match event {
                    Some(Ok(current)) => lease = current,
                    Some(Err(error)) => return self.report_failure(&error),
                    None => return StandbyRound::Retry(self.jittered_retry()),
                },
                () = sleep_until(wake) => return StandbyRound::Retry(Duration::ZERO),
            }
        }
    }

    async fn try_claim(&mut self, seen: Option<&Lease>) -> StandbyRound {
        // Not given up when `stop` comes: a claim that was sent may succeed.
        match self.client.acquire_or_renew(seen).await {
            Ok(held) => {
                self.observed
                    .observe(Some(read_record(&held.lease)), Instant::now());
                self.logged_holder = None;
                StandbyRound::Acquired(Box::new(held))
            }
            Err(StoreError::Conflict | StoreError::Missing) => {
                StandbyRound::Retry(CONFLICT_RETRY_DELAY)
            }
            Err(error) => {
                self.unconfirmed_claim = true;
                self.report_failure(&error)
            }
        }
    }

    /// The changes of the Lease from what was seen on, where they can be had.
    async fn start_watch(&mut self, seen: Option<&Lease>) -> Option<LeaseWatch> {
        let seen = seen.filter(|_| self.can_watch)?;
        match self.client.watch(seen).await {
            Ok(watch) => Some(watch),
            Err(error) => {
                let name = &self.client.writer.name;
                let forbidden = matches!(error, StoreError::Forbidden(_));
                let error = &error as &dyn std::error::Error;
                if forbidden {
                    self.can_watch = false;
                    info!(
                        lease = name,
                        error, "may not watch the lease; looking now and then"
                    );
                } else {
                    debug!(lease = name, error, "could not watch the lease");
                }
                None
            }
        }
    }

    /// Says who holds the Lease, when that is news.
    fn log_new_leader(&mut self, lease: Option<&Lease>) {
        let holder = lease.and_then(|lease| read_record(lease).holder);
        if holder != self.logged_holder {
            let (name, me) = (&self.client.writer.name, &self.client.writer.identity);
            let by = holder.as_deref().unwrap_or("nobody, since it was deleted");
            info!(lease = name, candidate = %me, holder = by, "standing by");
            self.logged_holder = holder;
        }
    }

    /// Says once that the API server fails, and has it asked again later.
    fn report_failure(&mut self, error: &StoreError) -> StandbyRound {
        let name = &self.client.writer.name;
        let error = error as &dyn std::error::Error;
        if self.store_failing {
            debug!(lease = name, error, "still cannot reach the lease");
        } else {
            warn!(lease = name, error, "cannot reach the lease; trying again");
        }
        self.store_failing = true;
        StandbyRound::Retry(self.jittered_retry())
    }

    fn jittered_retry(&self) -> Duration {
        self.client.timing.with_jitter(rand::random())
    }
}

/// The next change; never comes where there is nothing to follow.
async fn next_event(watch: &mut Option<LeaseWatch>) -> Option<Result<Option<Lease>, StoreError>> {
    match watch {
        Some(watch) => watch.next().await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests;
