//! World of the simulation: true time, the processes and their clocks, and the event loop.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::api_server::{ApiServer, LeaseChange};
use super::database::{Database, EventLog, KEYS};
use super::events::{ScheduledEvent, SimEvent};
use super::shard_worker::ShardWorker;
use crate::lease::timing::Timing;
use crate::membership::names::{LeaseKey, MemberId, ShardId, pod_of};
use crate::membership::state_machine::{Config, Input, MembershipState};
use crate::testing::Micros;

pub(super) const SECOND: Micros = 1_000_000;
pub(super) const PROCESSES: usize = 5;
/// How long faults are injected, and how long recovery may take afterwards.
pub(super) const FAULT_PERIOD: Micros = 120 * SECOND;
pub(super) const RECOVERY_PERIOD: Micros = 120 * SECOND;
/// How long the fleet must have been in its desired state.
const STABLE_PERIOD: Micros = 10 * SECOND;

/// Process with its own clock, network and workers.
pub(super) struct SimProcess {
    pub(super) state: Option<MembershipState>,
    /// Number of restarts of this process.
    pub(super) incarnation: u64,
    pod: String,
    clock_rate: f64,
    clock_offset: f64,
    paused_until: Micros,
    pub(super) cut_from_server: bool,
    pub(super) cut_from_database: bool,
    wake: u64,
    wake_at: Option<Instant>,
    pub(super) in_flight: BTreeMap<u64, LeaseKey>,
    pub(super) syncing: u64,
    pub(super) watch: Option<WatchStream>,
    latest_change: u64,
    /// Renew deadline of its membership, by its own clock.
    pub(super) deadline: Option<Instant>,
    pub(super) workers: BTreeMap<ShardId, ShardWorker>,
}

/// Watch of one process.
pub(super) struct WatchStream {
    pub(super) id: u64,
    /// Later events arrive later.
    pub(super) last_delivery: Micros,
    pub(super) in_transit: VecDeque<LeaseChange>,
    pub(super) stalled: bool,
}

/// True time, the processes, the servers and the events to come.
pub(super) struct World {
    pub(super) random: SmallRng,
    pub(super) timing: Timing,
    epoch: Instant,
    pub(super) now: Micros,
    order: u64,
    events: BinaryHeap<Reverse<ScheduledEvent>>,
    pub(super) processes: Vec<SimProcess>,
    pub(super) server: ApiServer,
    pub(super) down_until: Micros,
    pub(super) database: Database,
    pub(super) log: EventLog,
    pub(super) shard_count: u16,
    /// Whether other programs delete Leases, which only the epochs protect against.
    pub(super) deletes_leases: bool,
    pub(super) grants: u64,
    pub(super) settled_at: Option<Micros>,
    pub(super) violation: Option<String>,
    /// Whether all events are printed.
    pub(super) trace: bool,
}

