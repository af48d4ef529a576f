//! Worker of a shard: it claims an epoch, processes the events of its keys in order, saves now and
//! then, and releases the shard.

use super::database::{Positions, belongs_to};
use super::events::SimEvent;
use super::world::{PROCESSES, SECOND, World};
use crate::membership::names::ShardId;
use crate::membership::state_machine::Input;
use crate::testing::Micros;

/// Minimum time between two steps.
const STEP: Micros = SECOND / 2;
/// How long a draining worker tries to save.
const DRAIN: Micros = 5 * SECOND;

/// Worker of one granted shard.
#[derive(Debug)]
pub(super) struct ShardWorker {
    id: u64,
    epoch: Option<u64>,
    positions: Positions,
    draining_since: Option<Micros>,
    pub(super) lost: bool,
    /// Whether the last save contains everything.
    is_saving: bool,
}

impl World {
    pub(super) fn on_grant(&mut self, p: usize, shard_id: ShardId) {
        let id = self.next_id();
        self.grants += 1;
        if !self.deletes_leases {
            self.check_exclusive(p, shard_id);
        }
        let worker = ShardWorker {
            id,
            epoch: None,
            positions: Positions::new(),
            draining_since: None,
            lost: false,
            is_saving: false,
        };
        if self.processes[p].workers.insert(shard_id, worker).is_some() {
            self.violation = Some(format!("{shard_id:?} is granted to {p} twice"));
        }
        self.schedule(0, p, SimEvent::WorkerStep(shard_id, id));
    }

    /// Checks that no other process owns any of the keys at this moment.
    fn check_exclusive(&mut self, p: usize, shard_id: ShardId) {
        for q in 0..PROCESSES {
            let now = self.local_time(q);
            let other = &self.processes[q];
            if q == p || other.deadline.is_none_or(|until| now >= until) {
                continue;
            }
            let overlaps =
                |held: &ShardId| *held == shard_id || held.shard_count != shard_id.shard_count;
            let mut held = other.workers.iter().filter(|(_, worker)| !worker.lost);
            if let Some((held, _)) = held.find(|(held, _)| overlaps(held)) {
                self.violation = Some(format!(
                    "{p} is granted {shard_id:?} while {q} has {held:?}"
                ));
            }
        }
    }

    pub(super) fn on_release_request(&mut self, p: usize, shard_id: ShardId) {
        let now = self.now;
        if let Some(worker) = self.processes[p].workers.get_mut(&shard_id) {
            worker.draining_since.get_or_insert(now);
        }
    }

    pub(super) fn on_revoke(&mut self, p: usize, shard_id: ShardId) {
        if let Some(worker) = self.processes[p].workers.get_mut(&shard_id) {
            worker.lost = true;
        }
    }

    fn drop_shard(&mut self, p: usize, shard_id: ShardId) {
        self.processes[p].workers.remove(&shard_id);
        self.send_input(p, Input::ShardDropped(shard_id));
    }

    pub(super) fn step_worker(
        &mut self,
        p: usize,
        shard_id: ShardId,
        id: u64,
    ) -> Result<(), String> {
        let wait = STEP + self.random.random_range(0..STEP);
        // The renew deadline comes first.
        let now = self.local_time(p);
        let ended = self.processes[p].deadline.is_none_or(|until| now >= until);
        let Some(worker) = self.processes[p].workers.get_mut(&shard_id) else {
            return Ok(());
        };
        if worker.id != id {
            return Ok(());
        }
        if worker.lost || ended {
            // Work in flight takes a while to be dropped.
            if !self.is_recovering() && self.random.random_bool(0.5) {
                self.schedule(wait, p, SimEvent::WorkerStep(shard_id, id));
            } else if self.processes[p]
                .workers
                .get(&shard_id)
                .is_some_and(|w| w.lost)
            {
                self.drop_shard(p, shard_id);
            } else {
                self.schedule(wait, p, SimEvent::WorkerStep(shard_id, id));
            }
            return Ok(());
        }
        let Some(epoch) = worker.epoch else {
            if worker.draining_since.is_some() {
                self.drop_shard(p, shard_id);
            } else {
                let latency = self.latency();
                self.schedule(latency, p, SimEvent::ClaimRequestArrives(shard_id, id));
                self.schedule(wait.max(2 * latency), p, SimEvent::WorkerStep(shard_id, id));
            }
            return Ok(());
        };
        let draining_since = worker.draining_since;
        if draining_since.is_none() {
            self.process_events(p, shard_id)?;
        }
        if draining_since.is_some_and(|since| self.now > since + DRAIN) {
            self.drop_shard(p, shard_id);
            return Ok(());
        }
        if draining_since.is_some() || self.random.random_bool(0.4) {
            let worker = self.processes[p].workers.get_mut(&shard_id).unwrap();
            worker.is_saving = draining_since.is_some();
            let positions = worker.positions.clone();
            let latency = self.latency();
            self.schedule(
                latency,
                p,
                SimEvent::SaveRequestArrives(shard_id, id, epoch, positions),
            );
        }
        // Sometimes a worker drops its shard by itself.
        if self.chance(0.002) {
            self.drop_shard(p, shard_id);
            return Ok(());
        }
        self.schedule(wait, p, SimEvent::WorkerStep(shard_id, id));
        Ok(())
    }

    fn process_events(&mut self, p: usize, shard_id: ShardId) -> Result<(), String> {
        let worker = self.processes[p].workers.get_mut(&shard_id).unwrap();
        for (key, position) in &mut worker.positions {
            assert!(belongs_to(*key, shard_id), "a key of another shard");
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

    pub(super) fn on_claim_request(
        &mut self,
        p: usize,
        incarnation: u64,
        shard_id: ShardId,
        id: u64,
    ) {
        if self.is_cut_off(p) {
            return;
        }
        let (epoch, positions) = self.database.claim(shard_id);
        if incarnation == self.processes[p].incarnation {
            let latency = self.latency();
            self.schedule(
                latency,
                p,
                SimEvent::ClaimResponseArrives(shard_id, id, epoch, positions),
            );
        }
    }

    pub(super) fn on_claim_response(
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

    pub(super) fn on_save_request(
        &mut self,
        p: usize,
        incarnation: u64,
        shard_id: ShardId,
        (id, epoch): (u64, u64),
        positions: &Positions,
    ) -> Result<(), String> {
        if self.is_cut_off(p) {
            return Ok(());
        }
        let accepted = self
            .database
            .save(shard_id, epoch, (p, incarnation), positions)?;
        if incarnation == self.processes[p].incarnation {
            let latency = self.latency();
            self.schedule(
                latency,
                p,
                SimEvent::SaveResponseArrives(shard_id, id, accepted),
            );
        }
        Ok(())
    }

    pub(super) fn on_save_response(
        &mut self,
        p: usize,
        shard_id: ShardId,
        id: u64,
        accepted: bool,
    ) {
        let worker = self.processes[p].workers.get(&shard_id);
        let Some(worker) = worker.filter(|worker| worker.id == id) else {
            return;
        };
        if !accepted || worker.draining_since.is_some() && worker.is_saving {
            self.drop_shard(p, shard_id);
        }
    }
}

use rand::RngExt as _;
