//! The list of all endpoints.

use ::queue::{JobState, JobView};
use ::search::{DeliveryState, Document, MAX_QUERY_BYTES};
use crds::config::Operation;

use super::backfills::{self, BackfillId, BackfillList, NewBackfill};
use super::breakers::{self, BreakersReset};
use super::cache::{CacheList, Invalidated};
use super::dead_letters::{self, DeadLetterPage, LINES};
use super::endpoint::{Endpoint, Method, schema_of};
use super::jobs::{self, JobPage};
use super::overview::{self, ListenerStatus, ObserverList, ShardList};
use super::parameters::{Kind, Parameter};
use super::search::{self, EventPage};
use super::selection::AffectedCount;
use super::{cache, events, openapi};
use crate::backfill::Backfill;
use crate::dead_letters::admin::DeadLetterDetail;

const JSON: &str = "application/json";

/// Longest name of an observer or an action.
const NAME: Kind = Kind::Text(320);

/// Longest entity, key or tenant.
const VALUE: Kind = Kind::Text(2048);

const fn parameter(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
    Parameter { name, about, kind }
}

const OBSERVER: Parameter = parameter("observer", NAME, "Only of this observer, `namespace/name`.");
const ACTION: Parameter = parameter("action", NAME, "Only of the action of this name.");
const KIND: Parameter = parameter("kind", NAME, "Only with a last failure of this kind.");
const ENTITY: Parameter = parameter("entity", VALUE, "Only events of this entity.");
const KEY: Parameter = parameter("key", VALUE, "Only events of this key.");
const TENANT: Parameter = parameter("tenant", VALUE, "Only of this tenant.");
const SINCE: Parameter = parameter("since", Kind::Time, "Given up at this time or later.");
const UNTIL: Parameter = parameter("until", Kind::Time, "Given up before this time.");
const LIMIT: Parameter = parameter(
    "limit",
    Kind::Integer(1, 1000, Some(50)),
    "Size of the page.",
);

const DEAD_LETTER_FILTERS: [Parameter; 8] =
    [OBSERVER, ACTION, KIND, ENTITY, KEY, TENANT, SINCE, UNTIL];

const DEAD_LETTER_PAGE: &[Parameter] = &[
    OBSERVER,
    ACTION,
    KIND,
    ENTITY,
    KEY,
    TENANT,
    SINCE,
    UNTIL,
    LIMIT,
    parameter(
        "before",
        Kind::Integer(1, i64::MAX, None),
        "Only ids below this one: `next` of the page before.",
    ),
];

const JOB_FILTERS: &[Parameter] = &[
    OBSERVER,
    ACTION,
    TENANT,
    parameter(
        "state",
        Kind::Choice(|| JobState::ALL.map(JobState::as_str).to_vec()),
        "Only in this state.",
    ),
    LIMIT,
];

const SEARCH: &[Parameter] = &[
    parameter(
        "q",
        Kind::Text(MAX_QUERY_BYTES),
        "Query: words, `field:value`, phrases in quotes, ranges as `new.total:>100`.",
    ),
    ENTITY,
    parameter(
        "operation",
        Kind::Choices(|| Operation::ALL.map(Operation::as_str).to_vec()),
        "Only these operations.",
    ),
    OBSERVER,
    ACTION,
    parameter(
        "outcome",
        Kind::Choices(|| DeliveryState::ALL.map(DeliveryState::as_str).to_vec()),
        "Only with a delivery in one of these states.",
    ),
    TENANT,
    KEY,
    parameter("from", Kind::Time, "Only events at this time or later."),
    parameter("to", Kind::Time, "Only events before this time."),
    parameter(
        "sort",
        Kind::Choice(|| vec!["newest", "oldest"]),
        "Order; default `newest`, the latest event first.",
    ),
    parameter(
        "limit",
        Kind::Integer(0, 1000, Some(50)),
        "Size of the page; with 0, only the total and the facets.",
    ),
    parameter(
        "cursor",
        Kind::Text(4096),
        "`next` of the page before, with the same filters.",
    ),
    parameter("facets", Kind::Flag, "Whether to count by facet."),
    parameter(
        "highlight",
        Kind::Flag,
        "Whether to show where the text of the query is found.",
    ),
];

/// Defaults of an endpoint that reads.
const READ: Endpoint = Endpoint {
    id: "",
    method: Method::Get,
    path: "",
    about: "",
    tenants: true,
    id_parameter: None,
    query: &[],
    body: None,
    response: openapi::any_object,
    content: JSON,
    run: openapi::show,
};

/// Defaults of an endpoint that changes.
const CHANGE: Endpoint = Endpoint {
    method: Method::Post,
    response: schema_of::<AffectedCount>,
    ..READ
};

