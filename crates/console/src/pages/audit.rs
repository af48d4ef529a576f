//! What was changed by whom, over the API and so here too.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::fields::{TIME_HINT, input, select, with_times};
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, json, number, optional, text, time};
use crate::visit::Visit;

/// Size of a page.
const LIMIT: &str = "50";

/// After this time no change is still being made.
const LONGEST: TimeDelta = TimeDelta::minutes(1);

/// Longest request that stands in the table as it is.
const SHORT: usize = 120;

/// Changes, with the words for them.
const OPERATIONS: [(&str, &str); 9] = [
    ("redriveDeadLetters", "redrive dead letters"),
    ("dropDeadLetters", "drop dead letters"),
    ("retryJobs", "retry jobs"),
    ("cancelJobs", "cancel jobs"),
    ("invalidateCache", "invalidate caches"),
    ("resetBreakers", "close circuit breakers"),
    ("startBackfill", "start a backfill"),
    ("cancelBackfill", "cancel a backfill"),
    ("resumeBackfill", "resume a backfill"),
];

/// Changes, as `GET /audit` has them: the newest first.
#[derive(Debug, Deserialize)]
struct Audit {
    items: Vec<Entry>,
    next: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    at: DateTime<Utc>,
    actor: String,
    tenant: Option<String>,
    operation: String,
    request: Value,
    count: Option<u64>,
    error: Option<String>,
    finished_at: Option<DateTime<Utc>>,
}

/// Lists what was changed.
pub(crate) async fn list(visit: Visit) -> Result<Response, Failure> {
    let query = with_times(&visit.query, &["since", "until"]);
    let asked = query.with("limit", Some(LIMIT));
    let (status, found) = match visit.api.get::<Audit>("/audit", &asked).await {
        Ok(audit) => (StatusCode::OK, results(&audit, &query, visit.now)),
        Err(error) if error.status == StatusCode::FORBIDDEN => return Err(error.into()),
        Err(error) => {
            let problem = html! { p.problem role="alert" { (text(&error.detail)) } };
            (error.status, problem)
        }
    };
    let content = html! { (form(&visit.query)) (found) };
    let page = visit.page(Section::Audit, "Audit", &content);
    Ok((status, page).into_response())
}

fn form(query: &Params) -> Markup {
    html! {
        form.filters method="get" action=(path::AUDIT) {
            (select("operation", "Change", "any", &OPERATIONS, query))
            (input("actor", "By (token or user)", query))
            (input("since", "From", query))
            (input("until", "To", query))
            button.primary type="submit" { "Filter" }
            a.button href=(path::AUDIT) { "Clear" }
        }
        p.hint { "What was changed over the API and in this console, the newest first. " (TIME_HINT) }
    }
}

fn results(audit: &Audit, query: &Params, now: DateTime<Utc>) -> Markup {
    let is_later = query.get("before").is_some();
    html! {
        @if audit.items.is_empty() {
            p.notice {
                @if is_later { "There are no more changes." }
                @else if *query == Params::default() { "Nobody changed anything yet, or it is so long ago that it was forgotten." }
                @else { "No change matches all of these filters." }
            }
        } @else { (table(&audit.items, now)) }
        p.acts {
            @if is_later { a.button href=(query.with("before", None).link(path::AUDIT)) { "First page" } }
            @if let Some(next) = audit.next {
                a.button href=(query.with("before", Some(&next.to_string())).link(path::AUDIT)) { "Next page" }
            }
        }
    }
}

fn table(entries: &[Entry], now: DateTime<Utc>) -> Markup {
    html! {
        h2 #changes { "Changes" }
        div.wide tabindex="0" role="region" aria-labelledby="changes" { table {
            thead { tr { th { "Time (UTC)" } th { "By" } th { "Change" } th { "Request" } th { "Result" } } }
            tbody { @for entry in entries { tr {
                td { (time(entry.at)) }
                td { (cell(&entry.actor)) @if entry.tenant.is_some() { div.quiet { "tenant " (optional(entry.tenant.as_deref())) } } }
                td { (operation(&entry.operation)) }
                td { (request(&entry.request)) }
                td { (result(entry, now)) }
            } } }
        } }
    }
}

