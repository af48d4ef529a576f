//! Search: the history of events and what became of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::Tls;
use super::{ValueSource, never_null, open};
use crate::duration::HumanDuration;

/// History of a listener: a document for each event, with what became of it, that can be searched.
/// Exactly one of `postgres` and `elasticsearch` says where the documents are stored. Deliveries
/// never wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.postgres) != has(self.elasticsearch)",
        "message": "give exactly one of postgres and elasticsearch",
    },
    {
        "rule": "!has(self.redact) || self.redact.all(name, name.matches('^[^.]+([.][^.]+[.].*[^.])?$'))",
        "message": "redact has columns, or columns with their table as schema.table.column",
    },
]))]
pub struct Search {
    /// Tables of the listener's own database: nothing else to run, for up to some millions of
    /// events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSearch>,
    /// Indices of an Elasticsearch (7.17, 8, 9) or OpenSearch (2, 3) server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elasticsearch: Option<ElasticsearchSearch>,
    /// Age at which documents are removed, 1h to 87600h; default 720h.
    #[serde(default = "default_retention")]
    pub retention: HumanDuration,
    /// What the documents hold; default `EventsAndOutcomes`. `Events` leaves out which observers
    /// matched and what became of their deliveries.
    #[serde(default)]
    pub documents: DocumentContent,
    /// Columns whose values never reach the documents, at most 64, as `column` for those of all
    /// entities or `schema.table.column` for that of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub redact: Vec<String>,
    /// Longest time that the change log is kept for events that are not in the history yet, as
    /// while the search server is away, 1m to 720h; default 24h. What is removed from the log after
    /// that is missing in the history, which is recorded and reported as a gap.
    #[serde(default = "default_max_lag")]
    pub max_lag: HumanDuration,
}

/// History in the listener's own database. It has no settings yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = open)]
pub struct PostgresSearch {}

/// History in Elasticsearch or OpenSearch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.username) == has(self.password)",
        "message": "give username and password, or neither",
    },
    {
        "rule": "!(has(self.username) && has(self.apiKey))",
        "message": "give username and password, or apiKey, not both",
    },
    {
        "rule": "!has(self.index) || !self.index.matches('^(logs|metrics|synthetics|traces)-')",
        "message": "the index has a beginning that Elasticsearch keeps for data streams of its own",
    },
]))]
pub struct ElasticsearchSearch {
    /// URL of the server, as `https://search.internal:9200`, without a user or password.
    pub url: ValueSource,
    /// Beginning of the names of the indices, 1 to 60 lower-case letters, digits, `-` and `_`, with
    /// a letter or digit first; default `observer-events`. Listeners may share it.
    #[serde(default = "default_index")]
    #[schemars(length(min = 1, max = 60), regex(pattern = "^[a-z0-9][-a-z0-9_]*$"))]
    pub index: String,
    /// TLS settings, for `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// User to log in as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<ValueSource>,
    /// Password of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<ValueSource>,
    /// API key to log in with, in the encoded form that Elasticsearch prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ValueSource>,
}

/// What the documents of a history hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DocumentContent {
    /// Events.
    Events,
    /// Events, which observers matched them, and what became of each delivery.
    #[default]
    EventsAndOutcomes,
}

fn default_retention() -> HumanDuration {
    HumanDuration::from_secs(720 * 3600)
}

fn default_max_lag() -> HumanDuration {
    HumanDuration::from_secs(24 * 3600)
}

fn default_index() -> String {
    "observer-events".to_owned()
}
