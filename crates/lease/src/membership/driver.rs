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

use super::core::{Action, Breach, Core, Event, Settings};
use super::deadline::RenewDeadline;
use super::lease_cache::{CallResult, LeaseCache, error_chain};
use super::names::{MemberId, ShardId};
use super::shard_lease::{ShardLease, ShardLeaseHandle};
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
    options: MembershipConfig,
    shards: watch::Receiver<u16>,
    holds: mpsc::Sender<ShardLease>,
    status: watch::Sender<MembershipStatus>,
    stop: CancellationToken,
) {
    let now = Instant::now();
    let settings = Settings {
        pod: options.pod.as_str().into(),
        uid: options.uid.clone(),
        timing: options.timing,
        known_dead: options.known_dead.clone(),
        random: Box::new(rand::random),
    };
    let wanted = *shards.borrow();
    let driver = Driver {
        core: Core::new(settings, wanted, now),
        timing: options.timing,
        listener: options.listener.clone(),
        store: options.store.clone(),
        book: LeaseCache::new(options),
        calls: FuturesUnordered::new(),
        opening: None,
        changes: None,
        membership: None,
        handles: BTreeMap::new(),
        drops: FuturesUnordered::new(),
        to_hand_out: VecDeque::new(),
        status,
        warned: Warned::Nothing,
    };
    driver.run(shards, holds, stop).await;
}

/// What came of asking for all Leases, or for their changes.
enum Opened {
    List(Result<(Vec<Lease>, String), StoreError>),
    Follow(Result<LeaseEvents, StoreError>),
}

/// What was said last about what goes wrong.
#[derive(PartialEq)]
enum Warned {
    Nothing,
    Failing,
    Forbidden,
}

struct Driver {
    core: Core,
    timing: Timing,
    listener: String,
    store: Arc<dyn LeaseStore>,
    book: LeaseCache,
    calls: FuturesUnordered<BoxFuture<'static, CallResult>>,
    opening: Option<BoxFuture<'static, Opened>>,
    changes: Option<LeaseEvents>,
    membership: Option<RenewDeadline>,
    handles: BTreeMap<ShardId, ShardLeaseHandle>,
    drops: FuturesUnordered<BoxFuture<'static, ShardId>>,
    /// Holds that the caller has not taken yet.
    to_hand_out: VecDeque<ShardLease>,
    status: watch::Sender<MembershipStatus>,
    warned: Warned,
}