fn operation(name: &str) -> Markup {
    let known = OPERATIONS.iter().find(|(one, _)| *one == name);
    html! { @match known { Some((_, word)) => { (word) } None => { code { (cell(name)) } } } }
}

fn request(request: &Value) -> Markup {
    let short = request.to_string();
    html! {
        @if short.len() <= SHORT { code { (text(&short)) } }
        @else { details { summary { "Show (" (number(short.len() as u64)) " bytes)" } (json(request)) } }
    }
}

fn result(entry: &Entry, now: DateTime<Utc>) -> Markup {
    html! {
        @match (&entry.error, entry.finished_at) {
            (Some(error), _) => { span.tag.bad { "failed" } " " (text(error)) }
            (None, Some(_)) => { span.tag.good { "done" } }
            (None, None) if now - entry.at < LONGEST => { span.tag { "in progress" } }
            (None, None) => {
                span.tag.warn { "cut off" }
                " Nobody saw its end: a process crashed, the browser went away, or it took too long. Look at what it changed before you repeat it."
            }
        }
        @if let Some(count) = entry.count { " " (number(count)) " changed" }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::super::testing::{shown, visit};
    use super::*;

    fn entry(changes: &Value) -> Value {
        let mut entry = json!({
            "id": 9, "at": "2026-11-29T01:20:11Z", "actor": "ops<b>", "tenant": null, "operation": "retryJobs",
            "request": {"all": true}, "count": null, "error": null, "finishedAt": "2026-11-29T01:20:12Z",
        });
        for (name, value) in changes.as_object().unwrap() {
            entry[name] = value.clone();
        }
        entry
    }

    fn result_after(changes: &Value, seconds: i64) -> String {
        let entry: Entry = serde_json::from_value(entry(changes)).unwrap();
        let now = entry.at + TimeDelta::seconds(seconds);
        result(&entry, now).into_string()
    }

    #[test]
    fn change_without_an_end_was_cut_off() {
        let open = json!({"finishedAt": null});
        assert!(result_after(&open, 59).contains("in progress"));
        let cut_off = result_after(&open, 60);
        assert!(
            cut_off.contains("cut off") && cut_off.contains("crashed"),
            "{cut_off}"
        );
        let done = result_after(&json!({"count": 1200}), 60);
        assert_eq!(done, "<span class=\"tag good\">done</span> 1,200 changed");
        let failed = result_after(&json!({"error": "no <i>\u{0}"}), 60);
        assert!(
            failed.contains("failed</span> <bdi>no &lt;i&gt;\\u{0}"),
            "{failed}"
        );
    }

    #[tokio::test]
    async fn changes_are_listed_as_text() {
        let items = [
            entry(&json!({"tenant": "ac\u{202e}me", "request": {"ids": ["</code><script>"]}})),
            entry(
                &json!({"operation": "new<Change>", "request": {"ids": (0..100).collect::<Vec<_>>()}}),
            ),
        ];
        let body = json!({"items": items, "next": 9});
        let page = "/console/audit?actor=ops&since=2026-11-29&before=20";
        let (status, shown) =
            shown(list(visit(page, "", StatusCode::OK, body)).await.unwrap()).await;
        assert_eq!(status, StatusCode::OK);
        for part in [
            "<bdi>ops&lt;b&gt;</bdi>",
            "tenant <bdi>ac\\u{202e}me</bdi>",
            "retry jobs",
            "&lt;/code&gt;&lt;script&gt;",
            "<code><bdi>new&lt;Change&gt;</bdi></code>",
            "<summary>Show (299 bytes)</summary>",
            "href=\"/console/audit?actor=ops&amp;since=2026-11-29T00%3A00%3A00Z&amp;before=9\">Next page",
            "value=\"2026-11-29\"",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.contains("<script>"), "{shown}");
    }

    #[tokio::test]
    async fn wrong_filter_is_named_beside_the_form() {
        let problem =
            json!({"status": 400, "title": "Bad Request", "detail": "since must be a time"});
        let visit = visit(
            "/console/audit?since=x",
            "",
            StatusCode::BAD_REQUEST,
            problem,
        );
        let (status, shown) = shown(list(visit).await.unwrap()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            shown.contains("role=\"alert\"><bdi>since must be a time"),
            "{shown}"
        );
        assert!(shown.contains("value=\"x\""), "{shown}");
    }
}
