//! Search in the history.

use std::sync::Arc;

use ::search::{
    DeliveryState, Document, Facets, Filters, Highlight, SearchPage, SearchRequest, SortOrder,
};
use axum::response::Response;
use crds::config::Operation;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json as value;

use super::endpoint::{Call, json};
use super::events::visible;
use super::problem::Problem;

/// Parameters that change what is shown of the documents found, and not which are found or in which order.
const NOT_FILTERS: &[&str] = &["cursor", "limit", "facets", "highlight"];

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
    items: Vec<FoundEvent>,
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
    let bound_to = bound_to(&call);
    let after = match query.text("cursor") {
        Some(cursor) => Some(call.context.cursors().await?.verify(&cursor, &bound_to)?),
        None => None,
    };
    let request = SearchRequest {
        scope: call.scope(),
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
    let _slot = call.context.searches.enter().await?;
    let found = index.search(&request).await?;
    page(&call, found, &bound_to).await
}

/// Returns all that a cursor is good for: the listener, what the caller may see, and what it asks for.
fn bound_to(call: &Call) -> String {
    let (own, asked) = (&call.caller.tenant, call.query.canonical(NOT_FILTERS));
    value!([&*call.context.listener, own, asked]).to_string()
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
        // A caller of one tenant has that in its scope as well.
        tenant: query.text("tenant"),
        observer: query.text("observer"),
        action: query.text("action"),
        states: states.collect(),
        from: query.time("from"),
        to: query.time("to"),
    }
}

async fn page(call: &Call, found: SearchPage, bound_to: &str) -> Result<Response, Problem> {
    let next = match found.next {
        Some(place) => Some(call.context.cursors().await?.sign(&place, bound_to)?),
        None => None,
    };
    let observers = Arc::clone(&call.context.observers.borrow());
    let tenant = call.caller.tenant.as_deref();
    let items = found.hits.into_iter().map(|hit| FoundEvent {
        document: visible(&observers, tenant, hit.document),
        highlights: hit.highlights,
    });
    json(&EventPage {
        items: items.collect(),
        total: found.total,
        next,
        facets: found.facets,
    })
}
