//! Search in the history.

use std::sync::Arc;
use std::time::Duration;

use ::search::{
    DeliveryState, Document, Facets, Filters, Highlight, PageKey, Scope, SearchPage, SearchRequest,
    SortOrder,
};
use axum::response::Response;
use crds::config::Operation;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json as value;
use serde_json::value::{RawValue, to_raw_value};

use super::endpoint::{Call, TenantScope, json};
use super::events::visible;
use super::problem::Problem;

/// Bytes of documents after which a page ends.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// Parameters that change what is shown of the documents found, and not which are found or in which order.
const NOT_FILTERS: &[&str] = &["cursor", "limit", "facets", "highlight"];

/// Operations of events, as parameters.
pub(super) const OPERATIONS: &[&str] = &["Insert", "Update", "Delete", "Truncate", "Custom"];

/// States of deliveries, as parameters.
pub(super) const OUTCOMES: &[&str] = &[
    "pending",
    "queued",
    "retrying",
    "completed",
    "dropped",
    "deadLetter",
    "delivered",
];

/// An event of the history that was found.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct FoundEvent {
    #[serde(flatten)]
    document: Document,
    /// Where the text of the query is found; only with `highlight=true`.
    highlights: Vec<Highlight>,
}

/// Page of events that match.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct EventPage {
    /// The events, in order. There may be fewer than `limit`, though more follow, where they are large.
    #[schemars(with = "Vec<FoundEvent>")]
    items: Vec<Box<RawValue>>,
    /// Number of events that match, on all pages.
    total: u64,
    /// `cursor` of the next page, if there is one.
    next: Option<String>,
    /// Counts of the events that match; only with `facets=true`.
    facets: Option<Facets>,
}

pub(super) async fn search(call: Call) -> Result<Response, Problem> {
    let Some(index) = call.context.search.clone() else {
        return Err(Problem::not_found(
            "the listener keeps no history to search: set spec.search of the ObserverListener",
        ));
    };
    let query = &call.query;
    let scope = call.tenants(query.text("tenant"));
    let bound_to = bound_to(&call, &scope);
    let after = match query.text("cursor") {
        Some(cursor) => Some(call.context.cursors().await?.verify(&cursor, &bound_to)?),
        None => None,
    };
    let Ok(tenant) = scope.filter() else {
        let facets = query.flag("facets").then(Facets::default);
        return page(
            &call,
            SearchPage {
                facets,
                ..SearchPage::default()
            },
            &bound_to,
        )
        .await;
    };
    let request = SearchRequest {
        scope: Scope {
            listener: call.context.listener.to_string(),
            tenant,
        },
        filters: filters(&call),
        sort: match query.text("sort").as_deref() {
            Some("oldest") => SortOrder::Oldest,
            _ => SortOrder::Newest,
        },
        after,
        limit: query.size("limit"),
        facets: query.flag("facets"),
        highlight: query.flag("highlight"),
    };
    let permit = Arc::clone(&call.context.searches).try_acquire_owned();
    let permit = permit.map_err(|_| {
        let detail = "too many searches are running; try again in a moment";
        Problem::too_many(detail, Duration::from_secs(1))
    })?;
    let found = index.search(&request).await?;
    drop(permit);
    page(&call, found, &bound_to).await
}

/// Returns all that a cursor is good for: the listener, what the caller may see, and what it asks for.
fn bound_to(call: &Call, scope: &TenantScope) -> String {
    let (own, asked) = (&call.caller.tenant, call.query.canonical(NOT_FILTERS));
    value!([&*call.context.listener, own, format!("{scope:?}"), asked]).to_string()
}

fn filters(call: &Call) -> Filters {
    let query = &call.query;
    let operations = query.choices("operation");
    let operations = Operation::ALL
        .into_iter()
        .filter(|one| operations.contains(&one.as_str()));
    let outcomes = query.choices("outcome");
    let states = DeliveryState::ALL
        .into_iter()
        .filter(|one| outcomes.contains(&one.as_str()));
    Filters {
        query: query.text("q"),
        entity: query.text("entity"),
        operations: operations.collect(),
        key: query.text("key"),
        // The scope has it, which every backend enforces.
        tenant: None,
        observer: query.text("observer"),
        action: query.text("action"),
        states: states.collect(),
        from: query.time("from"),
        to: query.time("to"),
    }
}

async fn page(call: &Call, found: SearchPage, bound_to: &str) -> Result<Response, Problem> {
    let (mut items, mut bytes, mut next) = (Vec::new(), 0, found.next);
    let mut last: Option<PageKey> = None;
    for hit in found.hits {
        let place = PageKey::of(&hit.document);
        let tenant = call.caller.tenant.as_deref();
        let item = to_raw_value(&FoundEvent {
            document: visible(&call.context, tenant, hit.document),
            highlights: hit.highlights,
        })?;
        bytes += item.get().len();
        if last.is_some() && bytes > MAX_PAGE_BYTES {
            next = last;
            break;
        }
        items.push(item);
        last = Some(place);
    }
    let next = match next {
        Some(place) => Some(call.context.cursors().await?.sign(&place, bound_to)?),
        None => None,
    };
    json(&EventPage {
        items,
        total: found.total,
        next,
        facets: found.facets,
    })
}
