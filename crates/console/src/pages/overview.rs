//! The listener as a whole: at the top what is wrong and what to do, then how much there is to do.

use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use serde::Deserialize;

use super::activity::Activity;
use super::observers::{Circuit, ObserverList};
use crate::failure::Failure;
use crate::layout::{Section, renewed};
use crate::params::Params;
use crate::routes::path;
use crate::value::{cell, duration, number, optional_time, text, time};
use crate::visit::Visit;

/// Lag from which a shard is shown as behind, in seconds.
const LAGGING: u64 = 30;

/// Between two looks, in seconds.
const PERIOD: u32 = 5;

/// State of the listener, as `GET /status` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    dead_letters: u64,
    jobs: Jobs,
    history: Option<History>,
    processes: Option<Vec<Process>>,
}

#[derive(Debug, Default, Deserialize)]
struct Jobs {
    available: u64,
    scheduled: u64,
    running: u64,
    blocked: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct History {
    backend: String,
    gaps: u64,
    latest_gap: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    name: String,
    config_digest: String,
    started_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Shards {
    items: Vec<Shard>,
}

/// A shard, as `GET /shards` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shard {
    #[serde(rename = "shard")]
    number: u64,
    owner: Option<String>,
    owner_is_gone: bool,
    epoch: u64,
    saved_at: DateTime<Utc>,
    lag_seconds: u64,
}

/// What is wrong, and where one acts on it.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    what: String,
    remedy: &'static str,
    link: Option<String>,
}

/// Shows the overview.
pub(crate) async fn show(visit: Visit) -> Result<Response, Failure> {
    let none = Params::default();
    let status: Status = visit.api.get("/status", &none).await?;
    let observers: ObserverList = visit.api.get("/observers", &none).await?;
    let shards: Option<Shards> = visit.api.get_if_allowed("/shards", &none).await?;
    let shards = shards.map(|list| list.items);
    let activity = Activity::ask(&visit).await?;
    let troubles = troubles(&status, &observers, shards.as_deref());
    let content = html! {
        (wrong(&troubles, shards.is_some()))
        (figures(&status, &observers))
        @if let Some(activity) = &activity { (activity.plots()) }
        @if let Some(shards) = &shards { (shard_table(shards)) }
        @if let Some(processes) = &status.processes { (process_table(processes)) }
        p.hint { "As of " (time(visit.now)) " UTC." }
    };
    let content = renewed("overview", path::OVERVIEW, PERIOD, &content);
    Ok(visit.page(Section::Overview, "Overview", &content))
}

/// Returns what is wrong, the worst first.
fn troubles(status: &Status, observers: &ObserverList, shards: Option<&[Shard]>) -> Vec<Trouble> {
    let mut all = Vec::new();
    if shards.is_some_and(<[Shard]>::is_empty) {
        all.push(Trouble {
            what: "No process has claimed a shard yet, so nothing is delivered".to_owned(),
            remedy: "A listener that has just started claims them within seconds; see the log of its processes.",
            link: None,
        });
    }
    let shards = shards.unwrap_or_default();
    let without: Vec<_> = shards
        .iter()
        .filter(|one| one.owner.is_none() || one.owner_is_gone)
        .collect();
    if !without.is_empty() {
        all.push(Trouble {
            what: format!("{} of {} shards have no owner, and their events wait", without.len(), shards.len()),
            remedy: "Another process takes them within seconds; if none does, none is running, or it cannot reach the database.",
            link: None,
        });
    }
    for (observer, action) in observers
        .actions()
        .filter(|(_, action)| action.circuit != Circuit::Closed)
    {
        let name = format!("{} / {}", observer.name, action.name);
        let error = action
            .error
            .as_deref()
            .unwrap_or("see its dead letters and jobs");
        all.push(Trouble {
            what: format!("The circuit breaker of {name} is {}: {error}", action.circuit.word()),
            remedy: "Deliveries wait until the receiver answers again. If it does now, close the breaker.",
            link: Some(path::OBSERVERS.to_owned()),
        });
    }
    if status.dead_letters > 0 {
        let noun = if status.dead_letters == 1 {
            "delivery was"
        } else {
            "deliveries were"
        };
        all.push(Trouble {
            what: format!("{} {noun} given up", number(status.dead_letters)),
            remedy: "Look at why, mend the receiver, and redrive them.",
            link: Some(path::DEAD_LETTERS.to_owned()),
        });
    }
    if let Some(lag) = shards
        .iter()
        .map(|shard| shard.lag_seconds)
        .max()
        .filter(|lag| *lag >= LAGGING)
    {
        all.push(Trouble {
            what: format!("The oldest waiting event is {} old", duration(lag)),
            remedy: "A receiver is slow or down, or there are too few replicas; a transaction that is open for long holds all events back.",
            link: None,
        });
    }
    if let Some(history) = status.history.as_ref().filter(|history| history.gaps > 0) {
        all.push(Trouble {
            what: format!("The history has {} gaps: events that it does not show", number(history.gaps)),
            remedy: "They were delivered all the same. The search server was away for longer than the change log keeps events.",
            link: None,
        });
    }
    all
}

