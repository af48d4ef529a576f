//! Driver of the state machine: one task that executes its commands and waits for all inputs at
//! once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::{self, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::deadline::RenewDeadline;
use super::lease_cache::{CallResult, LeaseCache, error_chain};
use super::names::{MemberId, ShardId};
use super::shard_lease::{ShardLease, ShardLeaseHandle};
use super::state_machine::{Command, Config, Input, MembershipState, WatchError};
use super::{MembershipConfig, MembershipStatus};
use crate::lease::store::{LeaseEvent, LeaseEvents, LeaseStore, StoreError};
use crate::lease::timing::Timing;

/// Takes part in the fleet until `stop` is cancelled, and grants a [`ShardLease`] for each shard
/// that this process acquires. `shards` holds the number of shards, at least one; `status` receives
/// each change of the membership's status.
///
/// When `stop` is cancelled, or the receiver of the shard leases is dropped, the release of all
/// shard leases is requested. Returns once they have been dropped, for which the caller sets a
/// limit, and their Leases have been released, which takes two retry periods at most. Must be
/// awaited to its end: dropping the future revokes all shard leases at once and leaves the Leases
/// to expire.
pub async fn join(
    config: MembershipConfig,
    shards: watch::Receiver<u16>,
    shard_leases: mpsc::Sender<ShardLease>,
    status: watch::Sender<MembershipStatus>,
    stop: CancellationToken,
) {
    let now = Instant::now();
    let state_config = Config {
        pod: config.pod.as_str().into(),
        uid: config.uid.clone(),
        timing: config.timing,
        known_dead: config.known_dead.clone(),
        random: Box::new(rand::random),
    };
    let shard_count = *shards.borrow();
    let driver = Driver {
        state: MembershipState::new(state_config, shard_count, now),
        timing: config.timing,
        listener: config.listener.clone(),
        store: config.store.clone(),
        cache: LeaseCache::new(config),
        requests: FuturesUnordered::new(),
        sync: None,
        events: None,
        deadline: None,
        handles: BTreeMap::new(),
        drops: FuturesUnordered::new(),
        undelivered: VecDeque::new(),
        status,
        reported: ReportedOutage::Clear,
    };
    driver.run(shards, shard_leases, stop).await;
}

/// Outcome of a list request or of opening a watch.
enum SyncOutcome {
    List(Result<(Vec<Lease>, String), StoreError>),
    Watch(Result<LeaseEvents, StoreError>),
}

/// Outage that was logged last.
#[derive(PartialEq)]
enum ReportedOutage {
    Clear,
    Failing,
    Forbidden,
}

/// State of the driver task.
struct Driver {
    state: MembershipState,
    timing: Timing,
    listener: String,
    store: Arc<dyn LeaseStore>,
    cache: LeaseCache,
    requests: FuturesUnordered<BoxFuture<'static, CallResult>>,
    sync: Option<BoxFuture<'static, SyncOutcome>>,
    events: Option<LeaseEvents>,
    deadline: Option<RenewDeadline>,
    handles: BTreeMap<ShardId, ShardLeaseHandle>,
    drops: FuturesUnordered<BoxFuture<'static, ShardId>>,
    /// Granted shard leases that the caller has not received yet.
    undelivered: VecDeque<ShardLease>,
    status: watch::Sender<MembershipStatus>,
    reported: ReportedOutage,
}

