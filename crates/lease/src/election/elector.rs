//! Acquiring a Lease. On standby, a process watches the Lease, so that it acquires a released one
//! at once; if watching is forbidden, it polls once per retry period.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, future};
use k8s_openapi::api::coordination::v1::Lease;
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

/// Candidate for one Lease.
#[derive(Debug)]
pub struct Elector {
    client: LeaseClient,
    observed: ObservedLease,
    /// Cancels the previous leadership of this elector: a process has one at a time.
    current: CancellationToken,
    /// Whether to watch the Lease rather than poll it.
    can_watch: bool,
    /// Whether a claim got no response and may have succeeded.
    unconfirmed_claim: bool,
    /// Whether the last request failed, which was logged then.
    store_failing: bool,
    /// Holder that was logged last.
    logged_holder: Option<String>,
}

/// Outcome of one standby round.
enum StandbyRound {
    Acquired(Box<HeldLease>),
    Stopped,
    /// The next round starts after this delay.
    Retry(Duration),
}

impl Elector {
    /// Creates a candidate for the Lease `name`, which is created with `labels` if it is missing.
    ///
    /// `api` should have a client without retries of its own (`default_retry` of [`kube::Config`]
    /// set to false, which is not its default). Retries within a client are harmless, as each
    /// request is bounded and guarded, but they use up the time in which this crate would retry
    /// with what it has learned.
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

    /// Creates a candidate for a Lease in any store.
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

    /// Waits until this process holds the Lease, or until `stop` is cancelled. Ends the previous
    /// leadership of this elector, if it has not ended.
    ///
    /// Must be awaited to its end: use `stop` rather than dropping the future, or a Lease that was
    /// just acquired stays held until it expires.
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

    /// Reads the Lease, then watches it until it can be claimed or the next round is due.
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
            // A silently dead watch is detected at the latest when the record seen last would have
            // expired.
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

    /// Writes this process as the holder, over what was observed.
    async fn try_claim(&mut self, seen: Option<&Lease>) -> StandbyRound {
        // Not cancelled by `stop`: a claim that was sent may succeed.
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

    /// Starts a watch from the observed version on, if watching is permitted and works.
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
                        error, "watching the lease is forbidden; polling instead"
                    );
                } else {
                    debug!(lease = name, error, "lease watch failed; polling instead");
                }
                None
            }
        }
    }

    /// Logs the holder of the Lease whenever it has changed.
    fn log_new_leader(&mut self, lease: Option<&Lease>) {
        let holder = lease.and_then(|lease| read_record(lease).holder);
        if holder != self.logged_holder {
            let (name, me) = (&self.client.writer.name, &self.client.writer.identity);
            let by = holder.as_deref().unwrap_or("none (lease deleted)");
            info!(lease = name, candidate = %me, holder = by, "new leader observed; standing by");
            self.logged_holder = holder;
        }
    }

    /// Logs the first of several failures as a warning, and schedules a retry.
    fn report_failure(&mut self, error: &StoreError) -> StandbyRound {
        let name = &self.client.writer.name;
        let error = error as &dyn std::error::Error;
        if self.store_failing {
            debug!(lease = name, error, "lease request still failing");
        } else {
            warn!(lease = name, error, "lease request failed; retrying");
        }
        self.store_failing = true;
        StandbyRound::Retry(self.jittered_retry())
    }

    /// Returns a retry period with jitter.
    fn jittered_retry(&self) -> Duration {
        self.client.timing.with_jitter(rand::random())
    }
}

/// Waits for the next watch event; forever if there is no watch.
async fn next_event(watch: &mut Option<LeaseWatch>) -> Option<Result<Option<Lease>, StoreError>> {
    match watch {
        Some(watch) => watch.next().await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests;
