//! Fields of forms for filters, and what they ask the API for.

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};
use maud::{Markup, html};

use crate::params::Params;

/// How a time may be given where it has no offset.
const WITHOUT_OFFSET: [&str; 4] = [
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
];

/// What the fields for times take.
pub(super) const TIME_HINT: &str =
    "Times are UTC, as 2026-03-01, 2026-03-01 12:00 or 2026-03-01T12:00:00Z.";

/// Returns parameters with the times of these names as the API takes them: a day is its midnight, and what has no
/// offset is UTC. What is no time is left to the API, which says so.
pub(super) fn with_times(query: &Params, names: &[&str]) -> Params {
    names.iter().fold(query.clone(), |query, name| {
        let mut given = query.all(name);
        let complete = match (given.next(), given.next()) {
            (Some(only), None) => Some(complete(only)),
            _ => None,
        };
        drop(given);
        match complete {
            Some(complete) => query.with(name, Some(&complete)),
            None => query,
        }
    })
}

fn complete(given: &str) -> String {
    let given = given.trim();
    let day = NaiveDate::parse_from_str(given, "%Y-%m-%d").ok();
    let midnight = day.and_then(|day| day.and_hms_opt(0, 0, 0));
    let mut formats = WITHOUT_OFFSET.iter();
    let time = midnight
        .or_else(|| formats.find_map(|format| NaiveDateTime::parse_from_str(given, format).ok()));
    time.map_or_else(|| given.to_owned(), |time| rfc3339(time.and_utc()))
}

/// Returns a time as the API takes it.
pub(super) fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Returns a field for text with its present value.
pub(super) fn input(name: &str, label: &str, query: &Params) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) type="text" value=(query.get(name).unwrap_or_default()) autocomplete="off" spellcheck="false";
        }
    }
}

/// Returns a field for one of some values, which are given with their words. A present value that is none of them
/// is one more choice, so that it is not lost.
pub(super) fn select(
    name: &str,
    label: &str,
    none: &str,
    choices: &[(&str, &str)],
    query: &Params,
) -> Markup {
    let present = query.get(name).unwrap_or_default();
    let is_known = present.is_empty() || choices.iter().any(|(value, _)| *value == present);
    html! {
        div {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                option value="" { (none) }
                @for (value, word) in choices {
                    option value=(value) selected[*value == present] { (word) }
                }
                @if !is_known { option value=(present) selected { (present) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_completed_and_what_is_none_is_left() {
        for (given, complete) in [
            ("2026-03-01", "2026-03-01T00:00:00Z"),
            (" 2026-03-01 12:30 ", "2026-03-01T12:30:00Z"),
            ("2026-03-01T12:30:01.25", "2026-03-01T12:30:01.250Z"),
            ("2026-03-01T12:30:01+01:00", "2026-03-01T12:30:01+01:00"),
            ("yesterday", "yesterday"),
            ("2026-02-30", "2026-02-30"),
        ] {
            assert_eq!(super::complete(given), complete, "{given}");
        }
        let query = Params::parse(b"q=2026-03-01&from=2026-03-01&to=1&to=2026-03-01");
        let completed = with_times(&query, &["from", "to", "none"]);
        let link = completed.link("");
        assert_eq!(
            link,
            "?q=2026-03-01&to=1&to=2026-03-01&from=2026-03-01T00%3A00%3A00Z"
        );
    }

    #[test]
    fn present_values_stay_in_their_fields() {
        let query = Params::parse(b"q=%22%3E%3Cscript%3E&state=other");
        let shown = input("q", "Query", &query).into_string();
        assert!(
            shown.contains("value=\"&quot;&gt;&lt;script&gt;\""),
            "{shown}"
        );
        let shown = select("state", "State", "any", &[("a", "A")], &query).into_string();
        assert!(
            shown.contains("<option value=\"other\" selected>other</option>"),
            "{shown}"
        );
        let chosen = Params::default().and("state", "a");
        let shown = select("state", "State", "any", &[("a", "A")], &chosen).into_string();
        assert!(
            shown.contains("<option value=\"a\" selected>A</option></select>"),
            "{shown}"
        );
    }
}
