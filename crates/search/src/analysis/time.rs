//! Times that a document holds as text.

use std::ops::Range;

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime};

/// Maximum length of a time as text.
const MAX_BYTES: usize = 40;

/// Reads a date, or a date and a time, as Postgres and RFC 3339 write it; without an offset in UTC.
/// Returns the microseconds since 1970 that it may mean: a whole day for a date.
pub(crate) fn read(text: &str) -> Option<Range<i64>> {
    let bytes = text.as_bytes();
    let is_like_one = (10..=MAX_BYTES).contains(&bytes.len())
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[7] == b'-';
    if !is_like_one || !text.is_ascii() {
        return None;
    }
    let date = NaiveDate::parse_from_str(&text[..10], "%Y-%m-%d").ok()?;
    if bytes.len() == 10 {
        let micros = |date: NaiveDate| date.and_time(NaiveTime::MIN).and_utc().timestamp_micros();
        return Some(micros(date)..micros(date.checked_add_days(Days::new(1))?));
    }
    if !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let time = &text[11..];
    let micros = match time.find(['Z', 'z', '+', '-']) {
        None => NaiveDateTime::new(date, of_day(time)?)
            .and_utc()
            .timestamp_micros(),
        Some(place) => {
            let (time, offset) = time.split_at(place);
            // Postgres writes `+02` as well.
            let whole = match offset {
                "Z" | "z" => "+00:00".to_owned(),
                offset if offset.len() == 3 => format!("{offset}:00"),
                offset => offset.to_owned(),
            };
            let local = NaiveDateTime::new(date, of_day(time)?);
            let text = format!("{}{whole}", local.format("%Y-%m-%dT%H:%M:%S%.6f"));
            DateTime::parse_from_rfc3339(&text).ok()?.timestamp_micros()
        }
    };
    Some(micros..micros.checked_add(1)?)
}

fn of_day(text: &str) -> Option<NaiveTime> {
    NaiveTime::parse_from_str(text, "%H:%M:%S%.f")
        .or_else(|_| NaiveTime::parse_from_str(text, "%H:%M"))
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn times_are_read_as_postgres_and_rfc_3339_write_them() {
        let noon = read("2026-03-01T12:00:00Z").unwrap();
        for same in [
            "2026-03-01 12:00:00",
            "2026-03-01T12:00",
            "2026-03-01t12:00:00.000",
            "2026-03-01T14:00:00+02:00",
            "2026-03-01 14:00:00+02",
            "2026-03-01T07:00:00-05:00",
        ] {
            assert_eq!(read(same), Some(noon.clone()), "{same}");
        }
        let day = read("2026-03-01").unwrap();
        assert!(day.contains(&noon.start) && day.end - day.start == 86_400_000_000);
        for other in [
            "2026-13-01",
            "2026-02-30",
            "20260301",
            "2026-03-01x",
            "2026-03-01T",
            "2026-03-01Tnoon",
            "٢٠٢٦-03-01",
            "2026-03-01T25:00",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
