//! Backfills: rows that tables have, sent as events.

use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use crate::acts::{CANCEL_BACKFILL, FILTERS_OF_BACKFILL, RESUME_BACKFILL, START_BACKFILL, notice};
use crate::failure::Failure;
use crate::layout::{Section, renewed_rows};
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, number, optional_time, text, time};
use crate::visit::Visit;

/// Between two looks while one is running, in seconds.
const PERIOD: u32 = 3;

/// Most that are shown.
const MOST: usize = 100;

const ID: &str = "backfills";

/// Backfills, as `GET /backfills` has them.
#[derive(Debug, Deserialize)]
pub(super) struct Backfills {
    pub(super) items: Vec<Backfill>,
}

/// A backfill.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backfill {
    pub(super) id: i64,
    pub(super) entity: String,
    observer: Option<String>,
    filters: Vec<Filter>,
    rate: Option<u64>,
    pub(super) state: String,
    pub(super) rows_read: u64,
    estimated_rows: Option<u64>,
    error: Option<String>,
    requested_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct Filter {
    column: String,
    operator: String,
    value: String,
}

impl Backfill {
    fn is_over(&self) -> bool {
        !matches!(&*self.state, "Pending" | "Running")
    }

    fn can_be_resumed(&self) -> bool {
        matches!(&*self.state, "Failed" | "Cancelled")
    }
}

/// Lists backfills.
pub(crate) async fn list(visit: Visit) -> Result<Response, Failure> {
    let backfills: Backfills = visit.api.get("/backfills", &Params::default()).await?;
    let content = html! {
        (notice(&visit.query))
        (table(&visit, &backfills.items))
        @if START_BACKFILL.is_for(&visit) { (form()) }
    };
    Ok(visit.page(Section::Backfills, "Backfills", &content))
}

fn table(visit: &Visit, backfills: &[Backfill]) -> Markup {
    let rows = html! { @for one in backfills.iter().take(MOST) { (row(visit, one)) } };
    let seconds = (!backfills.iter().all(Backfill::is_over)).then_some(PERIOD);
    html! {
        @if backfills.is_empty() {
            p.quiet { "There are none: none was started in the last 30 days." }
        } @else {
            div.wide tabindex="0" role="region" aria-label="Backfills" { table {
                caption {
                    "The newest first"
                    @if backfills.len() > MOST { "; " (number((backfills.len() - MOST) as u64)) " older ones are left out" }
                }
                thead { tr {
                    th.number scope="col" { "Backfill" } th scope="col" { "Rows of" } th scope="col" { "State" }
                    th scope="col" { "Rows read" } th.number scope="col" { "Rate" } th scope="col" { "Requested (UTC)" }
                    th scope="col" { "Ended (UTC)" }
                    @if CANCEL_BACKFILL.is_for(visit) { th scope="col" { "Change" } }
                } }
                (renewed_rows(ID, path::BACKFILLS, seconds, &rows))
            } }
            p.hint { "A backfill is completed when all rows are in the change log; their deliveries follow. \
                      The number of rows is an estimate for the whole table, without filters." }
        }
    }
}

fn row(visit: &Visit, one: &Backfill) -> Markup {
    html! { tr {
        td.number { (one.id) }
        td {
            (cell(&one.entity))
            @for filter in &one.filters {
                div { "where " code { (cell(&filter.column)) " " (cell(&filter.operator)) " " (cell(&filter.value)) } }
            }
            @if let Some(observer) = &one.observer { div { "only for " (cell(observer)) } }
        }
        td {
            span class=(class(&one.state)) { (cell(&one.state)) }
            @if let Some(error) = &one.error { div.bad { (text(error)) } }
        }
        td { (progress(one)) }
        td.number { @match one.rate { Some(rate) => { (number(rate)) " a second" } None => { span.none { "no limit" } } } }
        td { (time(one.requested_at)) }
        td { (optional_time(one.finished_at)) }
        @if CANCEL_BACKFILL.is_for(visit) {
            td { (change(visit, one)) }
        }
    } }
}

fn change(visit: &Visit, one: &Backfill) -> Markup {
    let fields = Params::default().and("id", &one.id.to_string());
    html! {
        @if !one.is_over() { (CANCEL_BACKFILL.button(visit, &fields, &format!("Cancel backfill {}", one.id))) }
        @else if one.can_be_resumed() { (RESUME_BACKFILL.button(visit, &fields, &format!("Resume backfill {}", one.id))) }
        @else { span.none { "–" } }
    }
}

fn class(state: &str) -> &'static str {
    match state {
        "Completed" => "tag good",
        "Failed" => "tag bad",
        "Cancelled" => "tag warn",
        _ => "tag",
    }
}

