//! True time, the processes and their clocks, and what happens one after the other.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::super::names::{LeaseKey, LeaseState, MemberId, ShardId, pod_of};
use super::super::state_machine::{Config, Input, MembershipState, WatchError, WriteError};
use super::database::{Database, KEYS, Log, Positions};
use super::server::{News, Request, Server};
use super::work::Worker;
use crate::lease::timing::Timing;

/// Microseconds of true time.
pub(super) type Micros = u64;

pub(super) const SECOND: Micros = 1_000_000;
pub(super) const PROCESSES: usize = 5;
/// How long things go wrong, and how long they may take to come right afterwards.
pub(super) const TROUBLE: Micros = 120 * SECOND;
pub(super) const CALM: Micros = 120 * SECOND;
/// How long all must have been as it should be.
const STEADY: Micros = 10 * SECOND;

#[derive(Debug)]
pub(super) enum Happening {
    Wake(u64),
    /// A call comes to the API server, which knows no processes.
    Lands(u64, Request),
    Answered(u64, LeaseKey, Result<Option<LeaseState>, WriteError>),
    ListLands(u64),
    Listed(u64, Result<(Vec<(LeaseKey, LeaseState)>, u64), WatchError>),
    FollowLands(u64, u64),
    Followed(u64, Result<(), WatchError>),
    /// The next change comes over a watch.
    News(u64),
    Unfollowed(u64, Option<WatchError>),
    /// Processes learn of the number of shards at different times.
    Wanted(u64, u16),
    Step(ShardId, u64),
    Claimed(ShardId, u64, u64, Positions),
    Saved(ShardId, u64, bool),
    DatabaseClaim(ShardId, u64),
    DatabaseSave(ShardId, u64, u64, Positions),
    Start,
    Fault,
    Write,
    Check,
}

pub(super) struct Process {
    pub(super) core: Option<MembershipState>,
    /// Counts the lives of this place in the fleet.
    pub(super) life: u64,
    pod: String,
    rate: f64,
    offset: f64,
    paused_until: Micros,
    pub(super) cut_from_server: bool,
    pub(super) cut_from_database: bool,
    wake: u64,
    wake_at: Option<Instant>,
    pub(super) asking: BTreeMap<u64, LeaseKey>,
    pub(super) opening: u64,
    pub(super) watch: Option<Watch>,
    told: u64,
    /// Until when its membership lasts, by its own clock.
    pub(super) until: Option<Instant>,
    pub(super) workers: BTreeMap<ShardId, Worker>,
}

pub(super) struct Watch {
    pub(super) id: u64,
    /// What follows comes later.
    pub(super) last: Micros,
    pub(super) under_way: VecDeque<News>,
    pub(super) known_dead: bool,
}

pub(super) struct World {
    pub(super) random: SmallRng,
    pub(super) timing: Timing,
    epoch: Instant,
    pub(super) now: Micros,
    order: u64,
    events: BinaryHeap<Reverse<Due>>,
    pub(super) processes: Vec<Process>,
    pub(super) server: Server,
    pub(super) down_until: Micros,
    pub(super) database: Database,
    pub(super) log: Log,
    pub(super) wanted: u16,
    /// Whether Leases are deleted by others, which only the epochs protect against.
    pub(super) meddles: bool,
    pub(super) began: u64,
    pub(super) settled_at: Option<Micros>,
    pub(super) broken: Option<String>,
    /// Whether all that happens is printed.
    pub(super) traces: bool,
}

struct Due {
    at: Micros,
    order: u64,
    process: usize,
    life: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl World {
    pub(super) fn new(seed: u64, rates: std::ops::Range<f64>) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let processes = (0..PROCESSES)
            .map(|n| Process {
                core: None,
                life: 0,
                pod: format!("p{n}"),
                rate: random.random_range(rates.clone()),
                offset: random.random_range(0.0..1e6),
                paused_until: 0,
                cut_from_server: false,
                cut_from_database: false,
                wake: 0,
                wake_at: None,
                asking: BTreeMap::new(),
                opening: 0,
                watch: None,
                told: 0,
                until: None,
                workers: BTreeMap::new(),
            })
            .collect();
        let mut world = Self {
            meddles: random.random_bool(0.3),
            random,
            timing: Timing::default(),
            epoch: Instant::now(),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            processes,
            server: Server::default(),
            down_until: 0,
            database: Database::default(),
            log: Log::default(),
            wanted: 16,
            began: 0,
            settled_at: None,
            broken: None,
            traces: false,
        };
        for p in 0..PROCESSES {
            let wait = world.random.random_range(0..5 * SECOND);
            world.after(wait, p, Happening::Start);
        }
        for what in [Happening::Fault, Happening::Write, Happening::Check] {
            world.after(0, PROCESSES, what);
        }
        world
    }

