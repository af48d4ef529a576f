//! Receivers with an open circuit breaker.

use std::collections::BTreeSet;

use super::StatusInput;

/// Maximum number of endpoints in a status.
const MOST: usize = 32;

/// Longest name of a receiver in bytes.
const MAX_NAME: usize = 256;

impl StatusInput<'_> {
    /// Returns the names of endpoints whose circuit breaker is open in any pod. They are sorted, so that
    /// the status changes with the set only.
    pub(super) fn open_circuit_breakers(&self) -> Vec<String> {
        let said = self
            .reports()
            .flat_map(|report| &report.open_circuit_breakers.endpoints);
        let names: BTreeSet<&str> = said
            .map(|one| {
                let end = one.endpoint.floor_char_boundary(MAX_NAME);
                &one.endpoint[..end]
            })
            .collect();
        names
            .into_iter()
            .take(MOST)
            .map(ToOwned::to_owned)
            .collect()
    }
}
