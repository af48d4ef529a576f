//! Requests in flight, at most one per Lease, and backoff after failures.

use tokio::time::Instant;

use super::{Command, MembershipState, Outage, WriteError};
use crate::lease::client::CONFLICT_RETRY_DELAY;
use crate::membership::names::{LeaseKey, LeaseState, MemberId};

/// Request about a Lease that is in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRequest {
    sent: Instant,
    kind: RequestKind,
    /// Version that is replaced or deleted, if any.
    replaces: Option<u64>,
}

/// Purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Renew,
    Claim,
    Release,
    ExpireMember,
    Delete,
    Get,
}

impl MembershipState {
    /// Applies a response and schedules the retry of a failed request.
    pub(super) fn on_response(
        &mut self,
        key: LeaseKey,
        result: Result<Option<LeaseState>, WriteError>,
        now: Instant,
    ) {
        let Some(request) = self.pending.remove(&key) else {
            return;
        };
        let is_own = self.is_own(&key);
        match result {
            Ok(Some(state)) => {
                self.write_outage = None;
                if request.kind != RequestKind::Get {
                    self.conflicts = 0;
                    self.backoffs.remove(&key);
                }
                let holder = state.holder.clone();
                self.view.apply_response(key, state, now);
                if is_own
                    && request.kind == RequestKind::Renew
                    && holder.as_ref() == Some(&self.identity)
                {
                    self.on_renewed(request.sent, now);
                }
            }
            Ok(None) if request.kind == RequestKind::Get => {
                self.view.apply_missing(&key, request.sent, now);
            }
            Ok(None) => self.view.apply_own_deletion(&key),
            // Reads the Lease to learn whether it is still this process's own, or who has created
            // it.
            Err(WriteError::Conflict | WriteError::Missing)
                if request.kind == RequestKind::Renew
                    || request.kind == RequestKind::Claim && self.view.get(&key).is_none() =>
            {
                // After the first conflict, the retry comes soon.
                let backoff = match self.conflicts {
                    0 => CONFLICT_RETRY_DELAY,
                    _ => self.jittered_retry(),
                };
                self.conflicts = self.conflicts.saturating_add(1);
                self.backoffs.insert(key.clone(), now + backoff);
                self.send_request(key, RequestKind::Get, now);
                return;
            }
            // The change behind the rejection was seen meanwhile.
            Err(WriteError::Conflict | WriteError::Missing)
                if self.cached_version(&key) != request.replaces => {}
            Err(WriteError::Conflict | WriteError::Missing) => {
                let backoff = now + self.jittered_retry();
                self.backoffs.insert(key, backoff);
            }
            Err(WriteError::Failed(reason)) => {
                self.write_outage
                    .get_or_insert(Outage { since: now, reason });
                // Counted from before the request: after one that timed out, the next follows at
                // once.
                let backoff = request.sent + self.jittered_retry();
                if request.kind == RequestKind::Claim {
                    self.claims_backoff = Some(backoff);
                }
                self.backoffs.insert(key, backoff);
            }
        }
        if is_own {
            self.check_membership();
        }
    }

    /// Returns whether no request about the Lease is in flight and none has just failed.
    pub(super) fn can_request(&mut self, key: &LeaseKey, now: Instant) -> bool {
        let backing_off = self.backoffs.get(key).is_some_and(|until| now < *until);
        !backing_off && !self.pending.contains_key(key)
    }

    /// Writes a Lease over the version that was seen, or creates it.
    pub(super) fn send_write(
        &mut self,
        key: LeaseKey,
        kind: RequestKind,
        holder: Option<MemberId>,
        now: Instant,
    ) {
        let desired_shards = match kind {
            RequestKind::Renew => self.desired_shards(),
            _ => 0,
        };
        if kind == RequestKind::Renew {
            self.announced_shards = desired_shards;
        }
        let replaces = self.cached_version(&key);
        let command = Command::Write {
            replaces,
            desired_shards,
            key: key.clone(),
            holder,
        };
        let request = PendingRequest {
            sent: now,
            kind,
            replaces,
        };
        self.pending.insert(key, request);
        self.commands.push(command);
    }

    /// Returns the version of a Lease that was seen last.
    pub(super) fn cached_version(&self, key: &LeaseKey) -> Option<u64> {
        self.view.get(key).map(|cached| cached.state.version)
    }

    /// Reads a Lease, or deletes the version that was seen.
    pub(super) fn send_request(&mut self, key: LeaseKey, kind: RequestKind, now: Instant) {
        let command = match (kind, self.view.get(&key)) {
            (RequestKind::Get, _) => Command::Get(key.clone()),
            (_, Some(cached)) => Command::Delete(key.clone(), cached.state.version),
            (_, None) => return,
        };
        let request = PendingRequest {
            sent: now,
            kind,
            replaces: self.cached_version(&key),
        };
        self.pending.insert(key, request);
        self.commands.push(command);
    }

    /// Counts the requests in flight of these kinds.
    pub(super) fn count_pending(&self, kinds: &[RequestKind]) -> usize {
        let pending = self.pending.values();
        pending
            .filter(|request| kinds.contains(&request.kind))
            .count()
    }
}
