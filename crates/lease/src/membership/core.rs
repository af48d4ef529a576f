//! What a process does about its fleet. Pure: it is told what happened and when, and says what
//! is to be done; it draws random numbers from where it was told to.
//!
//! What it keeps true:
//!
//! - It has one identity at a time, for as long as its own Lease, the member's, is renewed in
//!   time. Each shard's Lease names an identity, so all of them end with the member's.
//! - Nobody's shard is taken before that process's time is over: its member Lease was given up,
//!   or taken from it by a write over the version that was seen for all of its duration.
//! - A hold begins when the changes have shown the claim. By then whoever claimed a shard of
//!   another layout before is known, and of two such claims the later one is given up.
//! - A shard is not handed out again before the hold on it that was given last has been dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::names::{LeaseKey, LeaseState, MemberId, ShardId};
use super::view::{LeaseView, Liveness};
use crate::lease::Identity;
use crate::lease::client::CONFLICT_RETRY_DELAY;
use crate::lease::timing::Timing;

mod graves;
mod link;
mod member;
mod shards;
mod signals;

use link::Link;
pub(crate) use link::{Breach, Outage};
use member::{Stopping, Term};
use shards::{Cooldown, Holding};
pub(crate) use signals::{Action, Event, Refusal};

/// Claims and deletions that may be under way at once.
const MOST_CALLS: usize = 8;
/// Earlier identities of this process that are remembered.
const MOST_FORMER: usize = 64;
/// When there is nothing to be done, it is looked again after this.
const IDLE: Duration = Duration::from_mins(1);

/// What a process is told once.
pub(crate) struct Settings {
    pub(crate) pod: MemberId,
    pub(crate) uid: String,
    pub(crate) timing: Timing,
    /// Whether the process with that identity is known to have ended.
    pub(crate) known_dead: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    pub(crate) random: Box<dyn FnMut() -> u64 + Send>,
}

/// A call about a Lease that is under way.
#[derive(Clone, Copy, Debug)]
struct Call {
    sent: Instant,
    kind: Kind,
    /// The version that is written over or deleted, if any.
    over: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Renew,
    Claim,
    GiveUp,
    Bury,
    Delete,
    Look,
}

/// What a plan follows from: the members that take their share, the owners that are among them,
/// and the number of shards.
type PlannedFor = (Arc<BTreeSet<MemberId>>, BTreeMap<u16, MemberId>, u16);

/// See the module.
pub(crate) struct Core {
    settings: Settings,
    pub(crate) view: LeaseView,
    wanted: u16,
    /// The identity of this process, or the one it will have once it is a member.
    me: MemberId,
    term: Option<Term>,
    /// Identities that this process had before.
    former: BTreeSet<MemberId>,
    stopping: Option<Stopping>,
    ended: bool,
    calls: BTreeMap<LeaseKey, Call>,
    /// When a Lease may be written to again after a failure.
    pauses: BTreeMap<LeaseKey, Instant>,
    claims_after: Option<Instant>,
    /// Conflicts since the last write that succeeded.
    conflicts: u32,
    holds: BTreeMap<ShardId, Holding>,
    /// Shards that were given up, or are to be, as far as the changes have not shown it.
    relinquished: BTreeSet<ShardId>,
    cooldowns: BTreeMap<ShardId, Cooldown>,
    /// What was handed over last, to whom, and when it was given up.
    moved: Option<(ShardId, Instant)>,
    link: Link,
    /// Of how many shards this process has told last that it takes its share.
    told: u16,
    planners: Arc<BTreeSet<MemberId>>,
    members: usize,
    calm_since: Instant,
    plan: BTreeMap<u16, MemberId>,
    planned_for: Option<PlannedFor>,
    refused: Option<Outage>,
    actions: Vec<Action>,
    wake: Instant,
    news: bool,
}

