//! State machine of a member. Pure: it gets inputs with their times and returns commands; random
//! numbers come from a source that is passed in.
//!
//! Invariants:
//!
//! - A process has one identity at a time, for as long as its own Lease, the member's, is renewed
//!   in time. Each shard's Lease names an identity, so all of them end with the member's.
//! - No shard is taken over before its owner's time is over: the owner's member Lease was released,
//!   or expired by a write over the version that was seen for all of its duration.
//! - A shard is granted only after the watch has shown its claim. By then, any earlier claim to a
//!   shard of another layout is known, and of two such claims the later one is released.
//! - A shard is not granted again before the previous shard lease has been dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::names::{LeaseKey, MemberId, PodName, ShardId};
use super::view::{LeaseView, Liveness};
use crate::lease::Identity;
use crate::lease::timing::Timing;

mod events;
mod gc;
mod heartbeat;
mod requests;
mod shards;
mod watch;

pub(crate) use events::{Command, Input, WriteError};
use heartbeat::{MembershipTerm, Shutdown};
use requests::{PendingRequest, RequestKind};
use shards::{HeldShard, ShardBackoff};
use watch::WatchConnection;
pub(crate) use watch::{Outage, WatchError};

/// Maximum number of claims and deletions in flight.
const MAX_PENDING_REQUESTS: usize = 8;
/// Maximum number of earlier identities of this process that are remembered.
const MAX_FORMER_IDENTITIES: usize = 64;
/// Wake-up interval while there is nothing to do.
const IDLE_WAKE_INTERVAL: Duration = Duration::from_mins(1);

/// Constants of a state machine.
pub(crate) struct Config {
    pub(crate) pod: PodName,
    pub(crate) uid: String,
    pub(crate) timing: Timing,
    /// Tells whether the process with an identity is known to have ended.
    pub(crate) known_dead: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    pub(crate) random: Box<dyn FnMut() -> u64 + Send>,
}

/// Inputs of an assignment: the eligible members, those of them that own shards, and the shard
/// count.
type AssignmentInput = (Arc<BTreeSet<MemberId>>, BTreeMap<u16, MemberId>, u16);

/// State of a member and its view of the fleet.
pub(crate) struct MembershipState {
    config: Config,
    pub(crate) view: LeaseView,
    shard_count: u16,
    /// Identity of this process, or the next one while it is not a member.
    identity: MemberId,
    term: Option<MembershipTerm>,
    /// Earlier identities of this process.
    former_identities: BTreeSet<MemberId>,
    shutdown: Option<Shutdown>,
    finished: bool,
    pending: BTreeMap<LeaseKey, PendingRequest>,
    /// When a Lease may be written again after a failure.
    backoffs: BTreeMap<LeaseKey, Instant>,
    claims_backoff: Option<Instant>,
    /// Conflicts since the last successful write.
    conflicts: u32,
    held: BTreeMap<ShardId, HeldShard>,
    /// Shards whose release is due or sent, until the watch shows it.
    releasing: BTreeSet<ShardId>,
    shard_backoffs: BTreeMap<ShardId, ShardBackoff>,
    /// Shard that was released last, and when.
    last_handover: Option<(ShardId, Instant)>,
    watch: WatchConnection,
    /// Shard count that this process announced last.
    announced_shards: u16,
    eligible_members: Arc<BTreeSet<MemberId>>,
    live_members: usize,
    stable_since: Instant,
    assigned: BTreeMap<u16, MemberId>,
    assigned_for: Option<AssignmentInput>,
    write_outage: Option<Outage>,
    commands: Vec<Command>,
    next_wake: Instant,
    status_changed: bool,
}

impl MembershipState {
    pub(crate) fn new(mut config: Config, shard_count: u16, now: Instant) -> Self {
        let identity = new_identity(&mut config);
        Self {
            view: LeaseView::new(config.timing.duration()),
            shard_count,
            identity,
            term: None,
            former_identities: BTreeSet::new(),
            shutdown: None,
            finished: false,
            pending: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            claims_backoff: None,
            conflicts: 0,
            held: BTreeMap::new(),
            releasing: BTreeSet::new(),
            shard_backoffs: BTreeMap::new(),
            last_handover: None,
            watch: WatchConnection::new(now),
            announced_shards: 0,
            eligible_members: Arc::default(),
            live_members: 0,
            stable_since: now,
            assigned: BTreeMap::new(),
            assigned_for: None,
            write_outage: None,
            commands: Vec::new(),
            next_wake: now,
            status_changed: true,
            config,
        }
    }