impl World {
    pub(super) fn new(seed: u64, rates: std::ops::Range<f64>) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let processes = (0..PROCESSES)
            .map(|n| SimProcess {
                state: None,
                incarnation: 0,
                pod: format!("p{n}"),
                clock_rate: random.random_range(rates.clone()),
                clock_offset: random.random_range(0.0..1e6),
                paused_until: 0,
                cut_from_server: false,
                cut_from_database: false,
                wake: 0,
                wake_at: None,
                in_flight: BTreeMap::new(),
                syncing: 0,
                watch: None,
                latest_change: 0,
                deadline: None,
                workers: BTreeMap::new(),
            })
            .collect();
        let mut world = Self {
            deletes_leases: random.random_bool(0.3),
            random,
            timing: Timing::default(),
            epoch: Instant::now(),
            now: 0,
            order: 0,
            events: BinaryHeap::new(),
            processes,
            server: ApiServer::default(),
            down_until: 0,
            database: Database::default(),
            log: EventLog::default(),
            shard_count: 16,
            grants: 0,
            settled_at: None,
            violation: None,
            trace: false,
        };
        for p in 0..PROCESSES {
            let wait = world.random.random_range(0..5 * SECOND);
            world.schedule(wait, p, SimEvent::Start);
        }
        for what in [
            SimEvent::InjectFault,
            SimEvent::AppendEvent,
            SimEvent::CheckSettled,
        ] {
            world.schedule(0, PROCESSES, what);
        }
        world
    }

    pub(super) fn schedule(&mut self, wait: Micros, process: usize, what: SimEvent) {
        self.order += 1;
        let incarnation = self
            .processes
            .get(process)
            .map_or(0, |process| process.incarnation);
        self.events.push(Reverse(ScheduledEvent {
            at: self.now + wait,
            order: self.order,
            process,
            incarnation,
            what,
        }));
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    pub(super) fn local_time(&self, p: usize) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let elapsed = self.now as f64 / 1e6 * self.processes[p].clock_rate;
        self.epoch + Duration::from_secs_f64(elapsed + self.processes[p].clock_offset)
    }

    /// Converts a local duration into true time.
    pub(super) fn true_duration(&self, p: usize, local_duration: Duration) -> Micros {
        let micros = local_duration
            .div_f64(self.processes[p].clock_rate)
            .as_micros();
        Micros::try_from(micros).unwrap() + 1
    }

    pub(super) fn is_recovering(&self) -> bool {
        self.now > FAULT_PERIOD
    }

    pub(super) fn latency(&mut self) -> Micros {
        if self.is_recovering() || self.random.random_bool(0.85) {
            self.random.random_range(1_000..50_000)
        } else {
            // Sometimes long after the caller has given up on it.
            self.random.random_range(0..10 * SECOND)
        }
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        !self.is_recovering() && self.random.random_bool(share)
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(Reverse(due)) = self.events.pop() {
            self.now = due.at;
            let settled = self
                .settled_at
                .is_some_and(|at| self.now > at + STABLE_PERIOD);
            if settled || self.now > FAULT_PERIOD + RECOVERY_PERIOD {
                break;
            }
            self.dispatch(due)?;
            if let Some(violation) = self.violation.take() {
                return Err(format!("at {} ms: {violation}", self.now / 1000));
            }
        }
        self.settled_at
            .map(|_| ())
            .ok_or_else(|| format!("not settled: {}", self.describe()))
    }

    fn dispatch(&mut self, due: ScheduledEvent) -> Result<(), String> {
        match due.what {
            SimEvent::RequestArrives(id, request) => {
                self.on_request(due.process, due.incarnation, id, request);
            }
            SimEvent::ListRequestArrives(id) => {
                self.on_list_request(due.process, due.incarnation, id);
            }
            SimEvent::WatchRequestArrives(id, version) => {
                self.on_watch_request(due.process, due.incarnation, id, version);
            }
            SimEvent::ClaimRequestArrives(shard_id, id) => {
                self.on_claim_request(due.process, due.incarnation, shard_id, id);
            }
            SimEvent::SaveRequestArrives(shard_id, id, epoch, positions) => {
                self.on_save_request(
                    due.process,
                    due.incarnation,
                    shard_id,
                    (id, epoch),
                    &positions,
                )?;
            }
            SimEvent::InjectFault => self.inject_fault(),
            SimEvent::AppendEvent => {
                let key = self.random.random_range(0..KEYS);
                if !self.is_recovering() {
                    self.log.written[key] += 1;
                    self.schedule(SECOND / 2, PROCESSES, SimEvent::AppendEvent);
                }
            }
            SimEvent::CheckSettled => {
                let settled = self.is_recovering() && self.is_settled();
                self.settled_at = settled.then(|| self.settled_at.unwrap_or(self.now));
                self.schedule(SECOND / 2, PROCESSES, SimEvent::CheckSettled);
            }
            what => {
                let process = &self.processes[due.process];
                if process.incarnation != due.incarnation {
                    return Ok(());
                }
                if process.paused_until > self.now {
                    let wait = process.paused_until - self.now;
                    self.schedule(wait, due.process, what);
                } else {
                    self.deliver(due.process, what)?;
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, p: usize, what: SimEvent) -> Result<(), String> {
        match what {
            SimEvent::Start => self.start_process(p),
            SimEvent::Wake(wake) if self.processes[p].wake == wake => {
                self.processes[p].wake_at = None;
                self.send_input(p, Input::Tick);
            }
            SimEvent::ResponseArrives(id, name, result)
                if self.processes[p].in_flight.remove(&id).is_some() =>
            {
                self.send_input(p, Input::Response(name, result));
            }
            SimEvent::ListResponseArrives(id, result) if self.processes[p].syncing == id => {
                self.processes[p].syncing = 0;
                self.send_input(
                    p,
                    match result {
                        Ok((states, version)) => Input::Listed(states, version),
                        Err(breach) => Input::ListFailed(breach),
                    },
                );
            }
            SimEvent::WatchResponseArrives(id, result) if self.processes[p].syncing == id => {
                self.processes[p].syncing = 0;
                let input = match result {
                    Ok(()) => Input::WatchOpened,
                    Err(breach) => {
                        self.processes[p].watch = None;
                        Input::WatchEnded(Some(breach))
                    }
                };
                self.send_input(p, input);
            }
            SimEvent::WatchEventArrives(id) if self.is_watching(p, id) => {
                let watch = self.processes[p].watch.as_mut().unwrap();
                let input = match watch.in_transit.pop_front().unwrap() {
                    (name, Some(state)) => Input::LeaseChanged(name, state),
                    (name, None) => Input::LeaseDeleted(name),
                };
                self.send_input(p, input);
            }
            SimEvent::WatchEnds(id, breach) if self.is_watching(p, id) => {
                self.processes[p].watch = None;
                self.send_input(p, Input::WatchEnded(breach));
            }
            SimEvent::ShardCountChanges(change, shards)
                if change >= self.processes[p].latest_change =>
            {
                self.processes[p].latest_change = change;
                self.send_input(p, Input::ShardCount(shards));
            }
            SimEvent::WorkerStep(shard_id, id) => self.step_worker(p, shard_id, id)?,
            SimEvent::ClaimResponseArrives(shard_id, id, epoch, positions) => {
                self.on_claim_response(p, shard_id, id, epoch, positions);
            }
            SimEvent::SaveResponseArrives(shard_id, id, accepted) => {
                self.on_save_response(p, shard_id, id, accepted);
            }
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

    fn start_process(&mut self, p: usize) {
        let now = self.local_time(p);
        let seed = self.random.random();
        let mut random = SmallRng::seed_from_u64(seed);
        let process = &mut self.processes[p];
        if process.state.is_some() {
            return;
        }
        let config = Config {
            pod: process.pod.as_str().into(),
            uid: "uid".to_owned(),
            timing: self.timing,
            known_dead: std::sync::Arc::new(|_| false),
            random: Box::new(move || random.random()),
        };
        process.state = Some(MembershipState::new(config, self.shard_count, now));
        self.send_input(p, Input::Tick);
    }

    /// Kills a process without a release.
    pub(super) fn kill(&mut self, p: usize) {
        let down = self.random.random_range(0..15 * SECOND);
        let renamed = self.random.random_bool(0.5);
        let process = &mut self.processes[p];
        process.incarnation += 1;
        if renamed {
            process.pod = format!("p{p}-{}", process.incarnation);
        }
        process.state = None;
        process.wake_at = None;
        process.watch = None;
        process.latest_change = 0;
        process.deadline = None;
        process.syncing = 0;
        process.in_flight.clear();
        process.workers.clear();
        process.paused_until = 0;
        self.schedule(down, p, SimEvent::Start);
    }

    pub(super) fn is_up(&self, p: usize) -> bool {
        let process = &self.processes[p];
        process.state.is_some() && process.paused_until <= self.now
    }

    pub(super) fn pause(&mut self, p: usize, length: Micros) {
        let until = &mut self.processes[p].paused_until;
        *until = (*until).max(self.now + length);
    }

    pub(super) fn send_input(&mut self, p: usize, input: Input) {
        let now = self.local_time(p);
        let trace_line = self.trace.then(|| format!("{input:?}"));
        let Some(state) = &mut self.processes[p].state else {
            return;
        };
        let commands = state.handle(input, now);
        if let Some(trace_line) = trace_line {
            println!("{} ms, {p}: {trace_line} -> {commands:?}", self.now / 1000);
        }
        let wake = state.next_wake();
        for command in commands {
            self.execute(p, command);
        }
        if self.processes[p].state.is_some() && self.processes[p].wake_at != Some(wake) {
            let id = self.next_id();
            self.processes[p].wake = id;
            self.processes[p].wake_at = Some(wake);
            let wait = self.true_duration(p, wake.saturating_duration_since(now));
            self.schedule(wait, p, SimEvent::Wake(id));
        }
    }

    pub(super) fn pod_of_process(&self, id: &MemberId) -> Option<usize> {
        self.processes
            .iter()
            .position(|process| process.pod == pod_of(id))
    }
}