impl Driver {
    /// Runs until the state machine has finished.
    async fn run(
        mut self,
        mut shards: watch::Receiver<u16>,
        shard_leases: mpsc::Sender<ShardLease>,
        stop: CancellationToken,
    ) {
        let (mut stopping, mut shards_open) = (false, true);
        let mut input = Input::Tick;
        loop {
            if self.handle(input) {
                return;
            }
            let wake = self.state.next_wake();
            let lost = self.deadline.as_ref().map(|deadline| deadline.lost.clone());
            input = tokio::select! {
                biased;
                () = cancelled(lost) => Input::Expired,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Input::Stop
                }
                () = shard_leases.closed(), if !stopping => {
                    stopping = true;
                    self.undelivered.clear();
                    Input::Stop
                }
                Some(shard_id) = self.drops.next() => {
                    self.handles.remove(&shard_id);
                    Input::ShardDropped(shard_id)
                }
                permit = shard_leases.reserve(), if !self.undelivered.is_empty() => {
                    if let (Ok(permit), Some(shard_lease)) = (permit, self.undelivered.pop_front()) {
                        permit.send(shard_lease);
                    }
                    Input::Tick
                }
                changed = shards.changed(), if shards_open => {
                    shards_open = changed.is_ok();
                    Input::ShardCount(*shards.borrow_and_update())
                }
                Some(response) = self.requests.next() => self.cache.on_response(response),
                outcome = next_outcome(&mut self.sync) => {
                    self.sync = None;
                    self.on_synced(outcome)
                }
                event = next_event(&mut self.events) => self.on_event(event),
                () = sleep_until(wake) => Input::Tick,
            };
        }
    }
    /// Executes the commands that follow from an input. Returns whether the membership has
    /// finished.
    fn handle(&mut self, input: Input) -> bool {
        let mut finished = false;
        for command in self.state.handle(input, Instant::now()) {
            match command {
                Command::List => {
                    self.events = None;
                    self.sync = Some(start_list(self.store.clone(), self.timing));
                }
                Command::Watch(version) => {
                    self.events = None;
                    self.sync = Some(start_watch(self.store.clone(), version, self.timing));
                }
                Command::SetDeadline(identity, until) => self.extend_deadline(identity, until),
                Command::RevokeAll(reason) => self.revoke_all(reason),
                Command::Grant(shard_id) => self.grant(shard_id),
                Command::RequestRelease(shard_id) => {
                    if let Some(handle) = self.handles.get(&shard_id) {
                        handle.release_requested.cancel();
                    }
                }
                Command::Revoke(shard_id) => {
                    if let Some(handle) = self.handles.get(&shard_id) {
                        let (listener, shard) = (&self.listener, shard_id.shard);
                        warn!(listener, shard, "shard lease lost");
                        handle.lost.cancel();
                    }
                }
                Command::Finished(all) => {
                    finished = true;
                    self.log_finished(all);
                }
                call => self.requests.extend(self.cache.execute(call)),
            }
        }
        // Leases that ended before the caller received them need not be delivered.
        self.undelivered.retain(|shard_lease| {
            !shard_lease.lost().is_cancelled() && !shard_lease.release_requested().is_cancelled()
        });
        if self.state.take_status_changed() {
            self.publish_status();
        }
        finished
    }

    /// Extends the deadline of the membership, or starts one for a new identity.
    fn extend_deadline(&mut self, identity: MemberId, until: Instant) {
        match &self.deadline {
            Some(deadline) if deadline.identity == identity => deadline.extend(until),
            _ => {
                info!(listener = self.listener, member = %identity, "joined the fleet");
                self.deadline = Some(RenewDeadline::start(identity, until));
            }
        }
    }

    /// Ends the membership and all shard leases.
    fn revoke_all(&mut self, reason: &str) {
        if let Some(deadline) = self.deadline.take() {
            deadline.lost.cancel();
            let (listener, identity) = (&self.listener, &deadline.identity);
            if self.handles.is_empty() {
                debug!(listener, member = %identity, reason, "membership ended");
            } else {
                warn!(listener, member = %identity, reason, "membership lost; revoking its shard leases");
            }
        }
    }

    /// Hands a shard lease to the caller, as soon as it has room for it.
    fn grant(&mut self, shard_id: ShardId) {
        let Some(deadline) = &self.deadline else {
            return;
        };
        let (listener, ShardId { shard_count, shard }) = (&self.listener, shard_id);
        debug!(listener, shard, shard_count, member = %deadline.identity, "shard lease acquired");
        let (shard_lease, handle, dropped) =
            ShardLease::new(shard_id, deadline.identity.clone(), &deadline.lost);
        self.handles.insert(shard_id, handle);
        self.drops.push(dropped.map(move |_| shard_id).boxed());
        self.undelivered.push_back(shard_lease);
    }

    /// Converts the outcome of a list or watch request into an input.
    fn on_synced(&mut self, outcome: SyncOutcome) -> Input {
        match outcome {
            SyncOutcome::List(Ok((leases, version))) => match version.parse() {
                Ok(version) => Input::Listed(self.cache.replace_all(leases), version),
                Err(_) => Input::ListFailed(WatchError::Failed(
                    "the resource version of the lease list is not a number".to_owned(),
                )),
            },
            SyncOutcome::List(Err(error)) => Input::ListFailed(watch_error(&error)),
            SyncOutcome::Watch(Ok(events)) => {
                self.events = Some(events);
                Input::WatchOpened
            }
            SyncOutcome::Watch(Err(error)) => Input::WatchEnded(Some(watch_error(&error))),
        }
    }

    /// Converts a watch event, or the end of the watch, into an input.
    fn on_event(&mut self, event: Option<Result<LeaseEvent, StoreError>>) -> Input {
        match event {
            Some(Ok(LeaseEvent::Applied(lease))) => match self.cache.upsert(lease) {
                Some((key, state)) => Input::LeaseChanged(key, state),
                None => Input::Tick,
            },
            Some(Ok(LeaseEvent::Deleted(name))) => Input::LeaseDeleted(self.cache.remove(&name)),
            Some(Err(error)) => {
                self.events = None;
                Input::WatchEnded(Some(watch_error(&error)))
            }
            None => {
                self.events = None;
                Input::WatchEnded(None)
            }
        }
    }

    /// Publishes the status if it has changed.
    fn publish_status(&mut self) {
        self.log_outage();
        let (members, shards) = self.state.assignments();
        let outage = self.state.outage().map(|outage| {
            let since = Instant::now().saturating_duration_since(outage.since);
            let since = Timestamp::try_from(SystemTime::now() - since).unwrap_or_default();
            format!("since {since:.0}: {}", outage.reason)
        });
        let now = MembershipStatus {
            identity: self.state.identity().map(ToString::to_string),
            members,
            shard_count: self.state.shard_count(),
            shards,
            outage,
        };
        self.status.send_if_modified(|before| {
            // The start of the outage is recomputed each time, and may differ in its last digit.
            let same = before.outage.is_some() == now.outage.is_some();
            let changed = MembershipStatus {
                outage: before.outage.clone(),
                ..now.clone()
            } != *before;
            if changed || !same {
                *before = now;
            }
            changed || !same
        });
    }

    /// Logs each outage once, and its end once.
    fn log_outage(&mut self) {
        let listener = &self.listener;
        let now = match (self.state.outage(), self.state.is_forbidden()) {
            (None, _) => ReportedOutage::Clear,
            (Some(_), true) => ReportedOutage::Forbidden,
            (Some(_), false) => ReportedOutage::Failing,
        };
        if now == self.reported {
            return;
        }
        match self.state.outage() {
            None => info!(listener, "lease store reachable again"),
            Some(outage) => {
                let error = &outage.reason;
                warn!(listener, error, "lease store unreachable; retrying");
            }
        }
        self.reported = now;
    }

    /// Logs the end of the membership.
    fn log_finished(&self, all: bool) {
        let listener = &self.listener;
        if all {
            info!(listener, "left the fleet; all leases released");
        } else {
            warn!(
                listener,
                "left the fleet without releasing all leases; others must wait until they expire"
            );
        }
    }
}

