//! Carries out what the core asks for, in one task that waits for everything at once.

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

/// Takes part in the fleet until `stop` is cancelled, and hands out a [`ShardLease`] for each shard
/// that becomes this process's. `shards` says how many there are to be, at least one; `status`
/// says what is known.
///
/// When `stop` comes, or nobody receives the holds any more, all holds are asked to leave. Ends
/// once they have been dropped, for which the caller sets a limit, and what they stood for has
/// been given up, which takes two retry periods at most. Must be awaited to its end: dropping it
/// loses all holds at once and leaves the Leases to expire.
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

/// What came of asking for all Leases, or for their changes.
enum SyncOutcome {
    List(Result<(Vec<Lease>, String), StoreError>),
    Watch(Result<LeaseEvents, StoreError>),
}

/// What was said last about what goes wrong.
#[derive(PartialEq)]
enum ReportedOutage {
    Clear,
    Failing,
    Forbidden,
}

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
    /// Holds that the caller has not taken yet.
    undelivered: VecDeque<ShardLease>,
    status: watch::Sender<MembershipStatus>,
    reported: ReportedOutage,
}

impl Driver {
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
    /// Whether all is done.
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
                        warn!(listener, shard, "the shard's lease is not ours any more");
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
        // The caller need not hear of what has ended before it was handed out.
        self.undelivered.retain(|shard_lease| {
            !shard_lease.lost().is_cancelled() && !shard_lease.release_requested().is_cancelled()
        });
        if self.state.take_status_changed() {
            self.publish_status();
        }
        finished
    }

    fn extend_deadline(&mut self, identity: MemberId, until: Instant) {
        match &self.deadline {
            Some(deadline) if deadline.identity == identity => deadline.extend(until),
            _ => {
                info!(listener = self.listener, member = %identity, "taking part");
                self.deadline = Some(RenewDeadline::start(identity, until));
            }
        }
    }

    fn revoke_all(&mut self, reason: &str) {
        if let Some(deadline) = self.deadline.take() {
            deadline.lost.cancel();
            let (listener, identity) = (&self.listener, &deadline.identity);
            if self.handles.is_empty() {
                debug!(listener, member = %identity, reason, "no member under this identity any more");
            } else {
                warn!(listener, member = %identity, reason, "lost the lease of this member; stopping its work");
            }
        }
    }

    fn grant(&mut self, shard_id: ShardId) {
        let Some(deadline) = &self.deadline else {
            return;
        };
        let (listener, ShardId { shard_count, shard }) = (&self.listener, shard_id);
        debug!(listener, shard, shard_count, member = %deadline.identity, "holding the shard");
        let (shard_lease, handle, dropped) =
            ShardLease::new(shard_id, deadline.identity.clone(), &deadline.lost);
        self.handles.insert(shard_id, handle);
        self.drops.push(dropped.map(move |_| shard_id).boxed());
        self.undelivered.push_back(shard_lease);
    }

    fn on_synced(&mut self, outcome: SyncOutcome) -> Input {
        match outcome {
            SyncOutcome::List(Ok((leases, version))) => match version.parse() {
                Ok(version) => Input::Listed(self.cache.replace_all(leases), version),
                Err(_) => Input::ListFailed(WatchError::Failed(
                    "the version of the list of leases is not a number".to_owned(),
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

    /// Tells what is known, where that is news.
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
            // The moment is worked out anew each time, and may differ in its last digit.
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

    /// Says once what goes wrong, and once more when it has come right.
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
            None => info!(listener, "the leases can be reached again"),
            Some(outage) => {
                let error = &outage.reason;
                warn!(listener, error, "cannot reach the leases; trying again");
            }
        }
        self.reported = now;
    }

    fn log_finished(&self, all: bool) {
        let listener = &self.listener;
        if all {
            info!(listener, "takes part no more; all was given up");
        } else {
            warn!(
                listener,
                "could not give all up; others must wait until it expires"
            );
        }
    }
}

fn start_list(store: Arc<dyn LeaseStore>, timing: Timing) -> BoxFuture<'static, SyncOutcome> {
    let call = async move {
        let result = timeout(timing.retry_period(), store.list()).await;
        SyncOutcome::List(result.unwrap_or(Err(StoreError::Timeout)))
    };
    call.boxed()
}

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

fn watch_error(error: &StoreError) -> WatchError {
    match error {
        StoreError::Expired => WatchError::Expired,
        StoreError::Forbidden(_) => WatchError::Forbidden(error_chain(error)),
        error => WatchError::Failed(error_chain(error)),
    }
}

async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => future::pending().await,
    }
}

async fn next_outcome(sync: &mut Option<BoxFuture<'static, SyncOutcome>>) -> SyncOutcome {
    match sync {
        Some(sync) => sync.await,
        None => future::pending().await,
    }
}

async fn next_event(events: &mut Option<LeaseEvents>) -> Option<Result<LeaseEvent, StoreError>> {
    match events {
        Some(events) => events.next().await,
        None => future::pending().await,
    }
}
