//! Decisions about an observed Lease. Pure: times are passed in, and all of them come from this
//! process's own monotonic clock.
//!
//! A holder counts as gone once this process has observed the same record for long enough. The
//! times inside a record are for people to read and are never used.

use tokio::time::Instant;

use crate::lease::timing::{MAX_LEASE_DURATION, Timing};
use crate::lease::{Identity, LeaseRecord};

/// What this process has observed of a Lease so far.
#[derive(Clone, Debug, Default)]
pub struct ObservedLease {
    last: Option<ObservedRecord>,
    missing: bool,
}

#[derive(Clone, Debug)]
struct ObservedRecord {
    record: LeaseRecord,
    /// When this process first saw this version of the record.
    since: Instant,
}

impl ObservedLease {
    /// Records what was read (`None` if there was no Lease) at `now`, a moment after the response
    /// arrived: a record must never seem older than it is.
    pub fn observe(&mut self, record: Option<LeaseRecord>, now: Instant) {
        self.missing = record.is_none();
        let Some(record) = record else { return };
        match &self.last {
            Some(seen) if seen.record.version == record.version => {}
            _ => self.last = Some(ObservedRecord { record, since: now }),
        }
    }

    /// Returns when a holder other than `me` must have stopped, if there is one.
    ///
    /// The longer of the record's duration and this process's own counts, as the holder may run
    /// with other times. A holder whose Lease was deleted may not have noticed yet.
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

    /// Returns the version that a claim would replace; none if the Lease was missing last.
    #[cfg(test)]
    pub(crate) fn replaced_version(&self) -> Option<&str> {
        let seen = self.last.as_ref().filter(|_| !self.missing)?;
        Some(&seen.record.version)
    }
}

/// Next action of a process that does not hold the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateAction {
    /// Write itself as the holder, over what it observed: the Lease is missing, released, expired
    /// or already its own.
    Claim,
    /// Leave the Lease alone until then, unless it changes.
    Wait(Instant),
}

/// Next action of a process that holds the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderAction {
    /// Write a renewal over what it observed.
    Renew,
    /// Stop working, as it no longer holds the Lease.
    Stop(LossReason),
}

/// Why a holder lost its Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// No renewal succeeded before the deadline.
    RenewDeadlineExceeded,
    /// The Lease has another holder, or none.
    TakenOver,
    /// The Lease was deleted, so that any process may create it.
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

/// Decides for the process `me`, which holds the Lease until `deadline`.
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
