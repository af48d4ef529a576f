//! Simulation of a fleet of processes with different clocks around an API server and a Postgres:
//! kills, restarts, pauses, partitions, slow, lost and late requests, dying watches, deleted
//! Leases, and changing numbers of shards, all drawn from a seed.
//!
//! Checked invariants: two processes never own a key at once (except where Leases are deleted); two
//! never save in one epoch; no position goes back; the events of a key are processed in order; in
//! the end all events are processed and saved, and every shard of the layout is held, in balance.
//!
//! `SIMULATION_SEED` runs one seed and prints all events; `SIMULATION_RUNS` sets the number of
//! seeds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fmt::Write as _;
use std::{env, thread};

use rand::RngExt as _;

use crate::membership::names::{LeaseKey, ShardId};
use crate::membership::state_machine::WatchError;
use events::SimEvent;
use testkit::soak::rounds;
use world::{FAULT_PERIOD, PROCESSES, RECOVERY_PERIOD, SECOND, World};

mod api_server;
mod database;
mod events;
mod network;
mod shard_worker;
mod world;

/// Number of seeds in a plain run, and in a soak run.
const SEEDS: (u32, u32) = (80, 1000);
/// The fastest clock gains less on the slowest than `duration / renew_deadline`.
const CLOCK_RATES: std::ops::Range<f64> = 0.82..1.2;

impl World {
    /// Injects a fault, or heals all faults once recovery has begun.
    fn inject_fault(&mut self) {
        if self.is_recovering() {
            for p in 0..PROCESSES {
                self.processes[p].cut_from_server = false;
                self.processes[p].cut_from_database = false;
                self.end_watch(p, true, None);
                let (change, shard_count) = (self.next_id(), self.shard_count);
                self.schedule(0, p, SimEvent::ShardCountChanges(change, shard_count));
            }
            return;
        }
        let p = self.random.random_range(0..PROCESSES);
        match self.random.random_range(0..20) {
            0..2 => self.kill(p),
            2..4 => self.request_stop(p),
            4..6 => {
                let length = self.random.random_range(0..40 * SECOND);
                self.pause(p, length);
            }
            6..11 => {
                let (server, database) = (self.random.random(), self.random.random());
                self.processes[p].cut_from_server = server;
                self.processes[p].cut_from_database = database;
            }
            11..13 => {
                for q in 0..PROCESSES {
                    self.processes[q].cut_from_server = false;
                    self.processes[q].cut_from_database = false;
                }
            }
            13..15 => self.change_shard_count(),
            15 => self.end_watch(p, true, None),
            16 => self.restart_api_server(),
            17..19 if self.deletes_leases => self.delete_random_leases(),
            _ => {
                let breach = [
                    None,
                    Some(WatchError::Expired),
                    Some(WatchError::Failed(String::new())),
                ];
                let which = self.random.random_range(0..3);
                self.end_watch(p, false, breach[which].clone());
            }
        }
        let wait = self.random.random_range(SECOND..6 * SECOND);
        self.schedule(wait, PROCESSES, SimEvent::InjectFault);
    }

    fn request_stop(&mut self, p: usize) {
        if self.is_up(p) {
            self.send_input(p, crate::membership::state_machine::Input::Stop);
        }
    }

    fn change_shard_count(&mut self) {
        let before = self.shard_count;
        while self.shard_count == before {
            self.shard_count = [4, 8, 16][self.random.random_range(0..3)];
        }
        let change = self.next_id();
        for p in 0..PROCESSES {
            let wait = self.random.random_range(0..20 * SECOND);
            self.schedule(
                wait,
                p,
                SimEvent::ShardCountChanges(change, self.shard_count),
            );
        }
    }

    /// Ends all watches, some of them with their history compacted.
    fn restart_api_server(&mut self) {
        self.down_until = self.now + self.random.random_range(0..20 * SECOND);
        if self.random.random_bool(0.5) {
            self.server.compact();
        }
        for p in 0..PROCESSES {
            self.end_watch(p, false, None);
        }
    }

    fn delete_random_leases(&mut self) {
        let names: Vec<LeaseKey> = self.server.leases.keys().cloned().collect();
        let before = self.server.version;
        for name in names {
            if self.random.random_bool(0.15) {
                self.server.set(&name, None);
            }
        }
        if self.server.version > before {
            self.broadcast_changes(before);
        }
    }

