//! Requests in flight: at most one for each Lease, with backoff after a failure.

use tokio::time::Instant;

use super::{Command, MembershipState, Outage, WriteError};
use crate::lease::client::CONFLICT_RETRY_DELAY;
use crate::membership::names::{LeaseKey, LeaseState, MemberId};

/// A call about a Lease that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRequest {
    sent: Instant,
    kind: RequestKind,
    /// The version that is written over or deleted, if any.
    replaces: Option<u64>,
}

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
            // Whether it is still ours, or who has made it, is not waited for.
            Err(WriteError::Conflict | WriteError::Missing)
                if request.kind == RequestKind::Renew
                    || request.kind == RequestKind::Claim && self.view.get(&key).is_none() =>
            {
                // The first time it may be tried again soon.
                let backoff = match self.conflicts {
                    0 => CONFLICT_RETRY_DELAY,
                    _ => self.jittered_retry(),
                };
                self.conflicts = self.conflicts.saturating_add(1);
                self.backoffs.insert(key.clone(), now + backoff);
                self.send_request(key, RequestKind::Get, now);
                return;
            }
            // What it was refused for may have been seen meanwhile.
            Err(WriteError::Conflict | WriteError::Missing)
                if self.cached_version(&key) != request.replaces => {}
            Err(WriteError::Conflict | WriteError::Missing) => {
                let backoff = now + self.jittered_retry();
                self.backoffs.insert(key, backoff);
            }
            Err(WriteError::Failed(reason)) => {
                self.write_outage
                    .get_or_insert(Outage { since: now, reason });
                // Counted from before the call: one that took its time is tried again at once.
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

    /// Whether nothing is under way about a Lease and nothing went wrong just now.
    pub(super) fn can_request(&mut self, key: &LeaseKey, now: Instant) -> bool {
        let backing_off = self.backoffs.get(key).is_some_and(|until| now < *until);
        !backing_off && !self.pending.contains_key(key)
    }

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

    /// The version of a Lease that was seen last.
    pub(super) fn cached_version(&self, key: &LeaseKey) -> Option<u64> {
        self.view.get(key).map(|cached| cached.state.version)
    }

    /// Looks at a Lease, or deletes it as it was seen.
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

    pub(super) fn count_pending(&self, kinds: &[RequestKind]) -> usize {
        let pending = self.pending.values();
        pending
            .filter(|request| kinds.contains(&request.kind))
            .count()
    }
}