fn wrong(troubles: &[Trouble], knows_shards: bool) -> Markup {
    html! {
        @if troubles.is_empty() {
            p.done { "Nothing is wrong: " @if knows_shards { "every shard has an owner, " }
                "no circuit breaker is open, and no delivery was given up." }
        } @else {
            h2 { "What is wrong" }
            @for trouble in troubles {
                div.problem {
                    strong { (text(&trouble.what)) } br;
                    (trouble.remedy)
                    @if let Some(link) = &trouble.link { " " a href=(link) { "Go there" } }
                }
            }
        }
    }
}

fn figures(status: &Status, observers: &ObserverList) -> Markup {
    let jobs = &status.jobs;
    html! {
        ul.figures {
            li { b { (number(observers.len() as u64)) } a href=(path::OBSERVERS) { "observers" } }
            li { b { (number(status.dead_letters)) } a href=(path::DEAD_LETTERS) { "dead letters" } }
            li { b { (number(jobs.available)) } a href={ (path::JOBS) "?state=available" } { "jobs available" } }
            li { b { (number(jobs.scheduled)) } a href={ (path::JOBS) "?state=scheduled" } { "jobs scheduled" } }
            li { b { (number(jobs.running)) } a href={ (path::JOBS) "?state=running" } { "jobs running" } }
            li { b { (number(jobs.blocked)) } a href={ (path::JOBS) "?state=blocked" } { "jobs blocked" } }
            @if let Some(history) = &status.history {
                li { b { (number(history.gaps)) } "gaps of the history in " (text(&history.backend))
                    @if history.latest_gap.is_some() { ", the latest at " (optional_time(history.latest_gap)) } }
            }
        }
    }
}

fn shard_table(shards: &[Shard]) -> Markup {
    html! {
        h2 #shards { "Shards" }
        div.wide tabindex="0" role="region" aria-labelledby="shards" { table {
            thead { tr { th.number { "Shard" } th { "Owner" } th.number { "Epoch" } th.number { "Lag" } th { "Saved (UTC)" } } }
            tbody { @for shard in shards { tr {
                td.number { (shard.number) }
                td {
                    @match &shard.owner {
                        Some(owner) => { (cell(owner)) @if shard.owner_is_gone { " " span.tag.bad { "gone" } } }
                        None => { span.tag.bad { "none" } }
                    }
                }
                td.number { (number(shard.epoch)) }
                td.number { (duration(shard.lag_seconds)) }
                td { (time(shard.saved_at)) }
            } } }
        } }
    }
}

fn process_table(processes: &[Process]) -> Markup {
    html! {
        h2 #processes { "Processes" }
        div.wide tabindex="0" role="region" aria-labelledby="processes" { table {
            thead { tr { th { "Process" } th { "Configuration" } th { "Started (UTC)" } } }
            tbody { @for process in processes { tr {
                td { (cell(&process.name)) }
                td { code { (cell(&process.config_digest)) } }
                td { (time(process.started_at)) }
            } } }
        } }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn status(dead_letters: u64) -> Status {
        let jobs = json!({"available": 1, "scheduled": 2, "running": 3, "blocked": 4});
        let status = json!({"deadLetters": dead_letters, "jobs": jobs});
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn what_is_wrong_stands_at_the_top() {
        let observers = json!({"items": [{
            "observer": "shop/orders", "entity": "public.orders", "operations": ["Insert"],
            "actions": [{"action": "notify", "kind": "webhook", "circuit": "open", "error": "HTTP 500 <b>"}],
        }]});
        let observers: ObserverList = serde_json::from_value(observers).unwrap();
        let shard = json!({
            "shard": 0, "shards": 8, "owner": null, "ownerIsGone": false, "epoch": 3, "since": "2026-11-30T00:00:00Z",
            "savedAt": "2026-11-30T00:00:00Z", "lagSeconds": 95,
        });
        let shards: Vec<Shard> = serde_json::from_value(json!([shard])).unwrap();
        let all = troubles(&status(1234), &observers, Some(&shards));
        let what: Vec<_> = all.iter().map(|one| &*one.what).collect();
        assert_eq!(
            what,
            [
                "1 of 1 shards have no owner, and their events wait",
                "The circuit breaker of shop/orders / notify is open: HTTP 500 <b>",
                "1,234 deliveries were given up",
                "The oldest waiting event is 1 min 35 s old",
            ]
        );
        let shown = wrong(&all, true).into_string();
        assert!(shown.contains("HTTP 500 &lt;b&gt;"), "{shown}");
        let fine: ObserverList = serde_json::from_value(json!({"items": []})).unwrap();
        assert_eq!(troubles(&status(0), &fine, None), []);
        assert!(wrong(&[], true).into_string().contains("Nothing is wrong"));
    }
}
