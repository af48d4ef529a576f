//! What an act will be done to, and to how many, as the API knows it now.

use axum::http::StatusCode;
use maud::{Markup, html};
use serde::Deserialize;

use super::backfills::{Backfill, Backfills};
use super::caches::Caches;
use super::dead_letters::Letter;
use super::jobs::Job;
use super::observers::{Circuit, ObserverList};
use crate::acts::{Target, Wanted, label};
use crate::api::{ApiError, segment};
use crate::params::Params;
use crate::value::{cell, number, optional, text};
use crate::visit::Visit;

/// What an act will be done to.
pub(super) struct Extent {
    /// How many, if the API can tell.
    pub(super) count: Option<u64>,
    /// What is done, in one line.
    pub(super) headline: String,
    /// What they are.
    pub(super) about: Markup,
}

#[derive(Debug, Deserialize)]
struct Count {
    count: u64,
}

/// Asks for it.
pub(super) async fn extent(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    match wanted.act.target {
        Target::DeadLetters => dead_letters(visit, wanted).await,
        Target::ScheduledJobs | Target::Jobs => jobs(visit, wanted).await,
        Target::Backfill => backfill(visit, wanted).await,
        Target::Table => table(visit, wanted).await,
        Target::Caches => caches(visit, wanted).await,
        Target::Breakers => breakers(visit, wanted).await,
    }
}

/// Returns what is said of a number of things.
fn counted(wanted: &Wanted, count: u64, about: Markup) -> Extent {
    let act = wanted.act;
    Extent {
        count: Some(count),
        headline: format!("{} {}", act.verb, act.of(count)),
        about,
    }
}

/// Returns a delivery as a list.
fn delivery((observer, action): (&str, &str), entity: &str, key: Option<&str>) -> Markup {
    html! {
        dt { "Observer" } dd { (cell(observer)) }
        dt { "Action" } dd { (cell(action)) }
        dt { "Entity" } dd { (cell(entity)) }
        dt { "Key" } dd { (optional(key)) }
    }
}

async fn dead_letters(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    if let Some(id) = wanted.get("id") {
        let path = format!("/dead-letters/{}", segment(id));
        let one: Letter = visit.api.get(&path, &Params::default()).await?;
        let about = delivery(
            (&one.observer, &one.action),
            &one.entity,
            one.key.as_deref(),
        );
        let about = html! { dl { dt { "Dead letter" } dd { (cell(id)) } (about) } };
        return Ok(counted(wanted, 1, about));
    }
    let query = wanted
        .filters()
        .with("until", Some(&wanted.until()))
        .and("limit", "1")
        .and("count", "true");
    let Count { count } = visit.api.get("/dead-letters", &query).await?;
    Ok(counted(wanted, count, html! {}))
}

async fn jobs(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    if let Some(id) = wanted.get("id") {
        let path = format!("/jobs/{}", segment(id));
        let one: Job = visit.api.get(&path, &Params::default()).await?;
        let about = delivery(
            (&one.observer, &one.action),
            &one.entity,
            one.key.as_deref(),
        );
        let about = html! { dl { dt { "Job" } dd { (cell(id)) } dt { "State" } dd { (cell(&one.state)) } (about) } };
        let concerned = match wanted.act.target {
            Target::ScheduledJobs => one.state == "scheduled",
            _ => one.state != "completed",
        };
        return Ok(counted(wanted, concerned.into(), about));
    }
    let query = wanted.filters().and("limit", "1");
    let of = async |state: Option<&str>| {
        let query = query.with("state", state);
        let found: Count = visit.api.get("/jobs", &query).await?;
        Ok::<_, ApiError>(found.count)
    };
    let count = match wanted.act.target {
        Target::ScheduledJobs => of(Some("scheduled")).await?,
        _ => of(None).await?.saturating_sub(of(Some("completed")).await?),
    };
    Ok(counted(wanted, count, html! {}))
}

async fn backfill(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    let id = wanted.get("id").unwrap_or_default();
    let all: Backfills = visit.api.get("/backfills", &Params::default()).await?;
    let found = all.items.iter().find(|one| one.id.to_string() == id);
    let one: &Backfill = found.ok_or_else(|| ApiError {
        status: StatusCode::NOT_FOUND,
        detail: format!("the listener has no backfill {id}"),
    })?;
    let about = html! { dl {
        dt { "Table" } dd { (cell(&one.entity)) }
        dt { "State" } dd { (cell(&one.state)) }
        dt { "Rows read" } dd { (number(one.rows_read)) }
    } };
    Ok(Extent {
        count: Some(1),
        headline: format!("{} backfill {}", wanted.act.verb, one.id),
        about,
    })
}

async fn table(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    let observers: ObserverList = visit.api.get("/observers", &Params::default()).await?;
    let entity = wanted.get("entity").unwrap_or_default();
    let only = wanted.get("observer");
    let names: Vec<_> = observers
        .reading(entity)
        .filter(|name| only.is_none_or(|only| only == *name))
        .collect();
    let about = html! {
        dl {
            @for (name, value) in wanted.filters().pairs() { dt { (label(name)) } dd { (text(value)) } }
            dt { "Goes to" } dd {
                @for name in &names { div { (cell(name)) } }
                @if names.is_empty() { span.none { "nobody" } }
            }
        }
        @if names.is_empty() {
            p.notice { "No such observer has Read among its operations of this table, so nothing would be delivered." }
        }
    };
    Ok(Extent {
        count: Some(1),
        headline: "Start a backfill".to_owned(),
        about,
    })
}

