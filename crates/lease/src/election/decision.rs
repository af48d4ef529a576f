//! What to do about the Lease that was seen. Pure: times are handed in, and every one of them
//! is read from this process's own steady clock.
//!
//! Whether a holder is gone is judged by how long this process has looked at one and the same
//! record. The times within a record are for people to read and are never used.

use tokio::time::Instant;

use crate::lease::timing::{MAX_LEASE_DURATION, Timing};
use crate::lease::{Identity, LeaseRecord};

/// What this process has seen of a Lease so far.
#[derive(Clone, Debug, Default)]
pub struct ObservedLease {
    last: Option<ObservedRecord>,
    missing: bool,
}

#[derive(Clone, Debug)]
struct ObservedRecord {
    record: LeaseRecord,
    /// When this process first saw the record, in this very version.
    since: Instant,
}

impl ObservedLease {
    /// Takes note of what there was (or that there was nothing) at `now`, a moment after the
    /// answer came: a record must never seem older than it is.
    pub fn observe(&mut self, record: Option<LeaseRecord>, now: Instant) {
        self.missing = record.is_none();
        let Some(record) = record else { return };
        match &self.last {
            Some(seen) if seen.record.version == record.version => {}
            _ => self.last = Some(ObservedRecord { record, since: now }),
        }
    }

    /// When a holder other than `me` must have stopped, if there is one.
    ///
    /// Of the record's duration and our own the longer one counts, as the holder may have been
    /// started with other times. A holder whose Lease was deleted may not know it yet.
    fn foreign_claim_expires_at(&self, me: &Identity, timing: &Timing) -> Option<Instant> {
        let seen = self.last.as_ref()?;
        let holder = seen.record.holder.as_deref()?;
        let wait = seen
            .record
            .duration
            .min(MAX_LEASE_DURATION)
            .max(timing.duration());
        (holder != me.as_str()).then(|| seen.since + wait)
    }

    /// The version that a claim would replace; none where the Lease was missing last.
    #[cfg(test)]
    pub(crate) fn replaced_version(&self) -> Option<&str> {
        let seen = self.last.as_ref().filter(|_| !self.missing)?;
        Some(&seen.record.version)
    }
}

/// What a process that stands by does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateAction {
    /// Write itself down as the holder, over what it saw: the Lease is missing, was given up,
    /// has expired, or is its own already.
    Claim,
    /// Leave the Lease alone until then, unless it changes.
    Wait(Instant),
}

/// What a process that holds the Lease does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderAction {
    /// Write its renewal over what it saw.
    Renew,
    /// Stop working: it holds the Lease no longer.
    Stop(LossReason),
}

/// Why a holder must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// No renewal succeeded in time.
    RenewDeadlineExceeded,
    /// The Lease is in other hands, or was taken out of its own.
    TakenOver,
    /// The Lease was deleted, so that anybody may have it.
    Deleted,
}

/// Decides for the process `me`, which does not hold the Lease.
#[must_use]
pub fn decide_as_candidate(
    me: &Identity,
    observed: &ObservedLease,
    now: Instant,
    timing: &Timing,
) -> CandidateAction {
    match observed.foreign_claim_expires_at(me, timing) {
        Some(expiry) if now < expiry => CandidateAction::Wait(expiry),
        _ => CandidateAction::Claim,
    }
}

/// Decides for the process `me`, which holds the Lease until its deadline, `deadline`.
#[must_use]
pub fn decide_as_holder(
    me: &Identity,
    observed: &ObservedLease,
    now: Instant,
    deadline: Instant,
) -> HolderAction {
    let holder = observed
        .last
        .as_ref()
        .and_then(|seen| seen.record.holder.as_deref());
    if now >= deadline {
        HolderAction::Stop(LossReason::RenewDeadlineExceeded)
    } else if observed.missing {
        HolderAction::Stop(LossReason::Deleted)
    } else if holder == Some(me.as_str()) {
        HolderAction::Renew
    } else {
        HolderAction::Stop(LossReason::TakenOver)
    }
}

#[cfg(test)]
mod tests;