    pub(super) fn after(&mut self, wait: Micros, process: usize, what: Happening) {
        self.order += 1;
        let life = self
            .processes
            .get(process)
            .map_or(0, |process| process.life);
        self.events.push(Reverse(Due {
            at: self.now + wait,
            order: self.order,
            process,
            life,
            what,
        }));
    }

    pub(super) fn number(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn local(&self, p: usize) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let elapsed = self.now as f64 / 1e6 * self.processes[p].rate;
        self.epoch + Duration::from_secs_f64(elapsed + self.processes[p].offset)
    }

    /// A local time span in true time.
    pub(super) fn span(&self, p: usize, local: Duration) -> Micros {
        let micros = local.div_f64(self.processes[p].rate).as_micros();
        Micros::try_from(micros).unwrap() + 1
    }

    pub(super) fn calm(&self) -> bool {
        self.now > TROUBLE
    }

    pub(super) fn latency(&mut self) -> Micros {
        if self.calm() || self.random.random_bool(0.85) {
            self.random.random_range(1_000..50_000)
        } else {
            // Long after the caller has given up on it, too.
            self.random.random_range(0..10 * SECOND)
        }
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        !self.calm() && self.random.random_bool(share)
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse(due)) = self.events.pop() {
            self.now = due.at;
            let settled = self.settled_at.is_some_and(|at| self.now > at + STEADY);
            if settled || self.now > TROUBLE + CALM {
                break;
            }
            self.take(due)?;
            if let Some(broken) = self.broken.take() {
                return Err(format!("at {} ms: {broken}", self.now / 1000));
            }
        }
        self.settled_at
            .map(|_| ())
            .ok_or_else(|| format!("not settled: {}", self.describe()))
    }

    fn take(&mut self, due: Due) -> Result<(), String> {
        match due.what {
            Happening::Lands(id, request) => self.land(due.process, due.life, id, request),
            Happening::ListLands(id) => self.land_list(due.process, due.life, id),
            Happening::FollowLands(id, version) => {
                self.land_follow(due.process, due.life, id, version);
            }
            Happening::DatabaseClaim(shard_id, id) => {
                self.land_claim(due.process, due.life, shard_id, id);
            }
            Happening::DatabaseSave(shard_id, id, epoch, positions) => {
                self.land_save(due.process, due.life, shard_id, (id, epoch), &positions)?;
            }
            Happening::Fault => self.fault(),
            Happening::Write => {
                let key = self.random.random_range(0..KEYS);
                if !self.calm() {
                    self.log.written[key] += 1;
                    self.after(SECOND / 2, PROCESSES, Happening::Write);
                }
            }
            Happening::Check => {
                let settled = self.calm() && self.is_settled();
                self.settled_at = settled.then(|| self.settled_at.unwrap_or(self.now));
                self.after(SECOND / 2, PROCESSES, Happening::Check);
            }
            what => {
                let process = &self.processes[due.process];
                if process.life != due.life {
                    return Ok(());
                }
                if process.paused_until > self.now {
                    let wait = process.paused_until - self.now;
                    self.after(wait, due.process, what);
                } else {
                    self.happen(due.process, what)?;
                }
            }
        }
        Ok(())
    }

    fn happen(&mut self, p: usize, what: Happening) -> Result<(), String> {
        match what {
            Happening::Start => self.start(p),
            Happening::Wake(wake) if self.processes[p].wake == wake => {
                self.processes[p].wake_at = None;
                self.tell(p, Input::Tick);
            }
            Happening::Answered(id, name, result)
                if self.processes[p].asking.remove(&id).is_some() =>
            {
                self.tell(p, Input::Response(name, result));
            }
            Happening::Listed(id, result) if self.processes[p].opening == id => {
                self.processes[p].opening = 0;
                self.tell(
                    p,
                    match result {
                        Ok((states, version)) => Input::Listed(states, version),
                        Err(breach) => Input::ListFailed(breach),
                    },
                );
            }
            Happening::Followed(id, result) if self.processes[p].opening == id => {
                self.processes[p].opening = 0;
                let event = match result {
                    Ok(()) => Input::WatchOpened,
                    Err(breach) => {
                        self.processes[p].watch = None;
                        Input::WatchEnded(Some(breach))
                    }
                };
                self.tell(p, event);
            }
            Happening::News(id) if self.is_watching(p, id) => {
                let watch = self.processes[p].watch.as_mut().unwrap();
                let event = match watch.under_way.pop_front().unwrap() {
                    (name, Some(state)) => Input::LeaseChanged(name, state),
                    (name, None) => Input::LeaseDeleted(name),
                };
                self.tell(p, event);
            }
            Happening::Unfollowed(id, breach) if self.is_watching(p, id) => {
                self.processes[p].watch = None;
                self.tell(p, Input::WatchEnded(breach));
            }
            Happening::Wanted(change, shards) if change >= self.processes[p].told => {
                self.processes[p].told = change;
                self.tell(p, Input::ShardCount(shards));
            }
            Happening::Step(shard_id, id) => self.step(p, shard_id, id)?,
            Happening::Claimed(shard_id, id, epoch, positions) => {
                self.claimed(p, shard_id, id, epoch, positions);
            }
            Happening::Saved(shard_id, id, accepted) => self.saved(p, shard_id, id, accepted),
            _ => {}
        }
        Ok(())
    }

    fn is_watching(&self, p: usize, id: u64) -> bool {
        self.processes[p]
            .watch
            .as_ref()
            .is_some_and(|watch| watch.id == id)
    }

    fn start(&mut self, p: usize) {
        let now = self.local(p);
        let seed = self.random.random();
        let mut random = SmallRng::seed_from_u64(seed);
        let process = &mut self.processes[p];
        if process.core.is_some() {
            return;
        }
        let settings = Config {
            pod: process.pod.as_str().into(),
            uid: "uid".to_owned(),
            timing: self.timing,
            known_dead: std::sync::Arc::new(|_| false),
            random: Box::new(move || random.random()),
        };
        process.core = Some(MembershipState::new(settings, self.wanted, now));
        self.tell(p, Input::Tick);
    }

    /// Ends a process, without a word.
    pub(super) fn kill(&mut self, p: usize) {
        let down = self.random.random_range(0..15 * SECOND);
        let renamed = self.random.random_bool(0.5);
        let process = &mut self.processes[p];
        process.life += 1;
        if renamed {
            process.pod = format!("p{p}-{}", process.life);
        }
        process.core = None;
        process.wake_at = None;
        process.watch = None;
        process.told = 0;
        process.until = None;
        process.opening = 0;
        process.asking.clear();
        process.workers.clear();
        process.paused_until = 0;
        self.after(down, p, Happening::Start);
    }

    pub(super) fn is_up(&self, p: usize) -> bool {
        let process = &self.processes[p];
        process.core.is_some() && process.paused_until <= self.now
    }

    pub(super) fn pause(&mut self, p: usize, length: Micros) {
        let until = &mut self.processes[p].paused_until;
        *until = (*until).max(self.now + length);
    }

    pub(super) fn tell(&mut self, p: usize, event: Input) {
        let now = self.local(p);
        let heard = self.traces.then(|| format!("{event:?}"));
        let Some(core) = &mut self.processes[p].core else {
            return;
        };
        let actions = core.handle(event, now);
        if let Some(heard) = heard {
            println!("{} ms, {p}: {heard} -> {actions:?}", self.now / 1000);
        }
        let wake = core.next_wake();
        for action in actions {
            self.act(p, action);
        }
        if self.processes[p].core.is_some() && self.processes[p].wake_at != Some(wake) {
            let id = self.number();
            self.processes[p].wake = id;
            self.processes[p].wake_at = Some(wake);
            let wait = self.span(p, wake.saturating_duration_since(now));
            self.after(wait, p, Happening::Wake(id));
        }
    }

    pub(super) fn pod_of_process(&self, id: &MemberId) -> Option<usize> {
        self.processes
            .iter()
            .position(|process| process.pod == pod_of(id))
    }
}
