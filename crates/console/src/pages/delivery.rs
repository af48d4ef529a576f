//! Parts of pages that show one delivery: its failed attempts, and the row of its event.

use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use crate::value::{number, optional, optional_time, text};

/// A failed attempt, as histories hold it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attempt {
    at: Option<DateTime<Utc>>,
    kind: Option<String>,
    error: Option<String>,
    status: Option<u16>,
    took_ms: Option<u64>,
}

/// Shows attempts, the last one last.
pub(super) fn attempts(history: &[Attempt]) -> Markup {
    html! {
        h2 #attempts { "Failed attempts" }
        @if history.is_empty() {
            p.quiet { "None is recorded: it was not attempted yet, or given up before an attempt." }
        } @else {
            div.wide tabindex="0" role="region" aria-labelledby="attempts" { table {
                caption { "The latest, the last one last" }
                thead { tr {
                    th scope="col" { "Ended (UTC)" } th scope="col" { "Kind" } th.number scope="col" { "HTTP" }
                    th.number scope="col" { "Took" } th scope="col" { "Error" }
                } }
                tbody { @for attempt in history { tr {
                    td { (optional_time(attempt.at)) }
                    td { (optional(attempt.kind.as_deref())) }
                    td.number { (http(attempt.status)) }
                    td.number { @match attempt.took_ms {
                        Some(took) => { (number(took)) " ms" }
                        None => { span.none { "–" } }
                    } }
                    td { (whole(attempt.error.as_deref())) }
                } } }
            } }
        }
    }
}

/// Shows a whole text that may be absent.
pub(super) fn whole(value: Option<&str>) -> Markup {
    html! { @match value { Some(value) => { (text(value)) } None => { span.none { "–" } } } }
}

/// Shows the status of a response, if there was one.
pub(super) fn http(status: Option<u16>) -> Markup {
    html! { @match status { Some(status) => { (status) } None => { span.none { "–" } } } }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn attempts_are_shown_as_text() {
        let history = json!([
            {"at": "2026-11-30T00:00:00Z", "kind": "status", "error": "<script>\u{202e}", "status": 503, "tookMs": 1234},
            {"at": "2026-11-30T00:01:00Z", "kind": "lost", "error": "x", "status": null},
        ]);
        let history: Vec<Attempt> = serde_json::from_value(history).unwrap();
        let shown = attempts(&history).into_string();
        for part in ["&lt;script&gt;\\u{202e}", "503", "1,234 ms", "–"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("<script>"), "{shown}");
        assert!(attempts(&[]).into_string().contains("None is recorded"));
    }
}
