//! Durations as people write them in resources: `250ms`, `15s`, `1h30m`.
//!
//! Whole numbers and four units only, so that a duration reads the same here, in the API
//! server's rules and in Go, and comes back as it went in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What every duration looks like; the API server checks the same.
pub(crate) const PATTERN: &str = "^([0-9]{1,9}(ms|s|m|h))+$";

/// Longest text of a duration, which keeps every sum far from overflow.
const MAX_LEN: usize = 32;

/// Digits before one unit; see `PATTERN`.
const MAX_DIGITS: usize = 9;

/// Units by falling size, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A duration of whole milliseconds, written like `250ms`, `15s` or `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(u64);

/// The text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a duration; write whole numbers with units, as in `250ms`, `15s` or `1h30m`")]
pub struct ParseDurationError;

impl HumanDuration {
    /// A span of `millis` milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// A span of `secs` seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// The same as a standard duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<Duration> for HumanDuration {
    /// Anything finer than a millisecond is cut off.
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl FromStr for HumanDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        if text.is_empty() || text.len() > MAX_LEN {
            return Err(ParseDurationError);
        }
        let mut total: u64 = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits > MAX_DIGITS {
                return Err(ParseDurationError);
            }
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let number: u64 = number.parse().map_err(|_| ParseDurationError)?;
            let (_, millis) = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or(ParseDurationError)?;
            total = total.saturating_add(number.saturating_mul(*millis));
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, millis) in UNITS {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": MAX_LEN })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_as_people_do() {
        for (text, millis, back) in [
            ("250ms", 250, "250ms"),
            ("15s", 15_000, "15s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("1500ms", 1500, "1s500ms"),
            ("0s", 0, "0s"),
        ] {
            let span: HumanDuration = text.parse().unwrap();
            assert_eq!(span, HumanDuration::from_millis(millis), "{text}");
            assert_eq!(span.to_string(), back, "{text}");
        }
    }

    #[test]
    fn refuses_what_has_no_unit_sign_fraction_or_bound() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1 s",
            "1d",
            "1S",
            "1s,",
            "٣s",
            "1234567890s",
            "1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s",
        ] {
            assert_eq!(
                text.parse::<HumanDuration>(),
                Err(ParseDurationError),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn comes_back_as_it_went_in(millis in 0..10_u64.pow(15)) {
            let span = HumanDuration::from_millis(millis);
            prop_assert_eq!(span.to_string().parse::<HumanDuration>(), Ok(span));
        }

        #[test]
        fn reads_exactly_what_the_pattern_allows(text in "([0-9]{0,10}(ms|s|m|h|x)?){0,4}") {
            let schema = serde_json::json!({ "pattern": PATTERN, "maxLength": MAX_LEN });
            let allowed = jsonschema::is_valid(&schema, &serde_json::json!(text));
            prop_assert_eq!(text.parse::<HumanDuration>().is_ok(), allowed);
        }
    }
}
