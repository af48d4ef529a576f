//! The HTTP API of a listener, and who may use it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ValueSource, never_null, open};
use crate::config::ApiRole;

/// Default of [`HttpApi::port`].
pub const DEFAULT_API_PORT: u16 = 9465;

/// HTTP API for the history, dead letters and jobs. It has a port of its own, apart from health
/// checks and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.kubernetes) || has(self.tokens) && self.tokens.size() > 0",
    "message": "give at least one of tokens, or kubernetes",
}]))]
pub struct HttpApi {
    /// Port of the pods, 1024 to 65535; default 9465. 9464 serves it on the port of health checks
    /// and metrics. A listener that runs from a file has `--api-listen` instead.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: u16,
    /// Tokens that requests may present, up to 16, each with a name of its own. Several at once allow
    /// one to be replaced while others still use it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub tokens: Vec<HttpApiToken>,
    /// Admits users and service accounts of the cluster, by `TokenReview` and `SubjectAccessReview`: to
    /// read, who may `get` the subresource `events` of this listener, and to change, who may
    /// `update` it. The pods' service account needs `system:auth-delegator` for that. A listener
    /// that runs from a file ignores it. Left out, only `tokens` are admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesAccess>,
}

/// Token of the HTTP API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct HttpApiToken {
    /// Name of the token in logs, 1 to 63 letters, digits, `-`, `_` and `.`.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub name: String,
    /// The token, which requests present as `Authorization: Bearer ...`, at least 16 characters.
    pub token: ValueSource,
    /// What it admits to. `Read` may look at everything; `Operate` may also redrive and drop dead
    /// letters, and retry and cancel jobs.
    pub role: ApiRole,
    /// The only tenant whose events, dead letters and jobs the token shows and changes, 1 to 256
    /// characters. Left out, it is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub tenant: Option<String>,
}

/// Access for users and service accounts of the cluster. It has no settings yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = open)]
pub struct KubernetesAccess {}

const fn default_port() -> u16 {
    DEFAULT_API_PORT
}