impl Driver {
    async fn run(
        mut self,
        mut shards: watch::Receiver<u16>,
        holds: mpsc::Sender<ShardLease>,
        stop: CancellationToken,
    ) {
        let (mut stopping, mut may_change) = (false, true);
        let mut event = Event::Woken;
        loop {
            if self.handle(event) {
                return;
            }
            let wake = self.core.wake();
            let lost = self.membership.as_ref().map(|member| member.lost.clone());
            event = tokio::select! {
                biased;
                () = cancelled(lost) => Event::Expired,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Event::Stop
                }
                () = holds.closed(), if !stopping => {
                    stopping = true;
                    self.to_hand_out.clear();
                    Event::Stop
                }
                Some(shard_id) = self.drops.next() => {
                    self.handles.remove(&shard_id);
                    Event::Dropped(shard_id)
                }
                permit = holds.reserve(), if !self.to_hand_out.is_empty() => {
                    if let (Ok(permit), Some(hold)) = (permit, self.to_hand_out.pop_front()) {
                        permit.send(hold);
                    }
                    Event::Woken
                }
                changed = shards.changed(), if may_change => {
                    may_change = changed.is_ok();
                    Event::Wanted(*shards.borrow_and_update())
                }
                Some(answer) = self.calls.next() => self.book.on_response(answer),
                opened = next_opened(&mut self.opening) => {
                    self.opening = None;
                    self.opened(opened)
                }
                change = next_change(&mut self.changes) => self.changed(change),
                () = sleep_until(wake) => Event::Woken,
            };
        }
    }
    /// Whether all is done.
    fn handle(&mut self, event: Event) -> bool {
        let mut ended = false;
        for action in self.core.handle(event, Instant::now()) {
            match action {
                Action::List => {
                    self.changes = None;
                    self.opening = Some(list(self.store.clone(), self.timing));
                }
                Action::Follow(version) => {
                    self.changes = None;
                    self.opening = Some(follow(self.store.clone(), version, self.timing));
                }
                Action::Until(me, until) => self.prolong(me, until),
                Action::LoseAll(why) => self.lose_all(why),
                Action::Begin(shard_id) => self.begin(shard_id),
                Action::Leave(shard_id) => {
                    if let Some(handle) = self.handles.get(&shard_id) {
                        handle.release_requested.cancel();
                    }
                }
                Action::Lose(shard_id) => {
                    if let Some(handle) = self.handles.get(&shard_id) {
                        let (listener, shard) = (&self.listener, shard_id.shard);
                        warn!(listener, shard, "the shard's lease is not ours any more");
                        handle.lost.cancel();
                    }
                }
                Action::End(all) => {
                    ended = true;
                    self.say_end(all);
                }
                call => self.calls.extend(self.book.execute(call)),
            }
        }
        // The caller need not hear of what has ended before it was handed out.
        self.to_hand_out
            .retain(|hold| !hold.lost().is_cancelled() && !hold.release_requested().is_cancelled());
        if self.core.take_news() {
            self.tell();
        }
        ended
    }

    fn prolong(&mut self, me: MemberId, until: Instant) {
        match &self.membership {
            Some(member) if member.identity == me => member.extend(until),
            _ => {
                info!(listener = self.listener, member = %me, "taking part");
                self.membership = Some(RenewDeadline::start(me, until));
            }
        }
    }

    fn lose_all(&mut self, why: &str) {
        if let Some(member) = self.membership.take() {
            member.lost.cancel();
            let (listener, me) = (&self.listener, &member.identity);
            if self.handles.is_empty() {
                debug!(listener, member = %me, why, "no member under this identity any more");
            } else {
                warn!(listener, member = %me, why, "lost the lease of this member; stopping its work");
            }
        }
    }

    fn begin(&mut self, shard_id: ShardId) {
        let Some(member) = &self.membership else {
            return;
        };
        let (listener, ShardId { shard_count, shard }) = (&self.listener, shard_id);
        debug!(listener, shard, shard_count, member = %member.identity, "holding the shard");
        let (hold, handle, dropped) =
            ShardLease::new(shard_id, member.identity.clone(), &member.lost);
        self.handles.insert(shard_id, handle);
        self.drops.push(dropped.map(move |_| shard_id).boxed());
        self.to_hand_out.push_back(hold);
    }

    fn opened(&mut self, opened: Opened) -> Event {
        match opened {
            Opened::List(Ok((leases, version))) => match version.parse() {
                Ok(version) => Event::Listed(self.book.replace_all(leases), version),
                Err(_) => Event::NotListed(Breach::Failed(
                    "the version of the list of leases is not a number".to_owned(),
                )),
            },
            Opened::List(Err(error)) => Event::NotListed(breach(&error)),
            Opened::Follow(Ok(changes)) => {
                self.changes = Some(changes);
                Event::Following
            }
            Opened::Follow(Err(error)) => Event::Ended(Some(breach(&error))),
        }
    }

    fn changed(&mut self, change: Option<Result<LeaseEvent, StoreError>>) -> Event {
        match change {
            Some(Ok(LeaseEvent::Applied(lease))) => match self.book.upsert(lease) {
                Some((key, state)) => Event::Changed(key, state),
                None => Event::Woken,
            },
            Some(Ok(LeaseEvent::Deleted(key))) => Event::Gone(self.book.remove(&key)),
            Some(Err(error)) => {
                self.changes = None;
                Event::Ended(Some(breach(&error)))
            }
            None => {
                self.changes = None;
                Event::Ended(None)
            }
        }
    }

    /// Tells what is known, where that is news.
    fn tell(&mut self) {
        self.warn();
        let (members, shards) = self.core.seats();
        let outage = self.core.outage().map(|outage| {
            let since = Instant::now().saturating_duration_since(outage.since);
            let since = Timestamp::try_from(SystemTime::now() - since).unwrap_or_default();
            format!("since {since:.0}: {}", outage.why)
        });
        let now = MembershipStatus {
            identity: self.core.identity().map(ToString::to_string),
            members,
            shard_count: self.core.wanted(),
            shards,
            outage,
        };
        self.status.send_if_modified(|before| {
            // The moment is worked out anew each time, and may differ in its last digit.
            let same = before.outage.is_some() == now.outage.is_some();
            let news = MembershipStatus {
                outage: before.outage.clone(),
                ..now.clone()
            } != *before;
            if news || !same {
                *before = now;
            }
            news || !same
        });
    }

    /// Says once what goes wrong, and once more when it has come right.
    fn warn(&mut self) {
        let listener = &self.listener;
        let now = match (self.core.outage(), self.core.is_forbidden()) {
            (None, _) => Warned::Nothing,
            (Some(_), true) => Warned::Forbidden,
            (Some(_), false) => Warned::Failing,
        };
        if now == self.warned {
            return;
        }
        match self.core.outage() {
            None => info!(listener, "the leases can be reached again"),
            Some(outage) => {
                let error = &outage.why;
                warn!(listener, error, "cannot reach the leases; trying again");
            }
        }
        self.warned = now;
    }

    fn say_end(&self, all: bool) {
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

fn list(store: Arc<dyn LeaseStore>, timing: Timing) -> BoxFuture<'static, Opened> {
    let call = async move {
        let list = timeout(timing.retry_period(), store.list()).await;
        Opened::List(list.unwrap_or(Err(StoreError::Timeout)))
    };
    call.boxed()
}

fn follow(store: Arc<dyn LeaseStore>, version: u64, timing: Timing) -> BoxFuture<'static, Opened> {
    let call = async move {
        let version = version.to_string();
        let follow = timeout(timing.retry_period(), store.watch_all(&version)).await;
        Opened::Follow(follow.unwrap_or(Err(StoreError::Timeout)))
    };
    call.boxed()
}

fn breach(error: &StoreError) -> Breach {
    match error {
        StoreError::Expired => Breach::Expired,
        StoreError::Forbidden(_) => Breach::Forbidden(error_chain(error)),
        error => Breach::Failed(error_chain(error)),
    }
}

async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => future::pending().await,
    }
}

async fn next_opened(opening: &mut Option<BoxFuture<'static, Opened>>) -> Opened {
    match opening {
        Some(opening) => opening.await,
        None => future::pending().await,
    }
}

async fn next_change(changes: &mut Option<LeaseEvents>) -> Option<Result<LeaseEvent, StoreError>> {
    match changes {
        Some(changes) => changes.next().await,
        None => future::pending().await,
    }
}
