//! Jobs: deliveries that wait in the queue, or run.

use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::delivery::{Attempt, attempts, whole};
use super::filters::{self, Filter, Values};
use super::row::images;
use crate::acts::{CANCEL, RETRY, notice};
use crate::api::segment;
use crate::failure::Failure;
use crate::layout::Section;
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, optional, text, time};
use crate::visit::Visit;

/// Jobs of the list.
const LIMIT: &str = "100";

const SCHEDULED: &str = "scheduled";

const FILTERS: [Filter; 4] = [
    Filter {
        name: "observer",
        values: Values::Text("namespace/name"),
    },
    Filter {
        name: "action",
        values: Values::Text(""),
    },
    Filter {
        name: "state",
        values: Values::Choice(&["available", SCHEDULED, "running", "blocked", "completed"]),
    },
    Filter {
        name: "tenant",
        values: Values::Text(""),
    },
];

/// The oldest jobs, as `GET /jobs` has them.
#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Job>,
    count: u64,
}

/// A job; in lists without its event and its history.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Job {
    id: String,
    pub(super) state: String,
    pub(super) observer: String,
    pub(super) action: String,
    event_id: String,
    pub(super) entity: String,
    pub(super) key: Option<String>,
    tenant: Option<String>,
    priority: String,
    attempts: u64,
    enqueued_at: DateTime<Utc>,
    scheduled_at: DateTime<Utc>,
    worker: Option<String>,
    error: Option<String>,
    #[serde(default)]
    history: Vec<Attempt>,
    event: Option<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    operation: Option<String>,
    old: Option<Value>,
    new: Option<Value>,
}

/// Lists jobs.
pub(crate) async fn list(visit: Visit) -> Result<Response, Failure> {
    let asked = filters::asked(&visit);
    let known = filters::known(&asked, &FILTERS);
    let query = asked.with("limit", Some(LIMIT));
    let found = visit.api.get::<Page>("/jobs", &query).await;
    let form = filters::form(path::JOBS, &FILTERS, &known);
    let list = found.map(|page| {
        html! {
            @if !page.items.is_empty() { (acts(&visit, &known)) }
            (table(&page, &known))
        }
    });
    Ok(filters::page(&visit, (Section::Jobs, "Jobs"), &form, list))
}

/// Returns the buttons of acts that concern no more than the list.
fn acts(visit: &Visit, known: &Params) -> Markup {
    let state = known.get("state");
    html! {
        div.acts {
            @if state.is_none_or(|state| state == SCHEDULED) { (RETRY.all(visit, known)) }
            @if state.is_none() { (CANCEL.all(visit, known)) }
        }
        @if state.is_some() && CANCEL.is_for(visit) {
            p.hint { "Many jobs are cancelled in any state: to cancel them, leave the state out." }
        }
    }
}

fn table(page: &Page, known: &Params) -> Markup {
    let shown = page.items.len() as u64;
    html! {
        @if page.items.is_empty() {
            @if known.pairs().next().is_some() { p.quiet { "No job matches these filters." } }
            @else { p.done { "There are none: nothing waits in the queue. Most deliveries are made at once and never become jobs." } }
        } @else {
            div.wide tabindex="0" role="region" aria-label="Jobs" { table {
                caption {
                    (number(page.count)) " in all, the oldest first"
                    @if shown < page.count { "; these are the first " (number(shown)) ". Filters show others." }
                }
                thead { tr {
                    th scope="col" { "Enqueued (UTC)" } th scope="col" { "State" } th scope="col" { "Observer / action" }
                    th scope="col" { "Entity" } th scope="col" { "Key" } th.number scope="col" { "Attempts" }
                    th scope="col" { "Due (UTC)" } th scope="col" { "Last error" }
                } }
                tbody { @for job in &page.items { tr {
                    td { a href=(link(&job.id)) { (time(job.enqueued_at)) } }
                    td { (state(&job.state)) }
                    td { (cell(&job.observer)) " / " (cell(&job.action)) }
                    td { (cell(&job.entity)) }
                    td { (optional(job.key.as_deref())) }
                    td.number { (number(job.attempts)) }
                    td { (time(job.scheduled_at)) }
                    td { (optional(job.error.as_deref())) }
                } } }
            } }
        }
    }
}

fn link(id: &str) -> String {
    format!("{}{}", path::JOB, segment(id))
}

fn state(state: &str) -> Markup {
    let class = if state == SCHEDULED {
        "tag warn"
    } else {
        "tag"
    };
    html! { span class=(class) { (cell(state)) } }
}

