//! API server of the simulation: versioned Leases and their history.

use std::collections::BTreeMap;

use crate::membership::names::{LeaseKey, LeaseState, MemberId};
use crate::membership::state_machine::WriteError;

/// Key of a Lease, and its new state.
pub(super) type LeaseChange = (LeaseKey, Option<LeaseState>);

/// Request about one Lease.
#[derive(Clone, Debug)]
pub(super) enum LeaseRequest {
    Write {
        key: LeaseKey,
        replaces: Option<u64>,
        holder: Option<MemberId>,
        desired_shards: u16,
    },
    Delete(LeaseKey, u64),
    Look(LeaseKey),
}

impl LeaseRequest {
    pub(super) fn key(&self) -> &LeaseKey {
        match self {
            Self::Write { key, .. } | Self::Delete(key, _) | Self::Look(key) => key,
        }
    }
}

/// Versioned Leases and their history.
#[derive(Default)]
pub(super) struct ApiServer {
    pub(super) leases: BTreeMap<LeaseKey, LeaseState>,
    pub(super) version: u64,
    history: Vec<(u64, LeaseChange)>,
    compacted: u64,
    pub(super) writes: u64,
}

impl ApiServer {
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

    /// Handles a request; a write returns the new state.
    pub(super) fn handle(
        &mut self,
        request: LeaseRequest,
    ) -> Result<Option<LeaseState>, WriteError> {
        let kept = self.leases.get(request.key()).map(|state| state.version);
        match request {
            LeaseRequest::Look(key) => Ok(self.leases.get(&key).cloned()),
            LeaseRequest::Delete(key, replaces) => {
                check(kept, Some(replaces))?;
                Ok(self.set(&key, None))
            }
            LeaseRequest::Write {
                key,
                replaces,
                holder,
                desired_shards,
            } => {
                check(kept, replaces)?;
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

    /// Returns the changes after `version`, unless they are compacted.
    pub(super) fn changes_since(&self, version: u64) -> Option<Vec<LeaseChange>> {
        let later = self.history.partition_point(|(at, _)| *at <= version);
        let change = self.history.iter().skip(later);
        (version >= self.compacted).then(|| change.map(|(_, change)| change.clone()).collect())
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }
}

fn check(kept: Option<u64>, replaces: Option<u64>) -> Result<(), WriteError> {
    match (kept, replaces) {
        (kept, replaces) if kept == replaces => Ok(()),
        (None, Some(_)) => Err(WriteError::Missing),
        _ => Err(WriteError::Conflict),
    }
}
