//! `Observer`: which actions follow which change.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column has its own type and path"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::enrich::Lookup;
use super::never_null;
use super::status::ObserverStatus;
use crate::config::{OnFailure, Operation};

/// Actions to deliver when a change in Postgres meets a condition.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "observers.fraiseql.dev",
    version = "v1alpha1",
    kind = "Observer",
    plural = "observers",
    shortname = "obs",
    category = "observers",
    namespaced,
    selectable = ".spec.events.entity",
    selectable = ".spec.suspend",
    status = "ObserverStatus",
    derive = "PartialEq",
    doc = "Actions to deliver when a change in Postgres meets a condition.",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(
        name = "Tracked",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Tracked\")].status"
    ),
    printcolumn(name = "Entity", type_ = "string", json_path = ".spec.events.entity"),
    printcolumn(
        name = "When",
        type_ = "string",
        json_path = ".spec.when",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Programmed\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct ObserverSpec {
    /// Events that the observer receives.
    pub events: EventSelector,
    /// Tenant whose events the observer receives, 1 to 256 characters. Left out, it receives the
    /// events of its entity for every tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub tenant: Option<String>,
    /// CEL condition that an event must meet, 1 to 8192 characters. It can refer to `old` and `new`
    /// (the row before and after), `operation`, `key`, `tenant` and the rest of the event, as in
    /// `new.total > 1000 && changed("status")`. Left out, every event matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub when: Option<String>,
    /// Lookups before the actions, up to 8. The result of each is `enrich.NAME` in templates and in
    /// the conditions of actions. A delivery makes those that its action uses; a lookup may use the
    /// results of those before it, and lookups that do not use each other are made at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub enrich: Vec<Lookup>,
    /// Actions to deliver for each matching event, 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub actions: Vec<Action>,
    /// What happens to a delivery that was rejected or is out of attempts, and to an event on which
    /// the condition fails; default `DeadLetter`. `DeadLetter` keeps it until it is redriven or
    /// dropped. `Drop` discards it, with a line in the log and a count in `observer_deliveries_dropped_total`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Suspends the observer; default `false`. While it is suspended, events pass without being
    /// evaluated, and are not delivered later.
    #[serde(default)]
    pub suspend: bool,
}

/// Events that an observer receives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventSelector {
    /// Table as `schema.table`, or entity name that was passed to `observer.emit`, 1 to 256
    /// characters.
    #[schemars(length(min = 1, max = 256))]
    pub entity: String,
    /// Operations to receive, 1 to 6 of them; default is Insert, Update and Delete. `Truncate` is
    /// the emptying of a whole table, `Custom` an event of `observer.emit`, `Read` a row that a
    /// backfill has read.
    #[serde(default = "default_operations")]
    #[schemars(length(min = 1, max = 6), extend("x-kubernetes-list-type" = "set"))]
    pub operations: Vec<Operation>,
}

fn default_operations() -> Vec<Operation> {
    vec![Operation::Insert, Operation::Update, Operation::Delete]
}
