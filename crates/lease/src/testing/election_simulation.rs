//! Simulation of processes with different clocks around one Lease. Requests are slow, lost or late,
//! and processes are killed or paused, all drawn from a seed. Two processes must never hold the
//! Lease at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::soak::rounds;

use crate::election::decision::{
    CandidateAction, HolderAction, ObservedLease, decide_as_candidate, decide_as_holder,
};
use crate::lease::{Identity, LeaseRecord, Timing};
use crate::testing::Micros;
use tokio::time::Instant;

const SECOND: Micros = 1_000_000;
const CANDIDATES: usize = 4;
/// How long faults are injected, and how long recovery may take afterwards.
const FAULT_PERIOD: Micros = 600 * SECOND;
const RECOVERY_PERIOD: Micros = 60 * SECOND;
/// Number of seeds in a plain run, and in a soak run.
const SEEDS: (u32, u32) = (80, 1000);

fn seeds() -> u64 {
    rounds(SEEDS.0, SEEDS.1).into()
}

/// Request about the Lease.
#[derive(Clone)]
enum ElectionCall {
    Get,
    /// Write of a holder, over the version that was seen or as a new record.
    Write(Option<String>, Option<String>),
}

/// Current record, if there is one, or the rejection of a write.
type CallAnswer = Result<Option<LeaseRecord>, CallRejected>;

/// Rejection of a write over another version.
struct CallRejected;

/// Event of the simulation.
enum ElectionEvent {
    Wake,
    /// A request reaches the API server, even if its process has died.
    RequestArrives(u64, ElectionCall, Instant),
    /// A response reaches its process.
    ResponseArrives(u64, ElectionCall, Instant, CallAnswer),
    TimedOut(u64),
    WatchEvent(Option<LeaseRecord>),
    Killed,
    Paused(Micros),
}

/// Process that runs for the Lease, with its own clock.
struct Candidate {
    me: Identity,
    boot: u64,
    rate: f64,
    paused_until: Micros,
    observed: ObservedLease,
    /// Version that the next write replaces, and the deadline.
    holds: Option<(String, Instant)>,
    in_flight: Option<u64>,
}

/// True time, the processes, the Lease and the events to come.
struct ElectionWorld {
    random: StdRng,
    timing: Timing,
    epoch: Instant,
    now: Micros,
    order: u64,
    events: BTreeMap<(Micros, u64), (usize, u64, ElectionEvent)>,
    candidates: Vec<Candidate>,
    lease: Option<LeaseRecord>,
    version: u64,
    takeovers: u32,
}

impl ElectionWorld {
    fn new(seed: u64, rates: std::ops::Range<f64>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let candidates = (0..CANDIDATES)
            .map(|n| Candidate {
                me: Identity::with_boot_id(&format!("p{n}"), "uid", 0),
                boot: 0,
                rate: random.random_range(rates.clone()),
                paused_until: 0,
                observed: ObservedLease::default(),
                holds: None,
                in_flight: None,
            })
            .collect();
        let mut world = Self {
            random,
            timing: Timing::default(),
            epoch: Instant::now(),
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            candidates,
            lease: None,
            version: 0,
            takeovers: 0,
        };
        for p in 0..CANDIDATES {
            world.schedule(0, p, ElectionEvent::Wake);
        }
        world
    }

    fn schedule(&mut self, wait: Micros, p: usize, event: ElectionEvent) {
        self.order += 1;
        let boot = self.candidates[p].boot;
        self.events
            .insert((self.now + wait, self.order), (p, boot, event));
    }