/// Shows one job.
pub(crate) async fn show(visit: Visit) -> Result<Response, Failure> {
    let api = format!("/jobs/{}", segment(&visit.id));
    let job: Job = visit.api.get(&api, &Params::default()).await?;
    let event = job.event.as_ref();
    let content = html! {
        (notice(&visit.query))
        (summary(&job))
        div.acts {
            @if job.state == SCHEDULED { (RETRY.one(&visit, &job.id)) }
            @if job.state != "completed" { (CANCEL.one(&visit, &job.id)) }
            a.button href={ (path::EVENT) (segment(&job.event_id)) } { "Its event" }
        }
        (attempts(&job.history))
        @if let Some(event) = event { (images(event.old.as_ref(), event.new.as_ref())) }
    };
    Ok(visit.page(Section::Jobs, "Job", &content))
}

fn summary(job: &Job) -> Markup {
    let meaning = match &*job.state {
        "available" => "It is the first of its key, and a worker takes it next.",
        SCHEDULED => "It waits for the time of its next attempt.",
        "running" => "A worker holds it.",
        "blocked" => "It waits behind another of its key.",
        "completed" => "It is done, and kept for a while.",
        _ => "",
    };
    let operation = job
        .event
        .as_ref()
        .and_then(|event| event.operation.as_deref());
    html! {
        @if let Some(error) = &job.error { p.problem { (text(error)) } }
        dl {
            dt { "Job" } dd { code { (text(&job.id)) } }
            dt { "State" } dd { (state(&job.state)) " " (meaning) }
            dt { "Observer" } dd { (text(&job.observer)) }
            dt { "Action" } dd { (text(&job.action)) }
            dt { "Priority" } dd { (text(&job.priority)) }
            dt { "Attempts" } dd { (number(job.attempts)) }
            dt { "Enqueued" } dd { (time(job.enqueued_at)) }
            dt { @if job.state == "completed" { "Ended" } @else { "Due" } } dd { (time(job.scheduled_at)) }
            dt { "Worker" } dd { (whole(job.worker.as_deref())) }
            dt { "Event" } dd { a href={ (path::EVENT) (segment(&job.event_id)) } { (text(&job.event_id)) } }
            dt { "Entity" } dd { (text(&job.entity)) @if let Some(operation) = operation { ": " (text(operation)) } }
            dt { "Key" } dd { (whole(job.key.as_deref())) }
            @if job.tenant.is_some() { dt { "Tenant" } dd { (whole(job.tenant.as_deref())) } }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn job() -> Value {
        json!({
            "id": "a-1-2.f9~3", "state": "scheduled", "observer": "shop/orders", "action": "post", "eventId": "a-1-2",
            "entity": "public.orders", "key": "<script>", "tenant": null, "priority": "Normal", "attempts": 2,
            "enqueuedAt": "2026-11-30T00:00:00Z", "scheduledAt": "2026-11-30T00:05:00Z", "worker": null,
            "error": "\u{202e}HTTP 503",
        })
    }

    #[test]
    fn list_leads_to_each_and_says_how_many_there_are() {
        let page: Page = serde_json::from_value(json!({"items": [job()], "count": 1200})).unwrap();
        let shown = table(&page, &Params::default()).into_string();
        for part in [
            "href=\"/console/jobs/a-1-2.f9~3\"",
            "1,200 in all",
            "these are the first 1.",
            "&lt;script&gt;",
            "\\u{202e}HTTP 503",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let none: Page = serde_json::from_value(json!({"items": [], "count": 0})).unwrap();
        assert!(
            table(&none, &Params::default())
                .into_string()
                .contains("nothing waits")
        );
        let filtered = Params::parse(b"state=running");
        assert!(
            table(&none, &filtered)
                .into_string()
                .contains("matches these filters")
        );
    }

    #[test]
    fn one_is_shown_with_its_event() {
        let mut whole = job();
        whole["history"] = json!([{"at": "2026-11-30T00:00:00Z", "kind": "timeout", "error": "x", "status": null}]);
        whole["event"] = json!({"operation": "Insert", "occurredAt": "2026-11-30T00:00:00Z", "old": null,
            "new": {"a": 1}, "attemptsBefore": 0});
        let job: Job = serde_json::from_value(whole).unwrap();
        let shown = summary(&job).into_string();
        for part in [
            "waits for the time",
            "Insert",
            "&lt;script&gt;",
            "\\u{202e}HTTP 503",
        ] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let event = job.event.unwrap();
        assert_eq!((event.old, event.new), (None, Some(json!({"a": 1}))));
    }
}