    /// Returns whether the fleet is in its desired state, with nothing left to do.
    fn is_settled(&self) -> bool {
        let member = |process: &world::SimProcess| {
            let state = process.state.as_ref();
            state.is_some_and(|state| state.identity().is_some())
        };
        if !self.processes.iter().all(member) {
            return false;
        }
        let mut owners = [0; PROCESSES];
        for shard in 0..self.shard_count {
            let shard_id = ShardId {
                shard_count: self.shard_count,
                shard,
            };
            let Some(state) = self.server.leases.get(&LeaseKey::Shard(shard_id)) else {
                return false;
            };
            let owner = state.holder.as_ref().and_then(|id| self.pod_of_process(id));
            let Some(owner) = owner else {
                return false;
            };
            let worker = self.processes[owner].workers.get(&shard_id);
            if worker.is_none_or(|worker| worker.lost) {
                return false;
            }
            owners[owner] += 1;
        }
        let workers: usize = self.processes.iter().map(|p| p.workers.len()).sum();
        workers == usize::from(self.shard_count)
            && owners.iter().max().unwrap() - owners.iter().min().unwrap() <= 1
            && self.server.leases.len() == PROCESSES + usize::from(self.shard_count)
            && self.log.is_handled()
            && self.database.is_saved(&self.log)
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "{} shards, handled {}, saved {}, {} leases\n",
            self.shard_count,
            self.log.is_handled(),
            self.database.is_saved(&self.log),
            self.server.leases.len(),
        );
        for process in &self.processes {
            let state = process.state.as_ref();
            let workers: Vec<&ShardId> = process.workers.keys().collect();
            let me = state.map(crate::membership::state_machine::MembershipState::identity);
            writeln!(text, "{me:?}: {workers:?}").unwrap();
        }
        for (name, state) in &self.server.leases {
            writeln!(text, "{name:?} {state:?}").unwrap();
        }
        text
    }
}

/// Counts over all seeds.
#[derive(Debug, Default)]
struct Tally {
    seeds: u64,
    grants: u64,
    fenced_saves: u64,
    redeliveries: u64,
    reshards: u64,
    slowest_recovery: u64,
    writes: u64,
}

fn run_seed(seed: u64, rates: std::ops::Range<f64>, tally: &mut Tally) -> Result<(), String> {
    let mut world = World::new(seed, rates);
    world.trace = env_number("SIMULATION_SEED").is_some();
    world.run()?;
    tally.seeds += 1;
    tally.grants += world.grants;
    tally.fenced_saves += u64::from(world.database.fenced_saves);
    tally.redeliveries += world.log.redeliveries;
    tally.reshards += u64::from(world.database.reshards);
    tally.writes += world.server.writes;
    let settled = world.settled_at.unwrap_or(FAULT_PERIOD + RECOVERY_PERIOD) - FAULT_PERIOD;
    tally.slowest_recovery = tally.slowest_recovery.max(settled / SECOND);
    Ok(())
}

fn env_number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.grants += other.grants;
        self.fenced_saves += other.fenced_saves;
        self.redeliveries += other.redeliveries;
        self.reshards += other.reshards;
        self.writes += other.writes;
        self.slowest_recovery = self.slowest_recovery.max(other.slowest_recovery);
    }
}

fn seed_count() -> u64 {
    rounds(SEEDS.0, SEEDS.1).into()
}

/// Runs the seeds from `first` on, in steps of `step`.
fn run_seeds(first: u64, end: u64, step: usize) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for seed in (first..end).step_by(step) {
        run_seed(seed, CLOCK_RATES, &mut tally)
            .map_err(|why| format!("SIMULATION_SEED={seed}: {why}"))?;
    }
    Ok(tally)
}

#[test]
fn fleet_keeps_its_guarantees() {
    let (first, end) = match env_number("SIMULATION_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, env_number("SIMULATION_RUNS").unwrap_or_else(seed_count)),
    };
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8);
    let tallies: Vec<Result<Tally, String>> = thread::scope(|scope| {
        let play = |n| scope.spawn(move || run_seeds(first + n as u64, end, threads));
        let playing: Vec<_> = (0..threads).map(play).collect();
        playing
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut all = Tally::default();
    for tally in tallies {
        match tally {
            Ok(tally) => all.add(&tally),
            Err(reason) => panic!("{reason}"),
        }
    }
    println!("{all:?}");
    assert!(all.grants > all.seeds * 16, "{all:?}");
}

/// Sanity check of the simulation: with excessive clock drift, two processes do own a key at once.
#[test]
fn excessive_clock_drift_is_detected() {
    let caught = (0..seed_count()).any(|seed| {
        let violation = run_seed(seed, 0.3..3.0, &mut Tally::default());
        violation.is_err_and(|why| why.contains(" while "))
    });
    assert!(caught);
}
