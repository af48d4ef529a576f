//! Claims whose answers were not read: what they took would stay taken for as long as the worker
//! is heard of. Each claim has a token, and those that ended without an answer are given back
//! before the next.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::WorkerId;

/// Claims of this process whose answers were not read.
#[derive(Debug, Default)]
pub(super) struct Doubts(Mutex<Vec<(WorkerId, Uuid)>>);

/// A claim under way: in doubt, unless it is settled.
#[derive(Debug)]
pub(super) struct Doubt<'a> {
    doubts: &'a Doubts,
    worker: WorkerId,
    token: Uuid,
    settled: bool,
}

impl Doubts {
    pub(super) fn begin(&self, worker: WorkerId, token: Uuid) -> Doubt<'_> {
        Doubt {
            doubts: self,
            worker,
            token,
            settled: false,
        }
    }

    /// One that is in doubt; it stays so until it is settled.
    pub(super) fn next(&self) -> Option<Doubt<'_>> {
        let (worker, token) = self.lock().pop()?;
        Some(self.begin(worker, token))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(WorkerId, Uuid)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doubt<'_> {
    pub(super) fn worker(&self) -> WorkerId {
        self.worker
    }

    pub(super) fn token(&self) -> Uuid {
        self.token
    }

    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.doubts.lock().push((self.worker, self.token));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_claim_without_an_answer_stays_in_doubt_until_it_is_settled() {
        let doubts = Doubts::default();
        let worker = WorkerId(Uuid::from_u128(1));
        doubts.begin(worker, Uuid::from_u128(2)).settle();
        assert!(doubts.next().is_none());
        drop(doubts.begin(worker, Uuid::from_u128(3)));
        drop(doubts.next());
        let doubt = doubts.next().unwrap();
        assert_eq!(
            (doubt.worker(), doubt.token()),
            (worker, Uuid::from_u128(3))
        );
        doubt.settle();
        assert!(doubts.next().is_none());
    }
}
