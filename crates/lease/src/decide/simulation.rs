//! Processes with clocks of their own around one Lease, with calls that are slow, lost or land
//! late, with kills and pauses, all drawn from a seed: never do two hold at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::soak::rounds;

use super::*;

/// Microseconds of true time.
type Micros = u64;

const SECOND: Micros = 1_000_000;
const PROCESSES: usize = 4;
/// How long things go wrong, and how long they may take to come right afterwards.
const TROUBLE: Micros = 600 * SECOND;
const CALM: Micros = 60 * SECOND;
/// Seeds that are played in a plain run, and in a long one.
const SEEDS: (u32, u32) = (80, 1000);

fn seeds() -> u64 {
    rounds(SEEDS.0, SEEDS.1).into()
}

#[derive(Clone)]
enum Call {
    Get,
    /// A record to be written, over the version that was seen or as a new one.
    Write(Option<String>, Option<String>),
}

/// The Lease as it is, where there is one; or that the write was refused.
type Answer = Result<Option<LeaseRecord>, Refused>;

struct Refused;

enum Event {
    Wake,
    /// A call comes to the API server, which knows no processes.
    Lands(u64, Call, Instant),
    /// An answer comes back.
    Answered(u64, Call, Instant, Answer),
    TimedOut(u64),
    Told(Option<LeaseRecord>),
    Killed,
    Paused(Micros),
}

struct Process {
    me: Identity,
    boot: u64,
    rate: f64,
    paused_until: Micros,
    observed: Observed,
    /// The version that the next write is to replace, and the deadline.
    holds: Option<(String, Instant)>,
    asking: Option<u64>,
}

struct World {
    random: StdRng,
    timing: Timing,
    epoch: Instant,
    now: Micros,
    order: u64,
    events: BTreeMap<(Micros, u64), (usize, u64, Event)>,
    processes: Vec<Process>,
    lease: Option<LeaseRecord>,
    version: u64,
    takeovers: u32,
}

impl World {
    fn new(seed: u64, rates: std::ops::Range<f64>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let processes = (0..PROCESSES)
            .map(|n| Process {
                me: Identity::with_boot_id(&format!("p{n}"), "uid", 0),
                boot: 0,
                rate: random.random_range(rates.clone()),
                paused_until: 0,
                observed: Observed::default(),
                holds: None,
                asking: None,
            })
            .collect();
        let mut world = Self {
            random,
            timing: Timing::default(),
            epoch: Instant::now(),
            now: 0,
            order: 0,
            events: BTreeMap::new(),
            processes,
            lease: None,
            version: 0,
            takeovers: 0,
        };
        for p in 0..PROCESSES {
            world.after(0, p, Event::Wake);
        }
        world
    }

    fn after(&mut self, wait: Micros, p: usize, event: Event) {
        self.order += 1;
        let boot = self.processes[p].boot;
        self.events
            .insert((self.now + wait, self.order), (p, boot, event));
    }

