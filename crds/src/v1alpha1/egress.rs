//! Destinations that actions may connect to, and limits for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RateLimitSpec, ValueSource, never_null};

/// Destinations that actions may connect to, and limits for them. Public addresses are always
/// allowed; loopback, private, link-local and metadata addresses only if they are listed in
/// `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct EgressRules {
    /// Destinations to allow although they are not public, up to 64: address ranges (`10.0.0.0/8`),
    /// addresses (`10.1.2.3`), hosts (`hooks.internal`) or all hosts below a domain
    /// (`*.svc.cluster.local`). A host that is listed may resolve to any address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<String>,
    /// Login for `postgres` actions without a URL, which run in the listener's own database and
    /// take effect exactly once for each delivery. Left out, such actions are denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_database: Option<OwnDatabaseLogin>,
    /// Limits for hosts, over all actions together, up to 64 entries. The first entry that matches
    /// a host applies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub limits: Vec<EgressLimit>,
    /// HTTP proxy for the requests of webhook, Slack and Teams actions. Other actions connect
    /// directly. Variables such as `HTTPS_PROXY` are ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<EgressProxy>,
}

/// HTTP proxy for outbound requests. The proxy resolves host names, so it decides where they lead;
/// addresses in URLs are checked as without a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressProxy {
    /// URL of the proxy, as `http://user:password@proxy.internal:3128`, or `https://`. It may be at
    /// any address.
    pub url: ValueSource,
    /// Destinations to reach without the proxy, up to 64: address ranges, addresses, hosts, or all
    /// hosts below a domain, as in `allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub no_proxy: Vec<String>,
}

/// Limits for a host, over all actions together, on all protocols and ports. Set
/// `maxConcurrency`, `rateLimit` or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.maxConcurrency) || has(self.rateLimit)",
    "message": "give maxConcurrency, rateLimit or both",
}]))]
pub struct EgressLimit {
    /// Host (`hooks.example.com`), address (`10.1.2.3`), all hosts below a domain
    /// (`*.example.com`), or `*` for every host; 1 to 253 characters. Each host that matches has
    /// limits of its own.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Most attempts in flight to the host at once, 1 to 65536; a batch counts as one attempt. The
    /// limit holds for each pod; if the listener has a Redis server (`spec.redis`), the pods share
    /// it, so that it holds for the whole fleet. Further attempts wait for up to the `timeout` of
    /// the action, and then in the job queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_concurrency: Option<u32>,
    /// Most attempts per interval. Further deliveries wait in the job queue without using up
    /// attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
}

/// Login to the listener's own database for statements of actions. All who may write observers for
/// this listener can do what this login can, so use a role of its own: with privileges on the
/// tables that statements write to, and in the schema `observer` only with
/// `grant usage on schema observer` and `grant execute on function observer.claim_delivery`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnDatabaseLogin {
    /// Connection URL, as `postgres://user:password@host:5432/database`. It must lead to the
    /// database of `spec.database.url`, at any address, with another user, who owns nothing in
    /// the schema `observer` and cannot write to its tables.
    pub url: ValueSource,
}
