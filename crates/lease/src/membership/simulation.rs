//! A fleet of processes with clocks of their own around an API server and a Postgres: kills,
//! restarts, pauses, partitions, calls that are slow, lost or land late, watches that die, Leases
//! that are deleted, and numbers of shards that change, all drawn from a seed.
//!
//! What is checked: two never hold one key at once (but where somebody deletes Leases); two never
//! save in one epoch; no position goes back; the events of a key are handled in order; in the
//! end all were handled and saved, and every shard of the wanted layout is held, balanced.
//!
//! `SIMULATION_SEED` plays one seed and prints all that happens, `SIMULATION_RUNS` that many.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fmt::Write as _;
use std::{env, thread};

use rand::RngExt as _;

use super::names::{LeaseKey, ShardId};
use super::state_machine::WatchError;
use testkit::soak::rounds;
use world::{CALM, Happening, PROCESSES, SECOND, TROUBLE, World};

mod database;
mod server;
mod travel;
mod work;
mod world;

/// Seeds that are played in a plain run, and in a long one.
const RUNS: (u32, u32) = (80, 1000);
/// The fastest clock gains less on the slowest than `duration / renew_deadline`.
const RATES: std::ops::Range<f64> = 0.82..1.2;

impl World {
    /// Something goes wrong, or all that has gone wrong is mended.
    fn fault(&mut self) {
        if self.calm() {
            for p in 0..PROCESSES {
                self.processes[p].cut_from_server = false;
                self.processes[p].cut_from_database = false;
                self.lose_watch(p, true, None);
                let (change, wanted) = (self.number(), self.wanted);
                self.after(0, p, Happening::Wanted(change, wanted));
            }
            return;
        }
        let p = self.random.random_range(0..PROCESSES);
        match self.random.random_range(0..20) {
            0..2 => self.kill(p),
            2..4 => self.tell_to_stop(p),
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
            13..15 => self.change_shards(),
            15 => self.lose_watch(p, true, None),
            16 => self.restart_server(),
            17..19 if self.meddles => self.delete_some(),
            _ => {
                let breach = [
                    None,
                    Some(WatchError::Expired),
                    Some(WatchError::Failed(String::new())),
                ];
                let which = self.random.random_range(0..3);
                self.lose_watch(p, false, breach[which].clone());
            }
        }
        let wait = self.random.random_range(SECOND..6 * SECOND);
        self.after(wait, PROCESSES, Happening::Fault);
    }

    fn tell_to_stop(&mut self, p: usize) {
        if self.is_up(p) {
            self.tell(p, super::state_machine::Input::Stop);
        }
    }

    fn change_shards(&mut self) {
        let before = self.wanted;
        while self.wanted == before {
            self.wanted = [4, 8, 16][self.random.random_range(0..3)];
        }
        let change = self.number();
        for p in 0..PROCESSES {
            let wait = self.random.random_range(0..20 * SECOND);
            self.after(wait, p, Happening::Wanted(change, self.wanted));
        }
    }

    /// Everybody loses the watch, and some the changes that they have missed.
    fn restart_server(&mut self) {
        self.down_until = self.now + self.random.random_range(0..20 * SECOND);
        if self.random.random_bool(0.5) {
            self.server.compact();
        }
        for p in 0..PROCESSES {
            self.lose_watch(p, false, None);
        }
    }

    fn delete_some(&mut self) {
        let names: Vec<LeaseKey> = self.server.leases.keys().cloned().collect();
        let before = self.server.version;
        for name in names {
            if self.random.random_bool(0.15) {
                self.server.set(&name, None);
            }
        }
        if self.server.version > before {
            self.spread_news(before);
        }
    }

    /// Whether all is as it should be, and nothing more will come.
    fn is_settled(&self) -> bool {
        let member = |process: &world::Process| {
            let core = process.core.as_ref();
            core.is_some_and(|core| core.identity().is_some())
        };
        if !self.processes.iter().all(member) {
            return false;
        }
        let mut owners = [0; PROCESSES];
        for shard in 0..self.wanted {
            let shard_id = ShardId {
                shard_count: self.wanted,
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
        workers == usize::from(self.wanted)
            && owners.iter().max().unwrap() - owners.iter().min().unwrap() <= 1
            && self.server.leases.len() == PROCESSES + usize::from(self.wanted)
            && self.log.is_handled()
            && self.database.is_saved(&self.log)
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "{} shards are wanted, handled {}, saved {}, {} leases\n",
            self.wanted,
            self.log.is_handled(),
            self.database.is_saved(&self.log),
            self.server.leases.len(),
        );
        for process in &self.processes {
            let core = process.core.as_ref();
            let workers: Vec<&ShardId> = process.workers.keys().collect();
            let me = core.map(super::state_machine::MembershipState::identity);
            writeln!(text, "{me:?}: {workers:?}").unwrap();
        }
        for (name, state) in &self.server.leases {
            writeln!(text, "{name:?} {state:?}").unwrap();
        }
        text
    }
}

#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    began: u64,
    refusals: u64,
    repeats: u64,
    layouts: u64,
    slowest: u64,
    writes: u64,
}

fn play(seed: u64, rates: std::ops::Range<f64>, tally: &mut Tally) -> Result<(), String> {
    let mut world = World::new(seed, rates);
    world.traces = given("SIMULATION_SEED").is_some();
    world.run()?;
    tally.runs += 1;
    tally.began += world.began;
    tally.refusals += u64::from(world.database.refusals);
    tally.repeats += world.log.repeats;
    tally.layouts += u64::from(world.database.layouts);
    tally.writes += world.server.writes;
    let settled = world.settled_at.unwrap_or(TROUBLE + CALM) - TROUBLE;
    tally.slowest = tally.slowest.max(settled / SECOND);
    Ok(())
}

fn given(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.began += other.began;
        self.refusals += other.refusals;
        self.repeats += other.repeats;
        self.layouts += other.layouts;
        self.writes += other.writes;
        self.slowest = self.slowest.max(other.slowest);
    }
}

fn runs() -> u64 {
    rounds(RUNS.0, RUNS.1).into()
}

/// Plays the seeds from `first` on, each `step` apart.
fn play_all(first: u64, end: u64, step: usize) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for seed in (first..end).step_by(step) {
        play(seed, RATES, &mut tally).map_err(|why| format!("SIMULATION_SEED={seed}: {why}"))?;
    }
    Ok(tally)
}

#[test]
fn a_fleet_holds_what_it_promises() {
    let (first, end) = match given("SIMULATION_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, given("SIMULATION_RUNS").unwrap_or_else(runs)),
    };
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(8);
    let tallies: Vec<Result<Tally, String>> = thread::scope(|scope| {
        let play = |n| scope.spawn(move || play_all(first + n as u64, end, threads));
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
    assert!(all.began > all.runs * 16, "{all:?}");
}

/// The simulation can tell: with clocks that break the rule, two do hold one key at once.
#[test]
fn clocks_beyond_the_rule_are_found_out() {
    let caught = (0..runs()).any(|seed| {
        let broken = play(seed, 0.3..3.0, &mut Tally::default());
        broken.is_err_and(|why| why.contains("begins"))
    });
    assert!(caught);
}
