//! Requests and watch events between the processes and the API server, and what is lost on the way.

use std::collections::VecDeque;

use super::api_server::{LeaseChange, LeaseRequest};
use super::events::SimEvent;
use super::world::{PROCESSES, WatchStream, World};
use crate::membership::names::ShardId;
use crate::membership::state_machine::{Command, WatchError, WriteError};

impl World {
    pub(super) fn execute(&mut self, p: usize, command: Command) {
        match command {
            Command::List => {
                let id = self.start_sync(p);
                let latency = self.latency();
                self.schedule(latency, p, SimEvent::ListRequestArrives(id));
                let limit = self.true_duration(p, self.timing.retry_period());
                let late = Err(WatchError::Failed("late".to_owned()));
                self.schedule(limit, p, SimEvent::ListResponseArrives(id, late));
            }
            Command::Watch(version) => {
                let id = self.start_sync(p);
                let latency = self.latency();
                self.schedule(latency, p, SimEvent::WatchRequestArrives(id, version));
                let limit = self.true_duration(p, self.timing.retry_period());
                let late = Err(WatchError::Failed("late".to_owned()));
                self.schedule(limit, p, SimEvent::WatchResponseArrives(id, late));
            }
            Command::Write {
                key,
                replaces,
                holder,
                desired_shards,
            } => {
                self.send_request(
                    p,
                    LeaseRequest::Write {
                        key,
                        replaces,
                        holder,
                        desired_shards,
                    },
                );
            }
            Command::Delete(key, version) => {
                self.send_request(p, LeaseRequest::Delete(key, version));
            }
            Command::Get(key) => self.send_request(p, LeaseRequest::Look(key)),
            Command::SetDeadline(_, until) => self.processes[p].deadline = Some(until),
            Command::RevokeAll(_) => {
                self.processes[p].deadline = None;
                let shard_ids: Vec<ShardId> = self.processes[p].workers.keys().copied().collect();
                for shard_id in shard_ids {
                    self.on_revoke(p, shard_id);
                }
            }
            Command::Grant(shard_id) => self.on_grant(p, shard_id),
            Command::RequestRelease(shard_id) => self.on_release_request(p, shard_id),
            Command::Revoke(shard_id) => self.on_revoke(p, shard_id),
            Command::Finished(_) => self.kill(p),
        }
    }

    fn start_sync(&mut self, p: usize) -> u64 {
        let id = self.next_id();
        self.processes[p].syncing = id;
        self.processes[p].watch = None;
        id
    }

    fn send_request(&mut self, p: usize, request: LeaseRequest) {
        let id = self.next_id();
        let key = request.key().clone();
        self.processes[p].in_flight.insert(id, key.clone());
        let latency = self.latency();
        self.schedule(latency, p, SimEvent::RequestArrives(id, request));
        let limit = self.true_duration(p, self.timing.retry_period());
        let late = Err(WriteError::Failed("late".to_owned()));
        self.schedule(limit, p, SimEvent::ResponseArrives(id, key, late));
    }

    fn is_unreachable(&mut self, p: usize) -> bool {
        self.now < self.down_until || self.processes[p].cut_from_server || self.chance(0.02)
    }

    pub(super) fn on_request(
        &mut self,
        p: usize,
        incarnation: u64,
        id: u64,
        request: LeaseRequest,
    ) {
        if self.is_unreachable(p) {
            return;
        }
        let key = request.key().clone();
        let before = self.server.version;
        let (fails, conflicts) = (self.chance(0.02), self.chance(0.02));
        let result = match (fails, conflicts) {
            (true, _) => Err(WriteError::Failed("500".to_owned())),
            (_, true) => Err(WriteError::Conflict),
            _ => self.server.handle(request),
        };
        if self.server.version > before {
            self.broadcast_changes(before);
        }
        if incarnation == self.processes[p].incarnation && !self.chance(0.03) {
            let latency = self.latency();
            self.schedule(latency, p, SimEvent::ResponseArrives(id, key, result));
        }
    }

    /// Sends all changes after the version `before` to the watchers.
    pub(super) fn broadcast_changes(&mut self, before: u64) {
        for change in self.server.changes_since(before).unwrap() {
            for p in 0..PROCESSES {
                self.send_change(p, change.clone());
            }
        }
    }

    fn send_change(&mut self, p: usize, change: LeaseChange) {
        let latency = self.latency();
        let now = self.now;
        let cut = self.processes[p].cut_from_server;
        let Some(watch) = &mut self.processes[p].watch else {
            return;
        };
        // After a lost event, the watch shows nothing more.
        watch.stalled |= cut;
        if watch.stalled {
            return;
        }
        watch.last_delivery = watch.last_delivery.max(now + latency);
        watch.in_transit.push_back(change);
        let (id, wait) = (watch.id, watch.last_delivery - now);
        self.schedule(wait, p, SimEvent::WatchEventArrives(id));
    }

    pub(super) fn on_list_request(&mut self, p: usize, incarnation: u64, id: u64) {
        if incarnation != self.processes[p].incarnation || self.is_unreachable(p) {
            return;
        }
        let result = if self.chance(0.05) {
            Err(WatchError::Failed("500".to_owned()))
        } else {
            let leases = self.server.leases.clone().into_iter().collect();
            Ok((leases, self.server.version))
        };
        let latency = self.latency();
        self.schedule(latency, p, SimEvent::ListResponseArrives(id, result));
    }

    pub(super) fn on_watch_request(&mut self, p: usize, incarnation: u64, id: u64, version: u64) {
        if incarnation != self.processes[p].incarnation
            || self.processes[p].syncing != id
            || self.is_unreachable(p)
        {
            return;
        }
        let latency = self.latency();
        let missed = match self.server.changes_since(version) {
            Some(_) if self.chance(0.05) => Err(WatchError::Failed("500".to_owned())),
            Some(missed) => Ok(missed),
            None => Err(WatchError::Expired),
        };
        let answer = missed.as_ref().map(|_| ()).map_err(Clone::clone);
        self.schedule(latency, p, SimEvent::WatchResponseArrives(id, answer));
        let stalled = self.chance(0.03);
        if let Ok(missed) = missed {
            self.processes[p].watch = Some(WatchStream {
                id,
                last_delivery: self.now + latency,
                in_transit: VecDeque::new(),
                stalled,
            });
            for change in missed {
                self.send_change(p, change);
            }
        }
    }

    /// Ends a watch, or makes it silently die.
    pub(super) fn end_watch(&mut self, p: usize, silently: bool, breach: Option<WatchError>) {
        if let Some(watch) = &mut self.processes[p].watch {
            watch.stalled = true;
            let id = watch.id;
            if !silently {
                self.schedule(0, p, SimEvent::WatchEnds(id, breach));
            }
        }
    }
}