async fn caches(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    let caches: Caches = visit.api.get("/cache", &Params::default()).await?;
    if wanted.is_all() {
        let about = html! { p { "These are in the memory of the processes. Those in Redis are dropped too, and not counted." } };
        let entries = caches.entries();
        let extent = counted(wanted, entries, about);
        // Redis may have some all the same.
        return Ok(Extent {
            count: Some(entries).filter(|entries| *entries > 0),
            ..extent
        });
    }
    let given = wanted.filters();
    let about = html! {
        dl { @for (name, value) in given.pairs() { dt { (label(name)) } dd { (text(value)) } } }
        p.hint { "How many these are is not known. All caches together hold " (number(caches.entries())) " in memory." }
    };
    Ok(Extent {
        count: None,
        headline: "Invalidate cached results".to_owned(),
        about,
    })
}

async fn breakers(visit: &Visit, wanted: &Wanted) -> Result<Extent, ApiError> {
    let observers: ObserverList = visit.api.get("/observers", &Params::default()).await?;
    let [observer, action] = ["observer", "action"].map(|name| wanted.get(name));
    let concerned: Vec<_> = observers
        .actions()
        .filter(|(of, one)| {
            observer.is_none_or(|name| name == of.name)
                && action.is_none_or(|name| name == one.name)
        })
        .filter(|(_, one)| one.circuit != Circuit::Closed)
        .collect();
    let about = html! {
        @if concerned.is_empty() {
            p { "As far as is known, none of them is open. A process tells of its own every few seconds." }
        } @else {
            ul { @for (of, one) in &concerned { li {
                (cell(&of.name)) " / " (cell(&one.name)) ": " (one.circuit.word())
                @if let Some(error) = &one.error { " (" (cell(error)) ")" }
            } } }
        }
    };
    Ok(counted(wanted, concerned.len() as u64, about))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::{Value, json};

    use super::*;
    use crate::acts::find;
    use crate::pages::fixture::{Answers, visit};

    async fn asked(act: &str, query: &str, answer: &Value) -> (Extent, Vec<String>) {
        let (visit, asked) = visit(act, query, "", Answers::both(answer));
        let wanted = Wanted::parse(find(act).unwrap(), &visit.query, visit.now).unwrap();
        let extent = extent(&visit, &wanted).await.unwrap();
        let asked = asked.lock().unwrap();
        let uris = asked.iter().map(|(uri, _)| uri.clone()).collect();
        (extent, uris)
    }

    fn about(extent: &Extent) -> String {
        extent.about.clone().into_string()
    }

    #[tokio::test]
    async fn jobs_are_counted_in_the_states_that_are_concerned() {
        let answer = json!({"items": [], "count": 5});
        let jobs = "GET /api/observers/jobs?action=post&limit=1";
        let (extent, uris) = asked("retry-jobs", "all=true&action=post", &answer).await;
        assert_eq!(
            (extent.count, uris),
            (Some(5), vec![format!("{jobs}&state=scheduled")])
        );
        let (extent, uris) = asked("cancel-jobs", "all=true&action=post", &answer).await;
        let both = vec![jobs.to_owned(), format!("{jobs}&state=completed")];
        assert_eq!((extent.count, uris), (Some(0), both));
    }

    #[tokio::test]
    async fn backfill_is_sent_to_those_who_read_its_table() {
        let observer = |name: &str, operation: &str| {
            json!({"observer": name, "entity": "public.orders", "operations": [operation], "tenant": null,
                "condition": null, "actions": []})
        };
        let answer =
            json!({"items": [observer("shop/reads<b>", "Read"), observer("shop/other", "Insert")]});
        let start = "start-backfill";
        let (extent, _) = asked(start, "entity=public.orders", &answer).await;
        let shown = about(&extent);
        assert!(
            shown.contains("shop/reads&lt;b&gt;") && !shown.contains("shop/other"),
            "{shown}"
        );
        for query in [
            "entity=public.orders&observer=shop/other",
            "entity=public.none",
        ] {
            let (extent, _) = asked(start, query, &answer).await;
            assert!(
                about(&extent).contains("nothing would be delivered"),
                "{query}"
            );
        }
    }

    #[tokio::test]
    async fn breakers_that_are_not_closed_are_named() {
        let action = |name: &str, circuit: &str| json!({"action": name, "kind": "log", "circuit": circuit, "error": "<i>"});
        let answer = json!({"items": [{"observer": "shop/a", "entity": "e", "operations": [], "tenant": null,
            "condition": null, "actions": [action("x", "open"), action("y", "halfOpen"), action("z", "closed")]}]});
        for (query, count) in [
            ("all=true", 2),
            ("observer=shop/a&action=x", 1),
            ("observer=shop/a&action=z", 0),
        ] {
            let (extent, _) = asked("reset-breakers", query, &answer).await;
            assert_eq!(extent.count, Some(count), "{query}");
            assert!(!about(&extent).contains("<i>"), "{query}");
        }
    }
}