    fn local_time(&self, p: usize) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let elapsed = self.now as f64 / 1e6 * self.candidates[p].rate;
        self.epoch + Duration::from_secs_f64(elapsed)
    }

    /// Converts a local duration into true time.
    fn true_duration(&self, p: usize, local_duration: Duration) -> Micros {
        let micros = local_duration.div_f64(self.candidates[p].rate).as_micros();
        Micros::try_from(micros).unwrap() + 1
    }

    fn is_recovering(&self) -> bool {
        self.now > FAULT_PERIOD
    }

    fn latency(&mut self) -> Micros {
        if self.is_recovering() || self.random.random_bool(0.7) {
            self.random.random_range(1_000..50_000)
        } else {
            // Sometimes long after the caller has given up on it.
            self.random.random_range(0..30 * SECOND)
        }
    }

    fn holders(&self) -> Vec<usize> {
        (0..CANDIDATES)
            .filter(|p| {
                let holds = self.candidates[*p].holds.as_ref();
                holds.is_some_and(|(_, until)| self.local_time(*p) < *until)
            })
            .collect()
    }

    fn run(&mut self) -> Result<(), String> {
        let mut last_fault = 0;
        while let Some(((at, _), (p, boot, event))) = self.events.pop_first() {
            if at > FAULT_PERIOD + RECOVERY_PERIOD {
                break;
            }
            self.now = at;
            if at < FAULT_PERIOD && at > last_fault + SECOND {
                last_fault = at;
                self.inject_faults();
            }
            match event {
                ElectionEvent::RequestArrives(id, call, sent) => {
                    self.on_request(p, boot, id, call, sent);
                }
                _ if boot != self.candidates[p].boot => {}
                event if at < self.candidates[p].paused_until => {
                    let rest = self.candidates[p].paused_until - at;
                    self.schedule(rest, p, event);
                }
                event => self.deliver(p, event),
            }
            let holders = self.holders();
            if holders.len() > 1 {
                return Err(format!("at {at} us {holders:?} hold the lease"));
            }
        }
        (self.holders().len() == 1)
            .then_some(())
            .ok_or_else(|| "nobody holds the lease when all is well".to_owned())
    }

    fn inject_faults(&mut self) {
        let p = self.random.random_range(0..CANDIDATES);
        match self.random.random_range(0..100) {
            0..5 => self.schedule(0, p, ElectionEvent::Killed),
            5..10 => {
                let length = self.random.random_range(0..40 * SECOND);
                self.schedule(0, p, ElectionEvent::Paused(length));
            }
            10..12 => {
                // Another program edits the labels.
                if let Some(lease) = &mut self.lease {
                    self.version += 1;
                    lease.version = self.version.to_string();
                }
            }
            _ => {}
        }
    }

    fn deliver(&mut self, p: usize, event: ElectionEvent) {
        match event {
            ElectionEvent::Wake => self.wake(p),
            ElectionEvent::ResponseArrives(id, call, sent, answer) => {
                if self.candidates[p].in_flight == Some(id) {
                    self.candidates[p].in_flight = None;
                    self.on_response(p, &call, sent, answer);
                }
            }
            ElectionEvent::TimedOut(id) => {
                if self.candidates[p].in_flight == Some(id) {
                    self.candidates[p].in_flight = None;
                    self.wake(p);
                }
            }
            ElectionEvent::WatchEvent(record) => {
                let now = self.local_time(p);
                let process = &mut self.candidates[p];
                if process.holds.is_none() && process.in_flight.is_none() {
                    process.observed.observe(record, now);
                    self.decide(p);
                }
            }
            ElectionEvent::Killed => {
                let process = &mut self.candidates[p];
                process.boot += 1;
                process.me = Identity::with_boot_id(&format!("p{p}"), "uid", process.boot);
                process.observed = ObservedLease::default();
                process.holds = None;
                process.in_flight = None;
                let down = self.random.random_range(0..20 * SECOND);
                self.schedule(down, p, ElectionEvent::Wake);
            }
            ElectionEvent::Paused(length) => self.candidates[p].paused_until = self.now + length,
            ElectionEvent::RequestArrives(..) => unreachable!(),
        }
    }

    fn wake(&mut self, p: usize) {
        let now = self.local_time(p);
        let process = &mut self.candidates[p];
        if process.in_flight.is_some() {
            return;
        }
        match &process.holds {
            Some((_, until)) if now >= *until => {
                process.holds = None;
                self.send(p, ElectionCall::Get);
            }
            // A graceful release is a write like any other.
            Some((version, _)) => {
                let (version, me) = (version.clone(), process.me.as_str().to_owned());
                let ends = !self.is_recovering() && self.random.random_bool(0.03);
                if ends {
                    self.candidates[p].holds = None;
                }
                let holder = (!ends).then_some(me);
                self.send(p, ElectionCall::Write(holder, Some(version)));
            }
            None => self.send(p, ElectionCall::Get),
        }
    }

    fn send(&mut self, p: usize, call: ElectionCall) {
        self.order += 1;
        let id = self.order;
        self.candidates[p].in_flight = Some(id);
        let (sent, latency) = (self.local_time(p), self.latency());
        self.schedule(latency, p, ElectionEvent::RequestArrives(id, call, sent));
        let limit = self.true_duration(p, self.timing.retry_period());
        self.schedule(limit, p, ElectionEvent::TimedOut(id));
    }

    fn on_request(&mut self, p: usize, boot: u64, id: u64, call: ElectionCall, sent: Instant) {
        if !self.is_recovering() && self.random.random_bool(0.05) {
            return;
        }
        let mut accepted = true;
        if let ElectionCall::Write(holder, over) = &call {
            accepted = self.lease.as_ref().map(|lease| &lease.version) == over.as_ref();
            if accepted {
                self.version += 1;
                self.lease = Some(LeaseRecord {
                    holder: holder.clone(),
                    version: self.version.to_string(),
                    duration: self.timing.duration(),
                });
                self.broadcast();
            }
        }
        if boot != self.candidates[p].boot
            || (!self.is_recovering() && self.random.random_bool(0.05))
        {
            return;
        }
        let answer = if accepted {
            Ok(self.lease.clone())
        } else {
            Err(CallRejected)
        };
        let latency = self.latency();
        self.schedule(
            latency,
            p,
            ElectionEvent::ResponseArrives(id, call, sent, answer),
        );
    }

    /// Sends watch events to all processes; they may overtake each other.
    fn broadcast(&mut self) {
        for p in 0..CANDIDATES {
            let latency = self.latency();
            self.schedule(latency, p, ElectionEvent::WatchEvent(self.lease.clone()));
        }
    }

    fn on_response(&mut self, p: usize, call: &ElectionCall, sent: Instant, answer: CallAnswer) {
        let now = self.local_time(p);
        let until = sent + self.timing.renew_deadline();
        let Ok(record) = answer else {
            return self.send(p, ElectionCall::Get);
        };
        let process = &mut self.candidates[p];
        process.observed.observe(record.clone(), now);
        let version = record.map(|record| record.version).unwrap_or_default();
        match (call, &mut process.holds) {
            (ElectionCall::Write(Some(_), _), held) => {
                self.takeovers += u32::from(held.is_none());
                *held = Some((version, until));
                self.pause(p);
            }
            (ElectionCall::Get, Some((known, until))) => {
                match decide_as_holder(&process.me, &process.observed, now, *until) {
                    HolderAction::Renew => {
                        *known = version;
                        self.wake(p);
                    }
                    HolderAction::Stop(_) => {
                        process.holds = None;
                        self.decide(p);
                    }
                }
            }
            (ElectionCall::Write(None, _), _) => self.pause(p),
            (ElectionCall::Get, None) => self.decide(p),
        }
    }

    fn decide(&mut self, p: usize) {
        let now = self.local_time(p);
        let process = &self.candidates[p];
        match decide_as_candidate(&process.me, &process.observed, now, &self.timing) {
            CandidateAction::Claim => {
                let over = process.observed.replaced_version().map(str::to_owned);
                self.send(
                    p,
                    ElectionCall::Write(Some(process.me.as_str().to_owned()), over),
                );
            }
            CandidateAction::Wait(until) => {
                let wait = self.true_duration(p, until - now);
                self.schedule(wait, p, ElectionEvent::Wake);
            }
        }
    }

    fn pause(&mut self, p: usize) {
        let period = self.timing.with_jitter(self.random.random());
        let wait = self.true_duration(p, period);
        self.schedule(wait, p, ElectionEvent::Wake);
    }
}

#[test]
fn two_processes_never_hold_the_lease_at_once() {
    let mut takeovers = 0;
    for seed in 0..seeds() {
        // The fastest clock gains less on the slowest than `duration / renew_deadline`.
        let mut world = ElectionWorld::new(seed, 0.82..1.2);
        if let Err(reason) = world.run() {
            panic!("seed {seed}: {reason}");
        }
        takeovers += world.takeovers;
    }
    assert!(
        u64::from(takeovers) > seeds() * 5,
        "only {takeovers} takeovers"
    );
}

/// Sanity check of the simulation: with excessive clock drift, two processes do hold the Lease at
/// once.
#[test]
fn excessive_clock_drift_is_detected() {
    let caught = (0..seeds()).any(|seed| ElectionWorld::new(seed, 0.3..3.0).run().is_err());
    assert!(caught);
}
