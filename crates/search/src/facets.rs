//! Facets: what both backends count in the same way.

use chrono::DateTime;

use crate::request::Bucket;

/// Maximum number of values of a facet.
pub(crate) const MAX_VALUES: usize = 20;

/// Maximum number of intervals.
pub(crate) const MAX_INTERVALS: i64 = 60;

/// Lengths of an interval in seconds: from a second to 30 days.
pub(crate) const INTERVALS: [i64; 9] = [1, 10, 60, 600, 3600, 21_600, 86_400, 604_800, 2_592_000];

/// Returns the length in seconds of the shortest intervals, at most 60 of which hold both times, which
/// are in microseconds since 1970. Beyond five years it is a multiple of 30 days.
pub(crate) fn interval_seconds(from_micros: i64, to_micros: i64) -> i64 {
    let (from, to) = (seconds(from_micros), seconds(to_micros));
    let fits = |length: i64| to.div_euclid(length) - from.div_euclid(length) < MAX_INTERVALS;
    let found = INTERVALS.into_iter().find(|length| fits(*length));
    found.unwrap_or_else(|| {
        let longest = INTERVALS[INTERVALS.len() - 1];
        let most = (MAX_INTERVALS - 1) * longest;
        longest * ((to - from + most - 1) / most)
    })
}

/// Returns the second that a number of microseconds falls in.
pub(crate) fn seconds(micros: i64) -> i64 {
    micros.div_euclid(1_000_000)
}

/// Sorts values by their counts and then by themselves, and keeps the first ones.
pub(crate) fn rank(mut buckets: Vec<Bucket>) -> Vec<Bucket> {
    buckets.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
    buckets.truncate(MAX_VALUES);
    buckets
}

/// Returns the bucket of an interval that begins at a time, in seconds since 1970.
pub(crate) fn time_bucket(start_seconds: i64, count: u64) -> Bucket {
    let start = DateTime::from_timestamp(start_seconds, 0).unwrap_or_default();
    Bucket {
        value: start.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_as_short_as_may_be() {
        let second = 1_000_000;
        let day = 86_400 * second;
        for (from, to, expected) in [
            (0, 0, 1),
            (0, 59 * second, 1),
            (0, 60 * second, 10),
            (-second, 59 * second, 10),
            (0, 599 * second, 10),
            (0, day, 3600),
            (0, 365 * day, 604_800),
            (0, 1700 * day, 2_592_000),
            (0, 36_500 * day, 2_592_000 * 21),
            (5, 4, 1),
        ] {
            let length = interval_seconds(from, to);
            assert_eq!(length, expected, "{from} {to}");
            let count = seconds(to).div_euclid(length) - seconds(from).div_euclid(length) + 1;
            assert!(count <= MAX_INTERVALS, "{from} {to}: {count}");
        }
    }

    #[test]
    fn frequent_values_come_first() {
        let bucket = |value: &str, count| Bucket {
            value: value.into(),
            count,
        };
        let ranked = rank(vec![bucket("b", 1), bucket("c", 2), bucket("a", 1)]);
        assert_eq!(ranked, [bucket("c", 2), bucket("a", 1), bucket("b", 1)]);
    }
}
