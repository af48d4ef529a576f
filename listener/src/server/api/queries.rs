//! Query parameters of the endpoints.

use ::queue::JobState;
use ::search::{DeliveryState, MAX_QUERY_BYTES};
use crds::config::Operation;

use super::endpoint::Method;
use super::endpoints::ENDPOINTS;
use super::parameters::{Kind, Parameter};

/// Longest name of an observer or an action.
const NAME: Kind = Kind::Text(320);

/// Longest entity, key or tenant.
const VALUE: Kind = Kind::Text(2048);

pub(super) const fn parameter(name: &'static str, kind: Kind, about: &'static str) -> Parameter {
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

const BEFORE: Parameter = parameter(
    "before",
    Kind::Integer(1, i64::MAX, None),
    "Only ids below this one: `next` of the page before.",
);

/// Filters of dead letters.
pub(super) const DEAD_LETTER_FILTERS: [Parameter; 8] =
    [OBSERVER, ACTION, KIND, ENTITY, KEY, TENANT, SINCE, UNTIL];

/// Filters and pages of dead letters.
pub(super) const DEAD_LETTER_PAGE: &[Parameter] = &[
    OBSERVER,
    ACTION,
    KIND,
    ENTITY,
    KEY,
    TENANT,
    SINCE,
    UNTIL,
    LIMIT,
    BEFORE,
    parameter("count", Kind::Flag, "Whether to count all that match."),
];

/// Pages of the live tail.
pub(super) const TAIL: &[Parameter] = &[
    parameter(
        "after",
        Kind::Text(64),
        "`next` of the page before; without it, the tail begins now.",
    ),
    parameter(
        "limit",
        Kind::Integer(1, 1000, Some(100)),
        "Most events at once.",
    ),
    parameter(
        "wait",
        Kind::Integer(0, 10, Some(0)),
        "Seconds to wait for the next event, where there is none.",
    ),
];

/// Filters and pages of the audit.
pub(super) const AUDIT_PAGE: &[Parameter] = &[
    parameter("operation", Kind::Choice(changes), "Only this change."),
    parameter("actor", NAME, "Only by the token or the user of this name."),
    parameter("since", Kind::Time, "Only at this time or later."),
    parameter("until", Kind::Time, "Only before this time."),
    LIMIT,
    BEFORE,
];

/// Returns the ids of all endpoints that change something.
fn changes() -> Vec<&'static str> {
    let all = ENDPOINTS.iter().filter(|one| one.method == Method::Post);
    all.map(|one| one.id).collect()
}

/// Filters of jobs.
pub(super) const JOB_FILTERS: &[Parameter] = &[
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

/// Parameters of a search.
pub(super) const SEARCH: &[Parameter] = &[
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
