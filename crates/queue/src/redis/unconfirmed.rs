//! Claims whose replies were lost. Their jobs would stay claimed for as long as the worker sends
//! heartbeats, so every claim has a token, and claims without a reply are returned before the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::WorkerId;

/// Claims of this process without a reply.
#[derive(Debug, Default)]
pub(super) struct UnconfirmedClaims(Mutex<Vec<(WorkerId, Uuid)>>);

/// Claim in flight, which counts as unconfirmed when it is dropped before it is confirmed.
#[derive(Debug)]
pub(super) struct PendingClaim<'a> {
    claims: &'a UnconfirmedClaims,
    worker: WorkerId,
    token: Uuid,
    confirmed: bool,
}

impl UnconfirmedClaims {
    pub(super) fn begin(&self, worker: WorkerId, token: Uuid) -> PendingClaim<'_> {
        PendingClaim {
            claims: self,
            worker,
            token,
            confirmed: false,
        }
    }

    /// Takes an unconfirmed claim, which comes back unless it is confirmed.
    pub(super) fn next(&self) -> Option<PendingClaim<'_>> {
        let (worker, token) = self.lock().pop()?;
        Some(self.begin(worker, token))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(WorkerId, Uuid)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingClaim<'_> {
    pub(super) fn worker(&self) -> WorkerId {
        self.worker
    }

    pub(super) fn token(&self) -> Uuid {
        self.token
    }

    pub(super) fn confirm(mut self) {
        self.confirmed = true;
    }
}

impl Drop for PendingClaim<'_> {
    fn drop(&mut self) {
        if !self.confirmed {
            self.claims.lock().push((self.worker, self.token));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn claim_stays_unconfirmed_until_it_is_confirmed() {
        let claims = UnconfirmedClaims::default();
        let worker = WorkerId(Uuid::from_u128(1));
        claims.begin(worker, Uuid::from_u128(2)).confirm();
        assert!(claims.next().is_none());
        drop(claims.begin(worker, Uuid::from_u128(3)));
        drop(claims.next());
        let claim = claims.next().unwrap();
        assert_eq!(
            (claim.worker(), claim.token()),
            (worker, Uuid::from_u128(3))
        );
        claim.confirm();
        assert!(claims.next().is_none());
    }
}