fn progress(one: &Backfill) -> Markup {
    html! {
        (number(one.rows_read))
        @if let Some(estimated) = one.estimated_rows { " of about " (number(estimated)) }
        @if !one.is_over() {
            // Estimates may be too low.
            @let most = one.estimated_rows.unwrap_or_default().max(one.rows_read).max(1);
            progress aria-label={ "Progress of backfill " (one.id) } max=(most) value=(one.rows_read) {}
        }
    }
}

fn form() -> Markup {
    html! {
        h2 { "Start a backfill" }
        p { "It sends the rows that a table has to the observers that watch " code { "Read" } " of it, beside its changes." }
        form.card method="get" action=(START_BACKFILL.page()) {
            label for="backfill-entity" { "Table, as schema.table" }
            input #backfill-entity type="text" name="entity" required autocomplete="off";
            label for="backfill-observer" { "Only for this observer, as namespace/name; all where left out" }
            input #backfill-observer type="text" name="observer" autocomplete="off";
            label for="backfill-rate" { "Most rows per second; as fast as they are delivered where left out" }
            input #backfill-rate type="number" name="rate" min="1" max="1000000" step="1";
            @for at in 1..=FILTERS_OF_BACKFILL { (filter(at)) }
            div.acts { button.primary type="submit" { "Look at what it does" } }
        }
    }
}

fn filter(at: usize) -> Markup {
    let [column, operator, value] =
        ["column", "operator", "value"].map(|name| format!("{name}{at}"));
    html! {
        fieldset.row {
            legend { "Only rows where (" (at) ")" }
            div { label for=(column) { "Column" } input id=(column) type="text" name=(column) autocomplete="off"; }
            div { label for=(operator) { "Comparison" } select id=(operator) name=(operator) {
                @for one in ["=", "!=", "<", "<=", ">", ">="] { option value=(one) { (one) } }
            } }
            div { label for=(value) { "Value" } input id=(value) type="text" name=(value) autocomplete="off"; }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;
    use crate::pages::fixture::{Answers, shown, visit};

    fn item(state: &str, rows: u64, estimated: Option<u64>) -> serde_json::Value {
        json!({
            "id": 3, "entity": "public.<b>", "observer": null, "rate": 50, "state": state, "rowsRead": rows,
            "filters": [{"column": "status", "operator": "<", "value": "\u{202e}<script>"}],
            "estimatedRows": estimated, "error": "no \u{1b}table", "requestedAt": "2026-11-30T00:00:00Z",
            "startedAt": null, "finishedAt": null,
        })
    }

    fn backfill(state: &str, rows: u64, estimated: Option<u64>) -> Backfill {
        serde_json::from_value(item(state, rows, estimated)).unwrap()
    }

    #[test]
    fn progress_is_that_of_the_estimate_and_never_beyond() {
        let shown = |one: &Backfill| progress(one).into_string();
        let running = shown(&backfill("Running", 1500, Some(120_000)));
        assert!(running.contains("1,500 of about 120,000"), "{running}");
        assert!(
            running.contains("max=\"120000\" value=\"1500\""),
            "{running}"
        );
        let beyond = shown(&backfill("Running", 7, Some(3)));
        assert!(beyond.contains("max=\"7\" value=\"7\""), "{beyond}");
        let unknown = shown(&backfill("Pending", 0, None));
        assert!(unknown.contains("max=\"1\" value=\"0\""), "{unknown}");
        assert!(!shown(&backfill("Completed", 7, Some(3))).contains("progress"));
    }

    #[test]
    fn states_say_what_can_be_done() {
        for (state, is_over, resumed) in [
            ("Pending", false, false),
            ("Running", false, false),
            ("Completed", true, false),
            ("Cancelled", true, true),
            ("Failed", true, true),
        ] {
            let one = backfill(state, 0, None);
            assert_eq!(
                (one.is_over(), one.can_be_resumed()),
                (is_over, resumed),
                "{state}"
            );
        }
    }

    #[tokio::test]
    async fn list_is_renewed_while_one_runs() {
        for (state, renewed, act) in [
            ("Running", true, "cancel-backfill"),
            ("Failed", false, "resume-backfill"),
        ] {
            let answer = json!({"items": [item(state, 1, None)]});
            let (visit, _) = visit("", "", "", Answers::both(&answer));
            let (_, page) = shown(list(visit.clone()).await.unwrap()).await;
            assert_eq!(page.contains("hx-trigger=\"every 3s\""), renewed, "{page}");
            let link = format!("id=\"{act}-3\" class=\"button\" href=\"/console/acts/{act}?id=3\"");
            assert!(page.contains(&link), "{link}: {page}");
            assert!(
                page.contains("&lt;</bdi> <bdi>\\u{202e}&lt;script&gt;"),
                "{page}"
            );
            assert!(
                page.contains("no \\u{1b}table") && page.contains("Start a backfill"),
                "{page}"
            );

            let mut reader = visit;
            reader.caller.operate = false;
            let (_, page) = shown(list(reader).await.unwrap()).await;
            assert!(!page.contains("/console/acts/"), "{page}");
        }
    }
}
