//! How long to wait before looking again at a database in which nothing was new.
//!
//! Soon after an event the next one is likely to be near, so the pause starts tiny and grows
//! with the time since the last event: a fixed share of it, up to a ceiling that is raised once
//! nothing has come for long. That keeps the added latency a small part of the time between events,
//! and costs an idle database a bounded number of cheap queries.

use std::time::Duration;

/// Shortest pause; below this, waking up costs more than it gains.
pub const MIN_PAUSE: Duration = Duration::from_millis(1);

/// For each time that passes without an event, the longest pause is once more as long.
pub const IDLE_STEP: Duration = Duration::from_secs(5);

/// How much longer the longest pause is in the end, for a database that has been quiet for long.
pub const DEEP_IDLE_FACTOR: u32 = 16;

/// The pause grows as this share of the time since the last event.
const SHARE: u32 = 16;

/// The pause after a look that found nothing, `quiet` after the last event.
#[must_use]
pub fn pause(quiet: Duration, longest: Duration) -> Duration {
    let times = u32::try_from(quiet.as_secs() / IDLE_STEP.as_secs()).unwrap_or(u32::MAX);
    let ceiling = longest.saturating_mul(times.clamp(1, DEEP_IDLE_FACTOR));
    (quiet / SHARE).max(MIN_PAUSE).min(ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_millis(16);

    #[test]
    fn the_pause_is_a_small_part_of_the_time_between_events() {
        assert_eq!(pause(Duration::ZERO, LONGEST), MIN_PAUSE);
        assert_eq!(
            pause(Duration::from_millis(64), LONGEST),
            Duration::from_millis(4)
        );
        assert_eq!(pause(Duration::from_secs(1), LONGEST), LONGEST);
    }

    #[test]
    fn a_database_long_quiet_is_asked_less_often() {
        let after = |seconds| pause(Duration::from_secs(seconds), LONGEST);
        assert_eq!(after(9), LONGEST);
        assert_eq!(after(10), LONGEST * 2);
        assert_eq!(after(79), LONGEST * 15);
        assert_eq!(after(80), LONGEST * 16);
        assert_eq!(after(u64::from(u32::MAX) * 100), LONGEST * 16);
    }

    #[test]
    fn the_ceiling_holds_even_below_the_shortest_pause() {
        assert_eq!(
            pause(Duration::ZERO, Duration::from_micros(10)),
            Duration::from_micros(10)
        );
    }
}
