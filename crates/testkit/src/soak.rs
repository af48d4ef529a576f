//! How much a test does: a little each time that tests run, and much when they are to search.

/// Environment variable that has tests repeat often.
pub const SOAK: &str = "OBSERVER_TEST_SOAK";

/// How often a test repeats: few times in a plain run, often where [`SOAK`] is set.
#[must_use]
pub fn rounds(test: u32, soak: u32) -> u32 {
    if std::env::var_os(SOAK).is_some() {
        soak
    } else {
        test
    }
}
