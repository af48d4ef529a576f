//! The list of all endpoints.

use ::queue::JobView;
use ::search::Document;

use super::activity::{self, HourActivity};
use super::audit::{self, AuditPage};
use super::backfills::{self, BackfillId, BackfillList, NewBackfill};
use super::breakers::{self, BreakersReset};
use super::cache::{CacheList, Invalidated};
use super::caller::{self, CallerInfo};
use super::dead_letters::{self, DeadLetterPage, LINES};
use super::endpoint::{Endpoint, Method, schema_of};
use super::jobs::{self, JobPage};
use super::overview::{self, ListenerStatus, ObserverList, ShardList};
use super::parameters::Kind;
use super::queries::{
    AUDIT_PAGE, DEAD_LETTER_FILTERS, DEAD_LETTER_PAGE, JOB_FILTERS, SEARCH, TAIL, parameter,
};
use super::search::{self, EventPage};
use super::selection::AffectedCount;
use super::tail::{self, LiveEvents};
use super::{cache, events, openapi};
use crate::backfill::Backfill;
use crate::dead_letters::admin::DeadLetterDetail;

const JSON: &str = "application/json";

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
pub(super) static ENDPOINTS: [Endpoint; 26] = [
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
        id: "showCaller",
        path: "/caller",
        about: "Shows who the token belongs to, and what it admits to.",
        response: schema_of::<CallerInfo>,
        run: |call| Box::pin(caller::show(call)),
        ..READ
    },
    Endpoint {
        id: "tailEvents",
        path: "/tail",
        about: "Shows events as they are committed, without the values of their rows.",
        query: TAIL,
        response: schema_of::<LiveEvents>,
        run: |call| Box::pin(tail::tail(call)),
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
        id: "showActivity",
        path: "/activity",
        about: "Shows what all processes did in each minute of the last hour. Not for tokens of a tenant.",
        tenants: false,
        response: schema_of::<HourActivity>,
        run: |call| Box::pin(activity::hour(call)),
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
        id: "listAudit",
        path: "/audit",
        about: "Lists what was changed over HTTP in the last 90 days, the newest first. Not for tokens of a tenant.",
        tenants: false,
        query: AUDIT_PAGE,
        response: schema_of::<AuditPage>,
        run: |call| Box::pin(audit::list(call)),
        ..READ
    },
    Endpoint {
        id: "showOpenApi",
        path: "/openapi.json",
        about: "Shows this document.",
        ..READ
    },
];