impl Core {
    pub(crate) fn new(mut settings: Settings, wanted: u16, now: Instant) -> Self {
        let me = new_identity(&mut settings);
        Self {
            view: LeaseView::new(settings.timing.duration()),
            wanted,
            me,
            term: None,
            former: BTreeSet::new(),
            stopping: None,
            ended: false,
            calls: BTreeMap::new(),
            pauses: BTreeMap::new(),
            claims_after: None,
            conflicts: 0,
            holds: BTreeMap::new(),
            relinquished: BTreeSet::new(),
            cooldowns: BTreeMap::new(),
            moved: None,
            link: Link::new(now),
            told: 0,
            planners: Arc::default(),
            members: 0,
            calm_since: now,
            plan: BTreeMap::new(),
            planned_for: None,
            refused: None,
            actions: Vec::new(),
            wake: now,
            news: true,
            settings,
        }
    }

    /// When it must be told that time has passed, unless something happens before.
    pub(crate) fn wake(&self) -> Instant {
        self.wake
    }

    /// Whether what is known may have changed since this was asked last.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What is to be done, given what happened a moment before `now`.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if self.term.as_ref().is_some_and(|term| now >= term.until) {
            self.lose("it was not renewed in time");
        }
        let routine = self.note(event, now);
        if !self.ended && (!routine || now >= self.wake) {
            self.reconcile(now);
            self.news = true;
        }
        std::mem::take(&mut self.actions)
    }

    /// Takes note of what happened. Whether nothing can follow from it.
    fn note(&mut self, event: Event, now: Instant) -> bool {
        match event {
            Event::Listed(states, version) => {
                self.view.apply_list(states, version, now);
                self.note_member();
                self.link.listed(now);
            }
            Event::NotListed(breach) => self.not_listed(breach, now),
            Event::Following => {
                self.link.following(now);
                return true;
            }
            Event::Ended(breach) => self.unfollowed(breach, now),
            Event::Changed(key, state) => {
                let routine = self.view.apply_event(key.clone(), state, now);
                if !routine {
                    self.pauses.remove(&key);
                    self.note_member();
                }
                return routine;
            }
            Event::Gone(key) => {
                self.view.apply_deletion(&key, now);
                self.pauses.remove(&key);
                self.note_member();
            }
            Event::Answered(key, result) => self.answered(key, result, now),
            Event::Dropped(shard_id) => self.dropped(shard_id, now),
            Event::Wanted(shards) => self.wanted = shards,
            Event::Stop => self.stopping = self.stopping.take().or(Some(Stopping::default())),
            Event::Expired => self.lose("it was not renewed in time"),
            Event::Woken => {}
        }
        false
    }

    fn reconcile(&mut self, now: Instant) {
        self.wake = now + IDLE;
        self.keep_link(now);
        self.keep_membership(now);
        self.take_census(now);
        self.keep_shards(now);
        self.keep_graves(now);
        self.view.prune(now);
        self.finish(now);
        self.pauses.retain(|_, until| now < *until);
        for until in self.pauses.values() {
            self.wake = self.wake.min(*until);
        }
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = self.wake.min(at);
    }

    fn answered(
        &mut self,
        key: LeaseKey,
        result: Result<Option<LeaseState>, Refusal>,
        now: Instant,
    ) {
        let Some(call) = self.calls.remove(&key) else {
            return;
        };
        let held = self.is_mine(&key);
        match result {
            Ok(Some(state)) => {
                self.refused = None;
                if call.kind != Kind::Look {
                    self.conflicts = 0;
                    self.pauses.remove(&key);
                }
                let holder = state.holder.clone();
                self.view.apply_response(key, state, now);
                if held && call.kind == Kind::Renew && holder.as_ref() == Some(&self.me) {
                    self.renewed(call.sent, now);
                }
            }
            Ok(None) if call.kind == Kind::Look => self.view.apply_missing(&key, call.sent, now),
            Ok(None) => self.view.apply_own_deletion(&key),
            // Whether it is still ours, or who has made it, is not waited for.
            Err(Refusal::Conflict | Refusal::Missing)
                if call.kind == Kind::Renew
                    || call.kind == Kind::Claim && self.view.get(&key).is_none() =>
            {
                // The first time it may be tried again soon.
                let pause = match self.conflicts {
                    0 => CONFLICT_RETRY_DELAY,
                    _ => self.spread(),
                };
                self.conflicts = self.conflicts.saturating_add(1);
                self.pauses.insert(key.clone(), now + pause);
                self.call(key, Kind::Look, now);
                return;
            }
            // What it was refused for may have been seen meanwhile.
            Err(Refusal::Conflict | Refusal::Missing) if self.version(&key) != call.over => {}
            Err(Refusal::Conflict | Refusal::Missing) => {
                let pause = now + self.spread();
                self.pauses.insert(key, pause);
            }
            Err(Refusal::Failed(why)) => {
                self.refused.get_or_insert(Outage { since: now, why });
                // Counted from before the call: one that took its time is tried again at once.
                let pause = call.sent + self.spread();
                if call.kind == Kind::Claim {
                    self.claims_after = Some(pause);
                }
                self.pauses.insert(key, pause);
            }
        }
        if held {
            self.note_member();
        }
    }

    /// Whether nothing is under way about a Lease and nothing went wrong just now.
    fn may_call(&mut self, key: &LeaseKey, now: Instant) -> bool {
        let paused = self.pauses.get(key).is_some_and(|until| now < *until);
        !paused && !self.calls.contains_key(key)
    }

    fn write(&mut self, key: LeaseKey, kind: Kind, holder: Option<MemberId>, now: Instant) {
        let desired_shards = match kind {
            Kind::Renew => self.desired_shards(),
            _ => 0,
        };
        if kind == Kind::Renew {
            self.told = desired_shards;
        }
        let over = self.version(&key);
        let action = Action::Write {
            over,
            desired_shards,
            key: key.clone(),
            holder,
        };
        let call = Call {
            sent: now,
            kind,
            over,
        };
        self.calls.insert(key, call);
        self.actions.push(action);
    }

    /// The version of a Lease that was seen last.
    fn version(&self, key: &LeaseKey) -> Option<u64> {
        self.view.get(key).map(|seen| seen.state.version)
    }

    /// Looks at a Lease, or deletes it as it was seen.
    fn call(&mut self, key: LeaseKey, kind: Kind, now: Instant) {
        let action = match (kind, self.view.get(&key)) {
            (Kind::Look, _) => Action::Look(key.clone()),
            (_, Some(seen)) => Action::Delete(key.clone(), seen.state.version),
            (_, None) => return,
        };
        let call = Call {
            sent: now,
            kind,
            over: self.version(&key),
        };
        self.calls.insert(key, call);
        self.actions.push(action);
    }

    fn calls_of(&self, kinds: &[Kind]) -> usize {
        let calls = self.calls.values();
        calls.filter(|call| kinds.contains(&call.kind)).count()
    }

    /// What is known of a holder, whom a record of the version `claimed` names.
    fn liveness(&mut self, id: &MemberId, claimed: u64, now: Instant) -> Liveness {
        if *id == self.me && self.term.is_some() {
            return Liveness::Alive(now + IDLE);
        }
        if self.former.contains(id) || (self.settings.known_dead)(id) {
            return Liveness::Dead;
        }
        let liveness = self.view.liveness(id, claimed, now);
        if let Liveness::Alive(until) = liveness {
            self.wake_at(until);
        }
        liveness
    }

    /// A number from 0 to 1.
    fn random(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "as exact as it can be")]
        let bits = ((self.settings.random)() >> 11) as f64;
        bits / 9_007_199_254_740_992.0
    }

    fn spread(&mut self) -> Duration {
        let random = self.random();
        self.settings.timing.with_jitter(random)
    }

    fn retry_period(&self) -> Duration {
        self.settings.timing.retry_period()
    }
}

fn new_identity(settings: &mut Settings) -> MemberId {
    let boot = (settings.random)();
    let identity = Identity::with_boot_id(&settings.pod, &settings.uid, boot);
    identity.as_str().into()
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("me", &self.me)
            .field("term", &self.term)
            .field("wanted", &self.wanted)
            .field("holds", &self.holds)
            .field("calls", &self.calls)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}
