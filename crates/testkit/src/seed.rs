//! Seeds of what tests do at random.

/// Environment variable with the seed of a run to be repeated.
pub const SEED: &str = "OBSERVER_TEST_SEED";

/// A seed for what a test does at random: that of [`SEED`], or else a new one. Printed, so that a
/// failure can be repeated.
#[must_use]
pub fn seed() -> u64 {
    let seed = std::env::var(SEED).ok();
    let seed = seed.map_or_else(rand::random, |text| {
        text.parse().expect("a seed is a number")
    });
    println!("seed: {SEED}={seed}");
    seed
}
