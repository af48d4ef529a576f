//! Chance that can be had again: a generator with a seed that is printed. `OBSERVER_E2E_SEED`
//! gives the seed of a run that is to be played once more.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use anyhow::{Context, Result};

/// A generator of numbers, the `SplitMix64` of Steele, Lea and Flood.
pub(crate) struct Dice {
    /// What it began with.
    pub(crate) seed: u64,
    state: u64,
}

impl Dice {
    /// Begins with the seed of the environment, or else with a new one.
    pub(crate) fn new() -> Result<Self> {
        let seed = match std::env::var("OBSERVER_E2E_SEED") {
            Ok(seed) => seed.parse().context("OBSERVER_E2E_SEED is not a number")?,
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        Ok(Self { seed, state: seed })
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most.saturating_sub(least) + 1)
    }

    /// One of these, if there is any.
    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let last = of.len().checked_sub(1)?;
        let index = self.between(0, u64::try_from(last).ok()?);
        of.get(usize::try_from(index).ok()?).cloned()
    }
}
