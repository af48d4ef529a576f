//! `Observer`: on which change, under which condition, which actions.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column has its own type and path"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::Action;
use super::never_null;
use super::status::ObserverStatus;
use crate::config::{OnFailure, Operation};

/// When this changes in Postgres and that condition holds, do these actions.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "observers.fraiseql.dev",
    version = "v1alpha1",
    kind = "Observer",
    plural = "observers",
    shortname = "obs",
    category = "observers",
    namespaced,
    status = "ObserverStatus",
    derive = "PartialEq",
    doc = "When this changes in Postgres and that condition holds, do these actions.",
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
    /// Which changes it watches.
    pub events: EventSelector,
    /// See only the events of this tenant. Left out, it sees every event of its entity.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub tenant: Option<String>,
    /// A CEL condition over `old` and `new` (the row before and after), `operation`, `key`,
    /// `tenant` and the rest of the event, such as `new.total > 1000 && changed("status")`.
    /// Left out, every watched change counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub when: Option<String>,
    /// What to do, in this order of listing; 1 to 16 actions.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub actions: Vec<Action>,
    /// What becomes of a delivery that is refused for good or out of attempts, and of an event on
    /// which the condition fails: a `DeadLetter` keeps it until somebody redrives or drops it;
    /// `Drop` lets it go, with a line in the log and a count in `observer_dropped_total`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Lets events pass without a look at them while it is `true`. They are not made up for later.
    #[serde(default)]
    pub suspend: bool,
}

/// Which changes an observer watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventSelector {
    /// The table as `schema.table`, or the name that was given to `observer.emit`.
    #[schemars(length(min = 1, max = 256))]
    pub entity: String,
    /// What must have happened. `Custom` stands for events of `observer.emit`, `Truncate` for the
    /// emptying of a whole table.
    #[serde(default = "default_operations")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub operations: Vec<Operation>,
}

fn default_operations() -> Vec<Operation> {
    vec![Operation::Insert, Operation::Update, Operation::Delete]
}