/// Starts a list request with a timeout.
fn start_list(store: Arc<dyn LeaseStore>, timing: Timing) -> BoxFuture<'static, SyncOutcome> {
    let call = async move {
        let result = timeout(timing.retry_period(), store.list()).await;
        SyncOutcome::List(result.unwrap_or(Err(StoreError::Timeout)))
    };
    call.boxed()
}

/// Opens a watch with a timeout.
fn start_watch(
    store: Arc<dyn LeaseStore>,
    version: u64,
    timing: Timing,
) -> BoxFuture<'static, SyncOutcome> {
    let call = async move {
        let version = version.to_string();
        let result = timeout(timing.retry_period(), store.watch_all(&version)).await;
        SyncOutcome::Watch(result.unwrap_or(Err(StoreError::Timeout)))
    };
    call.boxed()
}

/// Maps a store error to what the state machine needs to know.
fn watch_error(error: &StoreError) -> WatchError {
    match error {
        StoreError::Expired => WatchError::Expired,
        StoreError::Forbidden(_) => WatchError::Forbidden(error_chain(error)),
        error => WatchError::Failed(error_chain(error)),
    }
}

/// Waits for the cancellation of a token; forever if there is none.
async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => future::pending().await,
    }
}

/// Waits for the request in progress; forever if there is none.
async fn next_outcome(sync: &mut Option<BoxFuture<'static, SyncOutcome>>) -> SyncOutcome {
    match sync {
        Some(sync) => sync.await,
        None => future::pending().await,
    }
}

/// Waits for the next watch event; forever if there is no watch.
async fn next_event(events: &mut Option<LeaseEvents>) -> Option<Result<LeaseEvent, StoreError>> {
    match events {
        Some(events) => events.next().await,
        None => future::pending().await,
    }
}
