//! One observer: what it waits for, what became of its deliveries in the last hour, and its latest failures.

use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::observers::{ObserverList, card};
use crate::api::{Api, ApiError};
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, time};
use crate::visit::Visit;

/// Failures that are shown.
const FAILURES: &str = "5";

/// What the history counts.
#[derive(Debug, Deserialize)]
struct Counted {
    total: u64,
}

/// Outcomes that are counted, as the API names them, and their words.
const OUTCOMES: [(&str, &str); 4] = [
    ("delivered", "delivered"),
    ("retrying", "retrying"),
    ("deadLetter", "given up"),
    ("dropped", "dropped"),
];

#[derive(Debug, Deserialize)]
struct Failures {
    items: Vec<DeadLetter>,
}

/// A delivery that was given up, as `GET /dead-letters` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetter {
    id: i64,
    action: String,
    error: String,
    created_at: DateTime<Utc>,
}

/// Shows an observer.
pub(crate) async fn show(visit: Visit) -> Result<Response, Failure> {
    let (api, name) = (&visit.api, visit.id.as_str());
    let observers: ObserverList = api.get("/observers", &Params::default()).await?;
    let observer = observers.find(name).ok_or_else(|| ApiError {
        status: StatusCode::NOT_FOUND,
        detail: format!("the listener runs no observer {name}"),
    })?;
    let of = Params::default().and("observer", name);
    let since = visit.now - TimeDelta::hours(1);
    let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
    let hour = of.clone().and("from", &since);
    let counted = counts(api, &hour).await?;
    let failures: Failures = api
        .get("/dead-letters", &of.clone().and("limit", FAILURES))
        .await?;
    let content = html! {
        (card(&visit, observer))
        h2 { "In the last hour" }
        (outcomes(counted.as_deref(), &hour))
        h2 { "Latest failures" }
        (latest(&failures, &of))
    };
    Ok(visit.page(Section::Observers, name, &content))
}

/// Counts the events of an observer: all, and those with each outcome of a delivery of its own. Nothing if the
/// listener keeps no history.
async fn counts(api: &Api, hour: &Params) -> Result<Option<Vec<u64>>, ApiError> {
    let mut counts = Vec::new();
    let outcomes = OUTCOMES.iter().map(|(name, _)| Some(*name));
    for outcome in [None].into_iter().chain(outcomes) {
        let query = hour.with("outcome", outcome).and("limit", "0");
        match api.get::<Counted>("/search", &query).await {
            Ok(counted) => counts.push(counted.total),
            Err(error) if error.status == StatusCode::NOT_FOUND => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(counts))
}

fn outcomes(counts: Option<&[u64]>, hour: &Params) -> Markup {
    html! {
        @match counts {
            None | Some([]) => { p.notice { "The listener keeps no history, so nothing is counted: set " code { "spec.search" } "." } }
            Some([matched, counts @ ..]) => {
                ul.figures {
                    li { b { (number(*matched)) } a href=(hour.link(path::EVENTS)) { "events matched" } }
                    @for ((name, word), count) in OUTCOMES.iter().zip(counts) {
                        @let of = hour.clone().and("outcome", name);
                        li { b { (number(*count)) } a href=(of.link(path::EVENTS)) { (word) } }
                    }
                }
            }
        }
    }
}

fn latest(failures: &Failures, of: &Params) -> Markup {
    html! {
        @if failures.items.is_empty() {
            p.quiet { "None of its deliveries is a dead letter." }
        } @else {
            div.wide tabindex="0" role="region" aria-label="Latest failures" { table {
                thead { tr { th { "Given up (UTC)" } th { "Action" } th { "Error" } } }
                tbody { @for letter in &failures.items { tr {
                    td { a href={ (path::DEAD_LETTER) (letter.id) } { (time(letter.created_at)) } }
                    td { (cell(&letter.action)) }
                    td { (cell(&letter.error)) }
                } } }
            } }
            p { a href=(of.link(path::DEAD_LETTERS)) { "All its dead letters" } }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn outcomes_lead_to_their_events() {
        let hour = Params::default()
            .and("observer", "shop/a&b")
            .and("from", "2026-11-30T00:00:00Z");
        let shown = outcomes(Some(&[1200, 3, 0, 7, 0]), &hour).into_string();
        let link = "/console/events?observer=shop%2Fa%26b&amp;from=2026-11-30T00%3A00%3A00Z&amp;outcome=deadLetter";
        assert!(shown.contains(link), "{shown}");
        assert!(
            shown.contains("<b>1,200</b>") && shown.contains("given up"),
            "{shown}"
        );
        assert!(outcomes(None, &hour).into_string().contains("no history"));
    }

    #[test]
    fn failures_are_shown_as_text() {
        let failure = json!({"id": 7, "action": "post", "error": "<b>HTTP 500</b>", "createdAt": "2026-11-30T00:00:00Z"});
        let failures: Failures = serde_json::from_value(json!({"items": [failure]})).unwrap();
        let shown = latest(&failures, &Params::default()).into_string();
        assert!(
            shown.contains("&lt;b&gt;HTTP 500") && shown.contains("/console/dead-letters/7"),
            "{shown}"
        );
    }
}
