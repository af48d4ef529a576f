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

use crate::decide::{Observed, StandingBy, standing_by};
use crate::leadership::Leadership;
use crate::lease::Identity;
use crate::lease::client::{CONFLICT_RETRY_DELAY, HeldLease, LeaseClient};
use crate::lease::record::{LeaseWriter, read_record};
use crate::lease::store::{KubeLeaseStore, LeaseStore, LeaseWatch, StoreError};
use crate::lease::timing::Timing;

/// One process's candidacy for one Lease.
#[derive(Debug)]
pub struct Elector {
    calls: LeaseClient,
    observed: Observed,
    /// Ends the leadership that this elector gave last: a process has one at a time.
    latest: CancellationToken,
    /// Whether the holder is to be followed rather than looked at now and then.
    follows: bool,
    /// Whether a claim was sent that was not answered and may have succeeded.
    doubtful: bool,
    /// Whether the API server did not answer last time, which was said then.
    failing: bool,
    /// The holder that was last told of.
    told: Option<String>,
}

/// How a round of standing by ended.
enum Round {
    Held(Box<HeldLease>),
    Stopped,
    /// To be begun anew, after a pause.
    Again(Duration),
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
        Self::over(store, name.into(), identity, timing, labels)
    }

    /// Has the Lease go when its owners are deleted.
    #[must_use]
    pub fn owned_by(mut self, owners: Vec<OwnerReference>) -> Self {
        Arc::make_mut(&mut self.calls.writer).owners = owners;
        self
    }

    pub(crate) fn over(
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
            calls: LeaseClient {
                store,
                writer: Arc::new(writer),
                timing,
            },
            observed: Observed::default(),
            latest: CancellationToken::new(),
            follows: true,
            doubtful: false,
            failing: false,
            told: None,
        }
    }

    /// Waits until this process holds the Lease, or until `stop` is cancelled. Ends the
    /// leadership that this elector gave before, if that has not ended.
    ///
    /// Must be awaited to its end: use `stop` rather than dropping it, lest a Lease that was
    /// just taken stays in the hands of nobody until it expires.
    pub async fn acquire(&mut self, stop: &CancellationToken) -> Option<Leadership> {
        self.latest.cancel();
        (self.follows, self.doubtful) = (true, false);
        loop {
            let pause = match self.stand_by(stop).await {
                Round::Held(held) if stop.is_cancelled() => {
                    self.calls.release(Some(held.lease)).await;
                    return None;
                }
                Round::Held(held) => {
                    let leadership = Leadership::begin(self.calls.clone(), *held);
                    self.latest = leadership.lost().clone();
                    return Some(leadership);
                }
                Round::Stopped => break,
                Round::Again(pause) => pause,
            };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
        }
        if self.doubtful {
            self.calls.release(None).await;
        }
        None
    }

    /// Looks at the Lease, and follows it until it can be claimed or must be looked at anew.
    async fn stand_by(&mut self, stop: &CancellationToken) -> Round {
        let mut lease = match stop.run_until_cancelled(self.calls.get()).await {
            None => return Round::Stopped,
            Some(Err(error)) => return self.failed(&error),
            Some(Ok(lease)) => lease,
        };
        self.failing = false;
        let mut changes: Option<LeaseWatch> = None;
        loop {
            let now = Instant::now();
            self.observed.note(lease.as_ref().map(read_record), now);
            let (me, timing) = (&self.calls.writer.identity, &self.calls.timing);
            let until = match standing_by(me, &self.observed, now, timing) {
                StandingBy::Claim if stop.is_cancelled() => return Round::Stopped,
                StandingBy::Claim => return self.claim(lease.as_ref()).await,
                StandingBy::Wait(until) => until,
            };
            self.tell(lease.as_ref());
            if changes.is_none() {
                changes = self.follow(lease.as_ref()).await;
            }
            // A watch that has silently died is found out at the latest when the record that
            // was seen last would have expired.
            let wake = match changes {
                Some(_) => until,
                None => until.min(Instant::now() + self.spread()),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Round::Stopped,
                change = next(&mut changes) => match change {
                    Some(Ok(now)) => lease = now,
                    Some(Err(error)) => return self.failed(&error),
                    None => return Round::Again(self.spread()),
                },
                () = sleep_until(wake) => return Round::Again(Duration::ZERO),
            }
        }
    }

    async fn claim(&mut self, seen: Option<&Lease>) -> Round {
        // Not given up when `stop` comes: a claim that was sent may succeed.
        match self.calls.acquire_or_renew(seen).await {
            Ok(held) => {
                self.observed
                    .note(Some(read_record(&held.lease)), Instant::now());
                self.told = None;
                Round::Held(Box::new(held))
            }
            Err(StoreError::Conflict | StoreError::Missing) => Round::Again(CONFLICT_RETRY_DELAY),
            Err(error) => {
                self.doubtful = true;
                self.failed(&error)
            }
        }
    }

    /// The changes of the Lease from what was seen on, where they can be had.
    async fn follow(&mut self, seen: Option<&Lease>) -> Option<LeaseWatch> {
        let seen = seen.filter(|_| self.follows)?;
        match self.calls.watch(seen).await {
            Ok(changes) => Some(changes),
            Err(error) => {
                let name = &self.calls.writer.name;
                let forbidden = matches!(error, StoreError::Forbidden(_));
                let error = &error as &dyn std::error::Error;
                if forbidden {
                    self.follows = false;
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
    fn tell(&mut self, lease: Option<&Lease>) {
        let holder = lease.and_then(|lease| read_record(lease).holder);
        if holder != self.told {
            let (name, me) = (&self.calls.writer.name, &self.calls.writer.identity);
            let by = holder.as_deref().unwrap_or("nobody, since it was deleted");
            info!(lease = name, candidate = %me, holder = by, "standing by");
            self.told = holder;
        }
    }

    /// Says once that the API server fails, and has it asked again later.
    fn failed(&mut self, error: &StoreError) -> Round {
        let name = &self.calls.writer.name;
        let error = error as &dyn std::error::Error;
        if self.failing {
            debug!(lease = name, error, "still cannot reach the lease");
        } else {
            warn!(lease = name, error, "cannot reach the lease; trying again");
        }
        self.failing = true;
        Round::Again(self.spread())
    }

    fn spread(&self) -> Duration {
        self.calls.timing.with_jitter(rand::random())
    }
}

/// The next change; never comes where there is nothing to follow.
async fn next(changes: &mut Option<LeaseWatch>) -> Option<Result<Option<Lease>, StoreError>> {
    match changes {
        Some(changes) => changes.next().await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests;
