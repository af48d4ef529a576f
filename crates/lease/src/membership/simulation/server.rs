//! The API server of the simulation: Leases with versions, and what has become of them.

use std::collections::BTreeMap;

use super::super::core::Refusal;
use super::super::names::{LeaseKey, LeaseState, MemberId};

/// A Lease's name, and what it became.
pub(super) type News = (LeaseKey, Option<LeaseState>);

#[derive(Clone, Debug)]
pub(super) enum Request {
    Write {
        key: LeaseKey,
        over: Option<u64>,
        holder: Option<MemberId>,
        desired_shards: u16,
    },
    Delete(LeaseKey, u64),
    Look(LeaseKey),
}

impl Request {
    pub(super) fn key(&self) -> &LeaseKey {
        match self {
            Self::Write { key, .. } | Self::Delete(key, _) | Self::Look(key) => key,
        }
    }
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) leases: BTreeMap<LeaseKey, LeaseState>,
    pub(super) version: u64,
    history: Vec<(u64, News)>,
    compacted: u64,
    pub(super) writes: u64,
}

impl Server {
    pub(super) fn set(&mut self, key: &LeaseKey, state: Option<LeaseState>) -> Option<LeaseState> {
        self.version += 1;
        let version = self.version;
        let state = state.map(|state| LeaseState { version, ..state });
        match state.clone() {
            Some(state) => drop(self.leases.insert(key.clone(), state)),
            None => drop(self.leases.remove(key)),
        }
        self.history.push((version, (key.clone(), state.clone())));
        state
    }

    /// Carries a request out; a write tells what it has changed.
    pub(super) fn ask(&mut self, request: Request) -> Result<Option<LeaseState>, Refusal> {
        let kept = self.leases.get(request.key()).map(|state| state.version);
        match request {
            Request::Look(key) => Ok(self.leases.get(&key).cloned()),
            Request::Delete(key, over) => {
                check(kept, Some(over))?;
                Ok(self.set(&key, None))
            }
            Request::Write {
                key,
                over,
                holder,
                desired_shards,
            } => {
                check(kept, over)?;
                self.writes += 1;
                let wait = std::time::Duration::from_secs(15);
                let state = LeaseState {
                    version: 0,
                    holder,
                    duration: wait,
                    desired_shards,
                };
                Ok(self.set(&key, Some(state)))
            }
        }
    }

    /// What has happened since, unless that was forgotten.
    pub(super) fn since(&self, version: u64) -> Option<Vec<News>> {
        let later = self.history.partition_point(|(at, _)| *at <= version);
        let news = self.history.iter().skip(later);
        (version >= self.compacted).then(|| news.map(|(_, news)| news.clone()).collect())
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }
}

fn check(kept: Option<u64>, over: Option<u64>) -> Result<(), Refusal> {
    match (kept, over) {
        (kept, over) if kept == over => Ok(()),
        (None, Some(_)) => Err(Refusal::Missing),
        _ => Err(Refusal::Conflict),
    }
}
