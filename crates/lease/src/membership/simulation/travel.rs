//! What travels between the processes and the API server, and what is lost on the way.

use std::collections::VecDeque;

use super::super::names::ShardId;
use super::super::state_machine::{Command, WatchError, WriteError};
use super::server::{News, Request};
use super::world::{Happening, PROCESSES, Watch, World};

impl World {
    pub(super) fn act(&mut self, p: usize, action: Command) {
        match action {
            Command::List => {
                let id = self.open(p);
                let latency = self.latency();
                self.after(latency, p, Happening::ListLands(id));
                let limit = self.span(p, self.timing.retry_period());
                let late = Err(WatchError::Failed("late".to_owned()));
                self.after(limit, p, Happening::Listed(id, late));
            }
            Command::Watch(version) => {
                let id = self.open(p);
                let latency = self.latency();
                self.after(latency, p, Happening::FollowLands(id, version));
                let limit = self.span(p, self.timing.retry_period());
                let late = Err(WatchError::Failed("late".to_owned()));
                self.after(limit, p, Happening::Followed(id, late));
            }
            Command::Write {
                key,
                replaces,
                holder,
                desired_shards,
            } => {
                self.ask(
                    p,
                    Request::Write {
                        key,
                        replaces,
                        holder,
                        desired_shards,
                    },
                );
            }
            Command::Delete(key, version) => self.ask(p, Request::Delete(key, version)),
            Command::Get(key) => self.ask(p, Request::Look(key)),
            Command::SetDeadline(_, until) => self.processes[p].until = Some(until),
            Command::RevokeAll(_) => {
                self.processes[p].until = None;
                let shard_ids: Vec<ShardId> = self.processes[p].workers.keys().copied().collect();
                for shard_id in shard_ids {
                    self.lost(p, shard_id);
                }
            }
            Command::Grant(shard_id) => self.begin(p, shard_id),
            Command::RequestRelease(shard_id) => self.leave(p, shard_id),
            Command::Revoke(shard_id) => self.lost(p, shard_id),
            Command::Finished(_) => self.kill(p),
        }
    }

    fn open(&mut self, p: usize) -> u64 {
        let id = self.number();
        self.processes[p].opening = id;
        self.processes[p].watch = None;
        id
    }

    fn ask(&mut self, p: usize, request: Request) {
        let id = self.number();
        let key = request.key().clone();
        self.processes[p].asking.insert(id, key.clone());
        let latency = self.latency();
        self.after(latency, p, Happening::Lands(id, request));
        let limit = self.span(p, self.timing.retry_period());
        let late = Err(WriteError::Failed("late".to_owned()));
        self.after(limit, p, Happening::Answered(id, key, late));
    }

    fn is_unreachable(&mut self, p: usize) -> bool {
        self.now < self.down_until || self.processes[p].cut_from_server || self.chance(0.02)
    }

    pub(super) fn land(&mut self, p: usize, life: u64, id: u64, request: Request) {
        if self.is_unreachable(p) {
            return;
        }
        let key = request.key().clone();
        let before = self.server.version;
        let (fails, conflicts) = (self.chance(0.02), self.chance(0.02));
        let result = match (fails, conflicts) {
            (true, _) => Err(WriteError::Failed("500".to_owned())),
            (_, true) => Err(WriteError::Conflict),
            _ => self.server.ask(request),
        };
        if self.server.version > before {
            self.spread_news(before);
        }
        if life == self.processes[p].life && !self.chance(0.03) {
            let latency = self.latency();
            self.after(latency, p, Happening::Answered(id, key, result));
        }
    }

    /// Tells all who watch what has happened since the version `before`.
    pub(super) fn spread_news(&mut self, before: u64) {
        for news in self.server.since(before).unwrap() {
            for p in 0..PROCESSES {
                self.send_news(p, news.clone());
            }
        }
    }

    fn send_news(&mut self, p: usize, news: News) {
        let latency = self.latency();
        let now = self.now;
        let cut = self.processes[p].cut_from_server;
        let Some(watch) = &mut self.processes[p].watch else {
            return;
        };
        // What is lost on the way is followed by nothing.
        watch.known_dead |= cut;
        if watch.known_dead {
            return;
        }
        watch.last = watch.last.max(now + latency);
        watch.under_way.push_back(news);
        let (id, wait) = (watch.id, watch.last - now);
        self.after(wait, p, Happening::News(id));
    }

    pub(super) fn land_list(&mut self, p: usize, life: u64, id: u64) {
        if life != self.processes[p].life || self.is_unreachable(p) {
            return;
        }
        let result = if self.chance(0.05) {
            Err(WatchError::Failed("500".to_owned()))
        } else {
            let leases = self.server.leases.clone().into_iter().collect();
            Ok((leases, self.server.version))
        };
        let latency = self.latency();
        self.after(latency, p, Happening::Listed(id, result));
    }

    pub(super) fn land_follow(&mut self, p: usize, life: u64, id: u64, version: u64) {
        if life != self.processes[p].life
            || self.processes[p].opening != id
            || self.is_unreachable(p)
        {
            return;
        }
        let latency = self.latency();
        let missed = match self.server.since(version) {
            Some(_) if self.chance(0.05) => Err(WatchError::Failed("500".to_owned())),
            Some(missed) => Ok(missed),
            None => Err(WatchError::Expired),
        };
        let answer = missed.as_ref().map(|_| ()).map_err(Clone::clone);
        self.after(latency, p, Happening::Followed(id, answer));
        let known_dead = self.chance(0.03);
        if let Ok(missed) = missed {
            self.processes[p].watch = Some(Watch {
                id,
                last: self.now + latency,
                under_way: VecDeque::new(),
                known_dead,
            });
            for news in missed {
                self.send_news(p, news);
            }
        }
    }

    /// Ends a watch, or has it silently die.
    pub(super) fn lose_watch(&mut self, p: usize, silently: bool, breach: Option<WatchError>) {
        if let Some(watch) = &mut self.processes[p].watch {
            watch.known_dead = true;
            let id = watch.id;
            if !silently {
                self.after(0, p, Happening::Unfollowed(id, breach));
            }
        }
    }
}
