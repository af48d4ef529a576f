//! What actions may send where.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RateLimitSpec, ValueSource, never_null};

/// Where actions may connect to. Public addresses are always allowed; loopback, private,
/// link-local and metadata addresses only when they are named here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct EgressRules {
    /// Address ranges (`10.0.0.0/8`), addresses (`10.1.2.3`), hosts (`hooks.internal`) or all
    /// hosts below a name (`*.svc.cluster.local`). A host named here may resolve to any address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allow: Vec<String>,
    /// The login by which actions without a URL run statements in the listener's own database,
    /// exactly once for each delivery. Left out, they may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_database: Option<OwnDatabaseLogin>,
    /// How much may be sent to hosts by all actions together. Of several that name a host, the first
    /// counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub limits: Vec<EgressLimit>,
    /// A proxy that HTTP requests go by (of webhooks, Slack and Teams). Other actions connect
    /// themselves. Variables such as `HTTPS_PROXY` are not heeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<EgressProxy>,
}

/// A proxy that HTTP requests go by. Names of receivers are resolved by it, so that it alone decides
/// where they lead; what is an address in a URL is vetted as it is without a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressProxy {
    /// The proxy, as `http://user:password@proxy.internal:3128`, or `https://`. It may be at any
    /// address.
    pub url: ValueSource,
    /// What is not reached by it: address ranges, addresses, hosts, or all hosts below a name, as in
    /// `allow`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub no_proxy: Vec<String>,
}

/// How much may be sent to a host by all actions together, by whatever protocol and to whatever port.
/// Give `maxConcurrency`, `rateLimit` or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.maxConcurrency) || has(self.rateLimit)",
    "message": "give maxConcurrency, rateLimit or both",
}]))]
pub struct EgressLimit {
    /// A host (`hooks.example.com`), an address (`10.1.2.3`), all hosts below a name
    /// (`*.example.com`), or `*` for each one: each host that is meant has limits of its own.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Most attempts in flight at once to one host, 1 to 65536; a batch is one. It holds for each pod, and
    /// where the listener has a Redis (`spec.redis`), by which the pods count together, for all of them.
    /// What is beyond waits for its turn, for up to the action's
    /// `timeout`, and then in the job queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub max_concurrency: Option<u32>,
    /// Most attempts within a time. What is beyond waits in the job queue and costs no attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
}

/// A login of the listener's own database for statements of actions. Whoever may write observers for
/// this listener may do all that this login may, so it is one of its own: with rights on the tables
/// that statements write to, and in the schema `observer` with these two and no more:
/// `grant usage on schema observer`, `grant execute on function observer.claim_delivery`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnDatabaseLogin {
    /// The database, as `postgres://user:password@host:5432/database`. It is that of
    /// `spec.database.url`, at whatever address, with another user, who owns nothing in
    /// the schema `observer` and may write to none of its tables.
    pub url: ValueSource,
}
