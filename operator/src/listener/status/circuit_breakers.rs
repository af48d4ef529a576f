//! Receivers that pods leave alone.

use std::collections::BTreeSet;

use super::StatusInput;

/// Most receivers that a status lists.
const MOST: usize = 32;

/// Longest name of a receiver in bytes.
const MAX_NAME: usize = 256;

impl StatusInput<'_> {
    /// The receivers that any pod leaves alone, by name: what is shown changes with the set alone.
    pub(super) fn open_circuit_breakers(&self) -> Vec<String> {
        let said = self
            .reports()
            .flat_map(|report| &report.left_alone.receivers);
        let names: BTreeSet<&str> = said
            .map(|one| {
                let end = one.receiver.floor_char_boundary(MAX_NAME);
                &one.receiver[..end]
            })
            .collect();
        names
            .into_iter()
            .take(MOST)
            .map(ToOwned::to_owned)
            .collect()
    }
}
