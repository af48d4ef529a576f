//! Names of indices: `<index>-v<mapping>-<year>.<month>`, by the time of the events.

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use sha2::{Digest as _, Sha256};

use crate::analysis::text::push_hex;

/// Version of the mapping and of what is computed of a document. A change of either makes documents of
/// an older version be written again, into indices of the new one.
pub(super) const MAPPING_VERSION: u32 = 1;

/// Years that have an index each for their months; those of times beyond them share the first or the
/// last one. A template knows names by their beginning.
const YEARS: std::ops::RangeInclusive<i32> = 1000..=2999;

/// Maximum length of the `_id` of a document in bytes, which the server sets.
const MAX_DOCUMENT_ID_BYTES: usize = 512;

/// A monthly index of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IndexName {
    /// Version of its mapping.
    pub(super) version: u32,
    year: i32,
    month: u32,
}

impl IndexName {
    /// Parses a name that begins with `index`; nothing where it is not one of ours.
    pub(super) fn parse(index: &str, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(index)?.strip_prefix("-v")?;
        let (version, month) = rest.split_once('-')?;
        let (year, month) = month.split_once('.')?;
        let all = [version, year, month];
        // A number may have a sign when it is parsed.
        let plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !all.iter().all(plain) || (year.len(), month.len()) != (4, 2) {
            return None;
        }
        let name = Self {
            version: version.parse().ok()?,
            year: year.parse().ok()?,
            month: month.parse().ok()?,
        };
        ((1..=12).contains(&name.month) && YEARS.contains(&name.year)).then_some(name)
    }

    /// Returns the name of the index for events of a time.
    pub(super) fn of(index: &str, occurred_at: DateTime<Utc>) -> String {
        let (year, month) = match occurred_at.year() {
            year if year < *YEARS.start() => (*YEARS.start(), 1),
            year if year > *YEARS.end() => (*YEARS.end(), 12),
            year => (year, occurred_at.month()),
        };
        format!("{index}-v{MAPPING_VERSION}-{year:04}.{month:02}")
    }

    /// Returns the name of the index for an event of this id, which ends in its time; nothing where the
    /// id is of another form.
    pub(super) fn of_id(index: &str, id: &str) -> Option<String> {
        let micros = i64::from_str_radix(id.split('-').nth(2)?, 16).ok()?;
        Some(Self::of(index, DateTime::from_timestamp_micros(micros)?))
    }

    /// Returns whether all its events occurred before a time.
    pub(super) fn ended_before(&self, time: DateTime<Utc>) -> bool {
        let next = match self.month {
            12 => (self.year + 1, 1),
            month => (self.year, month + 1),
        };
        let end =
            NaiveDate::from_ymd_opt(next.0, next.1, 1).and_then(|day| day.and_hms_opt(0, 0, 0));
        end.is_some_and(|end| end.and_utc() <= time) && self.year < *YEARS.end()
    }
}

/// Returns the `_id` of a document. Listeners of one database have events of the same ids.
pub(super) fn document_id(listener: &str, id: &str) -> String {
    let text = format!("{id}|{listener}");
    // An event's id has no bar; who asks for one that has shall not find another's.
    if text.len() <= MAX_DOCUMENT_ID_BYTES && !id.contains('|') && !id.is_empty() {
        return text;
    }
    let mut digest = Sha256::new();
    digest.update(id.len().to_be_bytes());
    digest.update(&text);
    let mut id = "|".to_owned();
    push_hex(&mut id, &digest.finalize());
    id
}

/// Returns the patterns of the names of all indices of our version.
pub(super) fn template_patterns(index: &str) -> [String; 2] {
    // By the first digit of the year: `shop-v1-*` would be those of an index `shop-v1` as well, and two
    // templates of the same pattern are refused.
    [1, 2].map(|digit| format!("{index}-v{MAPPING_VERSION}-{digit}*"))
}

/// Returns the name of the template of our version.
pub(super) fn template(index: &str) -> String {
    format!("{index}-v{MAPPING_VERSION}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn names_follow_from_the_time_and_are_told_from_others() {
        let name = IndexName::of("shop", time("2026-11-30T23:59:59.999999Z"));
        assert_eq!(name, "shop-v1-2026.11");
        let parsed = IndexName::parse("shop", &name).unwrap();
        assert!(parsed.ended_before(time("2026-12-01T00:00:00Z")));
        assert!(!parsed.ended_before(time("2026-11-30T23:59:59.999999Z")));
        for other in [
            "shop",
            "shop-v1",
            "shop-v1-2026.1",
            "shop-v1-2026.13",
            "shop-v1-2026.11-x",
            "shop-v1-v1-2026.11",
            "shop-v-2026.11",
            "shop-v+1-2026.11",
            "shops-v1-2026.11",
            "shop-v1-2026.00",
            "shop-v1-3026.01",
        ] {
            assert_eq!(IndexName::parse("shop", other), None, "{other}");
        }
    }

    #[test]
    fn an_index_follows_from_an_id() {
        let of = |id| IndexName::of_id("shop", id);
        assert_eq!(of("3c5bf38d-140-6615e1afaa36c").unwrap(), "shop-v1-2026.11");
        for other in [
            "",
            "7",
            "3c5bf38d-140",
            "a-b-xyz",
            "a-1-ffffffffffffffffffff",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn documents_of_different_listeners_have_different_ids() {
        assert_eq!(document_id("shop/a", "log-1"), "log-1|shop/a");
        let long = "x".repeat(1024);
        let all = [
            document_id("a", "1"),
            document_id("a|a", "1"),
            document_id("a", "1|a"),
            document_id("", "1|a|a"),
            document_id(&long, "1"),
            document_id("1", &long),
            document_id("", ""),
            document_id("a", ""),
        ];
        assert!(
            all.iter()
                .all(|one| one.len() <= MAX_DOCUMENT_ID_BYTES && !one.is_empty())
        );
        let unique: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
    }

    #[test]
    fn times_beyond_all_years_have_an_index() {
        assert_eq!(
            IndexName::of("shop", DateTime::<Utc>::MIN_UTC),
            "shop-v1-1000.01"
        );
        assert_eq!(
            IndexName::of("shop", DateTime::<Utc>::MAX_UTC),
            "shop-v1-2999.12"
        );
    }
}