    /// Returns when the next [`Input::Tick`] is due, unless another input comes first.
    pub(crate) fn next_wake(&self) -> Instant {
        self.next_wake
    }

    /// Returns whether the status may have changed since the last call.
    pub(crate) fn take_status_changed(&mut self) -> bool {
        std::mem::take(&mut self.status_changed)
    }

    /// Handles an input that arrived a moment before `now`, and returns the commands that follow.
    pub(crate) fn handle(&mut self, input: Input, now: Instant) -> Vec<Command> {
        if self.term.as_ref().is_some_and(|term| now >= term.deadline) {
            self.end_membership("renew deadline exceeded");
        }
        let routine = self.apply(input, now);
        if !self.finished && (!routine || now >= self.next_wake) {
            self.reconcile(now);
            self.status_changed = true;
        }
        std::mem::take(&mut self.commands)
    }

    /// Applies an input. Returns whether nothing can follow from it.
    fn apply(&mut self, input: Input, now: Instant) -> bool {
        match input {
            Input::Listed(states, version) => {
                self.view.apply_list(states, version, now);
                self.check_membership();
                self.watch.on_list(now);
            }
            Input::ListFailed(error) => self.on_list_failed(error, now),
            Input::WatchOpened => {
                self.watch.on_watch_open(now);
                return true;
            }
            Input::WatchEnded(error) => self.on_watch_ended(error, now),
            Input::LeaseChanged(key, state) => {
                let routine = self.view.apply_event(key.clone(), state, now);
                if !routine {
                    self.backoffs.remove(&key);
                    self.check_membership();
                }
                return routine;
            }
            Input::LeaseDeleted(key) => {
                self.view.apply_deletion(&key, now);
                self.backoffs.remove(&key);
                self.check_membership();
            }
            Input::Response(key, result) => self.on_response(key, result, now),
            Input::ShardDropped(shard_id) => self.on_dropped(shard_id, now),
            Input::ShardCount(shards) => self.shard_count = shards,
            Input::Stop => self.shutdown = self.shutdown.take().or(Some(Shutdown::default())),
            Input::Expired => self.end_membership("renew deadline exceeded"),
            Input::Tick => {}
        }
        false
    }

    /// Drives every part towards its desired state.
    fn reconcile(&mut self, now: Instant) {
        self.next_wake = now + IDLE_WAKE_INTERVAL;
        self.drive_watch(now);
        self.drive_heartbeat(now);
        self.recompute_live_members(now);
        self.drive_shards(now);
        self.collect_garbage(now);
        self.view.prune(now);
        self.drive_shutdown(now);
        self.backoffs.retain(|_, until| now < *until);
        for until in self.backoffs.values() {
            self.next_wake = self.next_wake.min(*until);
        }
    }

    /// Schedules a wake-up at this time, or earlier.
    fn wake_by(&mut self, at: Instant) {
        self.next_wake = self.next_wake.min(at);
    }

    /// Returns the liveness of a holder that a record of version `claimed` names.
    fn liveness(&mut self, id: &MemberId, claimed: u64, now: Instant) -> Liveness {
        if *id == self.identity && self.term.is_some() {
            return Liveness::Alive(now + IDLE_WAKE_INTERVAL);
        }
        if self.former_identities.contains(id) || (self.config.known_dead)(id) {
            return Liveness::Dead;
        }
        let liveness = self.view.liveness(id, claimed, now);
        if let Liveness::Alive(until) = liveness {
            self.wake_by(until);
        }
        liveness
    }

    /// Draws a number between 0 and 1.
    fn random(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "as exact as it can be")]
        let bits = ((self.config.random)() >> 11) as f64;
        bits / 9_007_199_254_740_992.0
    }

    /// Returns a retry period with jitter.
    fn jittered_retry(&mut self) -> Duration {
        let random = self.random();
        self.config.timing.with_jitter(random)
    }

    fn retry_period(&self) -> Duration {
        self.config.timing.retry_period()
    }
}

/// Creates the next identity of this process.
fn new_identity(config: &mut Config) -> MemberId {
    let boot = (config.random)();
    let identity = Identity::with_boot_id(&config.pod, &config.uid, boot);
    identity.as_str().into()
}

impl fmt::Debug for MembershipState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MembershipState")
            .field("identity", &self.identity)
            .field("term", &self.term)
            .field("shard_count", &self.shard_count)
            .field("held", &self.held)
            .field("pending", &self.pending)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}
