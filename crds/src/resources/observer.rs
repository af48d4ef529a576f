//! `Observer`: on which change, under which condition, which actions.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column has its own type and path"
)]

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::ObserverStatus;
use super::{ValueSource, never_null};
use crate::config::{LogLevel, Method, Mode, Operation, Priority, Retry};
use crate::duration::Span;

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
    printcolumn(name = "Entity", type_ = "string", json_path = ".spec.on.entity"),
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
    /// Which changes it watches. Write the name of this field in quotes (`"on":`), because
    /// kubectl takes a bare `on` for the boolean `true`.
    pub on: On,
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
    /// `Suspended` lets events pass without a look at them, until it is `Active` again.
    #[serde(default)]
    pub state: ObserverState,
}

/// Whether an observer runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ObserverState {
    /// It runs.
    #[default]
    Active,
    /// It sees no event.
    Suspended,
}

/// Which changes an observer watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct On {
    /// The table as `schema.table`, or the name that was given to `observer.emit`.
    #[schemars(length(min = 1, max = 256))]
    pub entity: String,
    /// What must have happened. `Custom` stands for events of `observer.emit`, `Truncate` for the
    /// emptying of a whole table.
    #[serde(default = "default_operations")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub operations: Vec<Operation>,
}

/// One side effect. Give exactly one of `webhook` and `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.webhook) != has(self.log)",
    "message": "give exactly one of webhook and log",
}]))]
pub struct Action {
    /// Name, unlike that of any other action of this observer: lower case letters, digits and
    /// `-`. With the event's id and the observer's name it identifies a delivery for ever.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Send an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Write a line to the listener's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// When and how often to try again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// Deadline of one attempt, 1ms to 5m, or to 1h with `mode: Queued`.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// `Inline` makes the first attempt at once and further ones by the job queue. `Queued` makes
    /// all of them by the queue, which is for what takes long.
    #[serde(default)]
    pub mode: Mode,
    /// How soon its jobs are taken, before those that are due earlier.
    #[serde(default)]
    pub priority: Priority,
    /// Most jobs of this action under way at once in the whole fleet, 1 to 65536. Left out, as many
    /// as the workers take.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_running: Option<u32>,
}

/// An HTTP request. It carries the headers of Standard Webhooks (`webhook-id`,
/// `webhook-timestamp`, and `webhook-signature` where there is a secret) and `traceparent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.signingSecret) && has(self.signingSecrets))",
    "message": "give signingSecret or signingSecrets, not both",
}]))]
pub struct Webhook {
    /// Where to send it, as `https://host/path` or `http://host/path`. Redirects are not followed.
    pub url: ValueSource,
    /// Method of the request.
    #[serde(default)]
    pub method: Method,
    /// Headers to add: a name, and a template (`value`) or a fixed secret (`secretKeyRef`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, ValueSource>,
    /// Template of the body, such as `{"total": {{ new.total }}}`. In a JSON body, values are
    /// written as JSON literals, with quotes where they need them. Left out, the body is the
    /// event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Content type of the body.
    #[serde(default = "default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
    /// Secret that signs each request: `whsec_` and the base64 of 24 to 64 random bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<ValueSource>,
    /// Several such secrets, each of which signs, for the time of a rotation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub signing_secrets: Vec<ValueSource>,
}

/// A line in the listener's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Log {
    /// Template of the line. Left out, it sums up the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub message: Option<String>,
    /// Level of the line.
    #[serde(default)]
    pub level: LogLevel,
}

/// When and how often to try again. The wait before each further attempt is drawn at random up to
/// a bound that begins at `initialBackoff` and doubles up to `maxBackoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts in all, the first included, 1 to 100. Then it becomes a dead letter.
    #[serde(default = "default_attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// Bound of the wait before the second attempt, 1ms to 24h.
    #[serde(default = "default_initial_backoff")]
    pub initial_backoff: Span,
    /// Bound of any wait, 1ms to 24h and no shorter than `initialBackoff`.
    #[serde(default = "default_max_backoff")]
    pub max_backoff: Span,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: default_attempts(),
            initial_backoff: default_initial_backoff(),
            max_backoff: default_max_backoff(),
        }
    }
}

fn default_operations() -> Vec<Operation> {
    vec![Operation::Insert, Operation::Update, Operation::Delete]
}

fn default_timeout() -> Span {
    Span::from_secs(10)
}

fn default_content_type() -> String {
    "application/json".into()
}

fn default_attempts() -> u32 {
    Retry::default().attempts
}

fn default_initial_backoff() -> Span {
    Retry::default().initial_backoff.into()
}

fn default_max_backoff() -> Span {
    Retry::default().max_backoff.into()
}
