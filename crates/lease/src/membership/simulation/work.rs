//! What a process does with the shards it is handed: it claims their epochs, handles the events
//! of their keys in order, saves now and then, and lets go.

use super::super::names::ShardId;
use super::super::state_machine::Input;
use super::database::{Positions, is_of};
use super::world::{Happening, Micros, PROCESSES, SECOND, World};

/// Between two steps of work, at least.
const STEP: Micros = SECOND / 2;
/// How long a worker that is to leave tries to save.
const DRAIN: Micros = 5 * SECOND;

#[derive(Debug)]
pub(super) struct Worker {
    id: u64,
    epoch: Option<u64>,
    positions: Positions,
    leaving_since: Option<Micros>,
    pub(super) lost: bool,
    /// Whether the last save has everything in it.
    is_saving: bool,
}

impl World {
    pub(super) fn begin(&mut self, p: usize, shard_id: ShardId) {
        let id = self.number();
        self.began += 1;
        if !self.meddles {
            self.check_alone(p, shard_id);
        }
        let worker = Worker {
            id,
            epoch: None,
            positions: Positions::new(),
            leaving_since: None,
            lost: false,
            is_saving: false,
        };
        if self.processes[p].workers.insert(shard_id, worker).is_some() {
            self.broken = Some(format!("{shard_id:?} is handed out to {p} twice"));
        }
        self.after(0, p, Happening::Step(shard_id, id));
    }

    /// Nobody else may hold any of the keys at this moment.
    fn check_alone(&mut self, p: usize, shard_id: ShardId) {
        for q in 0..PROCESSES {
            let now = self.local(q);
            let other = &self.processes[q];
            if q == p || other.until.is_none_or(|until| now >= until) {
                continue;
            }
            let overlaps =
                |held: &ShardId| *held == shard_id || held.shard_count != shard_id.shard_count;
            let mut held = other.workers.iter().filter(|(_, worker)| !worker.lost);
            if let Some((held, _)) = held.find(|(held, _)| overlaps(held)) {
                self.broken = Some(format!("{p} begins {shard_id:?} while {q} has {held:?}"));
            }
        }
    }

    pub(super) fn leave(&mut self, p: usize, shard_id: ShardId) {
        let now = self.now;
        if let Some(worker) = self.processes[p].workers.get_mut(&shard_id) {
            worker.leaving_since.get_or_insert(now);
        }
    }

    pub(super) fn lost(&mut self, p: usize, shard_id: ShardId) {
        if let Some(worker) = self.processes[p].workers.get_mut(&shard_id) {
            worker.lost = true;
        }
    }

    fn let_go(&mut self, p: usize, shard_id: ShardId) {
        self.processes[p].workers.remove(&shard_id);
        self.tell(p, Input::ShardDropped(shard_id));
    }

    pub(super) fn step(&mut self, p: usize, shard_id: ShardId, id: u64) -> Result<(), String> {
        let wait = STEP + self.random.random_range(0..STEP);
        // The timer of the membership comes first.
        let now = self.local(p);
        let ended = self.processes[p].until.is_none_or(|until| now >= until);
        let Some(worker) = self.processes[p].workers.get_mut(&shard_id) else {
            return Ok(());
        };
        if worker.id != id {
            return Ok(());
        }
        if worker.lost || ended {
            // It takes a while for what was in flight to be dropped.
            if !self.calm() && self.random.random_bool(0.5) {
                self.after(wait, p, Happening::Step(shard_id, id));
            } else if self.processes[p]
                .workers
                .get(&shard_id)
                .is_some_and(|w| w.lost)
            {
                self.let_go(p, shard_id);
            } else {
                self.after(wait, p, Happening::Step(shard_id, id));
            }
            return Ok(());
        }
        let Some(epoch) = worker.epoch else {
            if worker.leaving_since.is_some() {
                self.let_go(p, shard_id);
            } else {
                let latency = self.latency();
                self.after(latency, p, Happening::DatabaseClaim(shard_id, id));
                self.after(wait.max(2 * latency), p, Happening::Step(shard_id, id));
            }
            return Ok(());
        };
        let leaving_since = worker.leaving_since;
        if leaving_since.is_none() {
            self.handle_some(p, shard_id)?;
        }
        if leaving_since.is_some_and(|since| self.now > since + DRAIN) {
            self.let_go(p, shard_id);
            return Ok(());
        }
        if leaving_since.is_some() || self.random.random_bool(0.4) {
            let worker = self.processes[p].workers.get_mut(&shard_id).unwrap();
            worker.is_saving = leaving_since.is_some();
            let positions = worker.positions.clone();
            let latency = self.latency();
            self.after(
                latency,
                p,
                Happening::DatabaseSave(shard_id, id, epoch, positions),
            );
        }
        // Sometimes a worker gives up by itself.
        if self.chance(0.002) {
            self.let_go(p, shard_id);
            return Ok(());
        }
        self.after(wait, p, Happening::Step(shard_id, id));
        Ok(())
    }

    fn handle_some(&mut self, p: usize, shard_id: ShardId) -> Result<(), String> {
        let worker = self.processes[p].workers.get_mut(&shard_id).unwrap();
        for (key, position) in &mut worker.positions {
            assert!(is_of(*key, shard_id), "a key of another shard");
            for _ in 0..3 {
                if *position < self.log.written[*key] {
                    self.log.handle(*key, *position)?;
                    *position += 1;
                }
            }
        }
        Ok(())
    }

    fn is_cut_off(&mut self, p: usize) -> bool {
        self.processes[p].cut_from_database || self.chance(0.02)
    }

    pub(super) fn land_claim(&mut self, p: usize, life: u64, shard_id: ShardId, id: u64) {
        if self.is_cut_off(p) {
            return;
        }
        let (epoch, positions) = self.database.claim(shard_id);
        if life == self.processes[p].life {
            let latency = self.latency();
            self.after(
                latency,
                p,
                Happening::Claimed(shard_id, id, epoch, positions),
            );
        }
    }

    pub(super) fn claimed(
        &mut self,
        p: usize,
        shard_id: ShardId,
        id: u64,
        epoch: u64,
        positions: Positions,
    ) {
        if let Some(worker) = self.processes[p].workers.get_mut(&shard_id)
            && worker.id == id
            && worker.epoch.is_none_or(|before| before < epoch)
        {
            (worker.epoch, worker.positions) = (Some(epoch), positions);
        }
    }

    pub(super) fn land_save(
        &mut self,
        p: usize,
        life: u64,
        shard_id: ShardId,
        (id, epoch): (u64, u64),
        positions: &Positions,
    ) -> Result<(), String> {
        if self.is_cut_off(p) {
            return Ok(());
        }
        let accepted = self.database.save(shard_id, epoch, (p, life), positions)?;
        if life == self.processes[p].life {
            let latency = self.latency();
            self.after(latency, p, Happening::Saved(shard_id, id, accepted));
        }
        Ok(())
    }

    pub(super) fn saved(&mut self, p: usize, shard_id: ShardId, id: u64, accepted: bool) {
        let worker = self.processes[p].workers.get(&shard_id);
        let Some(worker) = worker.filter(|worker| worker.id == id) else {
            return;
        };
        if !accepted || worker.leaving_since.is_some() && worker.is_saving {
            self.let_go(p, shard_id);
        }
    }
}

use rand::RngExt as _;
