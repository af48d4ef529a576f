//! The Redis of a listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::Tls;
use super::{ValueSource, never_null};

/// Connection to Redis: to one server, or with `sentinel` or `cluster` to several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.sentinel) && has(self.cluster))",
    "message": "give sentinel or cluster, not both",
}]))]
pub struct RedisServer {
    /// Connection URL, as `redis://user:password@host:6379/0`, or `rediss://` for TLS. With
    /// `cluster` it is the address of any node. With `sentinel` it is the address of a Sentinel, as
    /// `redis://user:password@sentinel:26379/0`, with the login and database of the server behind it.
    pub url: ValueSource,
    /// TLS settings, for `rediss://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Set where the URL is the address of a Sentinel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<RedisSentinel>,
    /// Set, to `{}` at least, where the URL is the address of a node of a Redis Cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<RedisCluster>,
}

/// Sentinels, which name the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisSentinel {
    /// Name of the monitored server, 1 to 253 letters, digits, `.`, `-` and `_`; default `mymaster`.
    #[serde(default = "default_master_name")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub master_name: String,
    /// User to log in as at the Sentinels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<ValueSource>,
    /// Password of the Sentinels themselves. Left out, they are asked without a login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<ValueSource>,
    /// Further Sentinels, each as `host:port`, at most 16. A URL that names a Service of all
    /// Sentinels needs none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 262)))]
    pub nodes: Vec<String>,
}

/// Redis Cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisCluster {
    /// Further nodes to connect to first, each as `host:port`, at most 16. All others are found
    /// through any one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 262)))]
    pub nodes: Vec<String>,
}

fn default_master_name() -> String {
    "mymaster".to_owned()
}