    fn local(&self, p: usize) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let elapsed = self.now as f64 / 1e6 * self.processes[p].rate;
        self.epoch + Duration::from_secs_f64(elapsed)
    }

    /// A local time span in true time.
    fn span(&self, p: usize, local: Duration) -> Micros {
        let micros = local.div_f64(self.processes[p].rate).as_micros();
        Micros::try_from(micros).unwrap() + 1
    }

    fn calm(&self) -> bool {
        self.now > TROUBLE
    }

    fn latency(&mut self) -> Micros {
        if self.calm() || self.random.random_bool(0.7) {
            self.random.random_range(1_000..50_000)
        } else {
            // Long after the caller has given up on it, too.
            self.random.random_range(0..30 * SECOND)
        }
    }

    fn holders(&self) -> Vec<usize> {
        (0..PROCESSES)
            .filter(|p| {
                let holds = self.processes[*p].holds.as_ref();
                holds.is_some_and(|(_, until)| self.local(*p) < *until)
            })
            .collect()
    }

    fn run(&mut self) -> Result<(), String> {
        let mut last_trouble = 0;
        while let Some(((at, _), (p, boot, event))) = self.events.pop_first() {
            if at > TROUBLE + CALM {
                break;
            }
            self.now = at;
            if at < TROUBLE && at > last_trouble + SECOND {
                last_trouble = at;
                self.make_trouble();
            }
            match event {
                Event::Lands(id, call, sent) => self.land(p, boot, id, call, sent),
                _ if boot != self.processes[p].boot => {}
                event if at < self.processes[p].paused_until => {
                    let rest = self.processes[p].paused_until - at;
                    self.after(rest, p, event);
                }
                event => self.happen(p, event),
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

    fn make_trouble(&mut self) {
        let p = self.random.random_range(0..PROCESSES);
        match self.random.random_range(0..100) {
            0..5 => self.after(0, p, Event::Killed),
            5..10 => {
                let length = self.random.random_range(0..40 * SECOND);
                self.after(0, p, Event::Paused(length));
            }
            10..12 => {
                // Somebody edits its labels.
                if let Some(lease) = &mut self.lease {
                    self.version += 1;
                    lease.version = self.version.to_string();
                }
            }
            _ => {}
        }
    }

    fn happen(&mut self, p: usize, event: Event) {
        match event {
            Event::Wake => self.wake(p),
            Event::Answered(id, call, sent, answer) => {
                if self.processes[p].asking == Some(id) {
                    self.processes[p].asking = None;
                    self.answered(p, &call, sent, answer);
                }
            }
            Event::TimedOut(id) => {
                if self.processes[p].asking == Some(id) {
                    self.processes[p].asking = None;
                    self.wake(p);
                }
            }
            Event::Told(record) => {
                let now = self.local(p);
                let process = &mut self.processes[p];
                if process.holds.is_none() && process.asking.is_none() {
                    process.observed.note(record, now);
                    self.consider(p);
                }
            }
            Event::Killed => {
                let process = &mut self.processes[p];
                process.boot += 1;
                process.me = Identity::with_boot_id(&format!("p{p}"), "uid", process.boot);
                process.observed = Observed::default();
                process.holds = None;
                process.asking = None;
                let down = self.random.random_range(0..20 * SECOND);
                self.after(down, p, Event::Wake);
            }
            Event::Paused(length) => self.processes[p].paused_until = self.now + length,
            Event::Lands(..) => unreachable!(),
        }
    }

    fn wake(&mut self, p: usize) {
        let now = self.local(p);
        let process = &mut self.processes[p];
        if process.asking.is_some() {
            return;
        }
        match &process.holds {
            Some((_, until)) if now >= *until => {
                process.holds = None;
                self.ask(p, Call::Get);
            }
            // Graceful ends come as any other write.
            Some((version, _)) => {
                let (version, me) = (version.clone(), process.me.as_str().to_owned());
                let ends = !self.calm() && self.random.random_bool(0.03);
                if ends {
                    self.processes[p].holds = None;
                }
                let holder = (!ends).then_some(me);
                self.ask(p, Call::Write(holder, Some(version)));
            }
            None => self.ask(p, Call::Get),
        }
    }

    fn ask(&mut self, p: usize, call: Call) {
        self.order += 1;
        let id = self.order;
        self.processes[p].asking = Some(id);
        let (sent, latency) = (self.local(p), self.latency());
        self.after(latency, p, Event::Lands(id, call, sent));
        let limit = self.span(p, self.timing.retry_period());
        self.after(limit, p, Event::TimedOut(id));
    }

    fn land(&mut self, p: usize, boot: u64, id: u64, call: Call, sent: Instant) {
        if !self.calm() && self.random.random_bool(0.05) {
            return;
        }
        let mut accepted = true;
        if let Call::Write(holder, over) = &call {
            accepted = self.lease.as_ref().map(|lease| &lease.version) == over.as_ref();
            if accepted {
                self.version += 1;
                self.lease = Some(LeaseRecord {
                    holder: holder.clone(),
                    version: self.version.to_string(),
                    duration: self.timing.duration(),
                });
                self.tell_all();
            }
        }
        if boot != self.processes[p].boot || (!self.calm() && self.random.random_bool(0.05)) {
            return;
        }
        let answer = if accepted {
            Ok(self.lease.clone())
        } else {
            Err(Refused)
        };
        let latency = self.latency();
        self.after(latency, p, Event::Answered(id, call, sent, answer));
    }

    /// News travel at any speed, and may overtake each other.
    fn tell_all(&mut self) {
        for p in 0..PROCESSES {
            let latency = self.latency();
            self.after(latency, p, Event::Told(self.lease.clone()));
        }
    }

    fn answered(&mut self, p: usize, call: &Call, sent: Instant, answer: Answer) {
        let now = self.local(p);
        let until = sent + self.timing.renew_deadline();
        let Ok(record) = answer else {
            return self.ask(p, Call::Get);
        };
        let process = &mut self.processes[p];
        process.observed.note(record.clone(), now);
        let version = record.map(|record| record.version).unwrap_or_default();
        match (call, &mut process.holds) {
            (Call::Write(Some(_), _), held) => {
                self.takeovers += u32::from(held.is_none());
                *held = Some((version, until));
                self.pause(p);
            }
            (Call::Get, Some((known, until))) => {
                match holding(&process.me, &process.observed, now, *until) {
                    Holding::Renew => {
                        *known = version;
                        self.wake(p);
                    }
                    Holding::Lost(_) => {
                        process.holds = None;
                        self.consider(p);
                    }
                }
            }
            (Call::Write(None, _), _) => self.pause(p),
            (Call::Get, None) => self.consider(p),
        }
    }

    fn consider(&mut self, p: usize) {
        let now = self.local(p);
        let process = &self.processes[p];
        match standing_by(&process.me, &process.observed, now, &self.timing) {
            StandingBy::Claim => {
                let seen = process.observed.last.as_ref();
                let over = seen
                    .filter(|_| !process.observed.missing)
                    .map(|seen| seen.record.version.clone());
                self.ask(p, Call::Write(Some(process.me.as_str().to_owned()), over));
            }
            StandingBy::Wait(until) => {
                let wait = self.span(p, until - now);
                self.after(wait, p, Event::Wake);
            }
        }
    }

    fn pause(&mut self, p: usize) {
        let period = self.timing.with_jitter(self.random.random());
        let wait = self.span(p, period);
        self.after(wait, p, Event::Wake);
    }
}

#[test]
fn two_never_hold_at_once() {
    let mut takeovers = 0;
    for seed in 0..seeds() {
        // The fastest clock gains less on the slowest than `duration / renew_deadline`.
        let mut world = World::new(seed, 0.82..1.2);
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

/// The simulation can tell: with clocks that break the rule, two do hold at once.
#[test]
fn clocks_beyond_the_rule_are_found_out() {
    let caught = (0..seeds()).any(|seed| World::new(seed, 0.3..3.0).run().is_err());
    assert!(caught);
}