/// All endpoints.
pub(super) static ENDPOINTS: [Endpoint; 22] = [
    Endpoint {
        id: "search",
        path: "/search",
        about: "Searches the history for events.",
        query: SEARCH,
        response: schema_of::<EventPage>,
        run: |call| Box::pin(search::search(call)),
        ..READ
    },
    Endpoint {
        id: "showEvent",
        path: "/events/{id}",
        about: "Shows one event and what became of it.",
        id_parameter: Some(parameter(
            "id",
            Kind::Text(320),
            "Id of the event, or of one of its deliveries.",
        )),
        response: schema_of::<Document>,
        run: |call| Box::pin(events::show(call)),
        ..READ
    },
    Endpoint {
        id: "listObservers",
        path: "/observers",
        about: "Lists the observers of the listener.",
        response: schema_of::<ObserverList>,
        run: |call| Box::pin(overview::observers(call)),
        ..READ
    },
    Endpoint {
        id: "listShards",
        path: "/shards",
        about: "Lists the shards of the listener. Not for tokens of a tenant.",
        tenants: false,
        response: schema_of::<ShardList>,
        run: |call| Box::pin(overview::shards(call)),
        ..READ
    },
    Endpoint {
        id: "showStatus",
        path: "/status",
        about: "Shows the state of the listener.",
        response: schema_of::<ListenerStatus>,
        run: |call| Box::pin(overview::status(call)),
        ..READ
    },
    Endpoint {
        id: "listDeadLetters",
        path: "/dead-letters",
        about: "Lists dead letters, the newest first.",
        query: DEAD_LETTER_PAGE,
        response: schema_of::<DeadLetterPage>,
        run: |call| Box::pin(dead_letters::list(call)),
        ..READ
    },
    Endpoint {
        id: "exportDeadLetters",
        path: "/dead-letters/export",
        about: "Exports dead letters, the oldest first, one line of JSON each.",
        query: &DEAD_LETTER_FILTERS,
        response: openapi::any_text,
        content: LINES,
        run: |call| Box::pin(async { Ok(dead_letters::export(call)) }),
        ..READ
    },
    Endpoint {
        id: "showDeadLetter",
        path: "/dead-letters/{id}",
        about: "Shows one dead letter with its event and its attempts.",
        id_parameter: Some(parameter(
            "id",
            Kind::Integer(1, i64::MAX, None),
            "Id of the dead letter.",
        )),
        response: schema_of::<DeadLetterDetail>,
        run: |call| Box::pin(dead_letters::show(call)),
        ..READ
    },
    Endpoint {
        id: "redriveDeadLetters",
        path: "/dead-letters/redrive",
        about: "Delivers dead letters again, with the same ids.",
        body: Some(dead_letters::selector),
        run: |call| Box::pin(dead_letters::redrive(call)),
        ..CHANGE
    },
    Endpoint {
        id: "dropDeadLetters",
        path: "/dead-letters/drop",
        about: "Deletes dead letters for good.",
        body: Some(dead_letters::selector),
        run: |call| Box::pin(dead_letters::drop_selected(call)),
        ..CHANGE
    },
    Endpoint {
        id: "listJobs",
        path: "/jobs",
        about: "Lists jobs, the oldest first.",
        query: JOB_FILTERS,
        response: schema_of::<JobPage>,
        run: |call| Box::pin(jobs::list(call)),
        ..READ
    },
    Endpoint {
        id: "showJob",
        path: "/jobs/{id}",
        about: "Shows one job with its event and its attempts.",
        id_parameter: Some(parameter("id", Kind::Text(320), "Id of the job.")),
        response: schema_of::<JobView>,
        run: |call| Box::pin(jobs::show(call)),
        ..READ
    },
    Endpoint {
        id: "retryJobs",
        path: "/jobs/retry",
        about: "Makes scheduled jobs available now.",
        body: Some(jobs::selector),
        run: |call| Box::pin(jobs::retry(call)),
        ..CHANGE
    },
    Endpoint {
        id: "cancelJobs",
        path: "/jobs/cancel",
        about: "Deletes jobs for good.",
        body: Some(jobs::selector),
        run: |call| Box::pin(jobs::cancel(call)),
        ..CHANGE
    },
    Endpoint {
        id: "showCache",
        path: "/cache",
        about: "Shows the caches of lookups and actions of all processes. Not for tokens of a tenant.",
        tenants: false,
        response: schema_of::<CacheList>,
        run: |call| Box::pin(cache::list(call)),
        ..READ
    },
    Endpoint {
        id: "invalidateCache",
        path: "/cache/invalidate",
        about: "Drops results from the caches of all processes. Not for tokens of a tenant.",
        tenants: false,
        body: Some(cache::body),
        response: schema_of::<Invalidated>,
        run: |call| Box::pin(cache::invalidate(call)),
        ..CHANGE
    },
    Endpoint {
        id: "resetBreakers",
        path: "/breakers/reset",
        about: "Closes circuit breakers in all processes, and waits up to 5 s for their answers. Not for tokens of a tenant.",
        tenants: false,
        body: Some(breakers::body),
        response: schema_of::<BreakersReset>,
        run: |call| Box::pin(breakers::reset(call)),
        ..CHANGE
    },
    Endpoint {
        id: "listBackfills",
        path: "/backfills",
        about: "Lists backfills, the newest first. Not for tokens of a tenant.",
        tenants: false,
        response: schema_of::<BackfillList>,
        run: |call| Box::pin(backfills::list(call)),
        ..READ
    },
    Endpoint {
        id: "startBackfill",
        path: "/backfills",
        about: "Starts to send the rows that a table has, as events of operation `Read`. Not for tokens of a tenant.",
        tenants: false,
        body: Some(schema_of::<NewBackfill>),
        response: schema_of::<Backfill>,
        run: |call| Box::pin(backfills::start(call)),
        ..CHANGE
    },
    Endpoint {
        id: "cancelBackfill",
        path: "/backfills/cancel",
        about: "Cancels a backfill; what of it is in the change log is still delivered. Not for tokens of a tenant.",
        tenants: false,
        body: Some(schema_of::<BackfillId>),
        response: schema_of::<Backfill>,
        run: |call| Box::pin(backfills::cancel(call)),
        ..CHANGE
    },
    Endpoint {
        id: "resumeBackfill",
        path: "/backfills/resume",
        about: "Lets a backfill that failed or was cancelled go on after its last row. Not for tokens of a tenant.",
        tenants: false,
        body: Some(schema_of::<BackfillId>),
        response: schema_of::<Backfill>,
        run: |call| Box::pin(backfills::resume(call)),
        ..CHANGE
    },
    Endpoint {
        id: "showOpenApi",
        path: "/openapi.json",
        about: "Shows this document.",
        ..READ
    },
];
