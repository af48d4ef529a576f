//! Commands to Redis.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::HumanDuration;
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// A command to a Redis server, such as one that removes from a cache what an event made stale. Give
/// exactly one of `set`, `delete`, `publish` and `appendToStream`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.set), has(self.delete), has(self.publish), has(self.appendToStream)].filter(given, given).size() == 1",
    "message": "give exactly one of set, delete, publish and appendToStream",
}]))]
pub struct Redis {
    /// The server, as `redis://user:password@host:6379/0`, or `rediss://` for TLS. One server;
    /// redirections of a cluster are not followed.
    pub url: ValueSource,
    /// A private authority, and a certificate of our own, where a `rediss` URL needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Set a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<RedisSet>,
    /// Remove keys, as of a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<RedisDelete>,
    /// Publish a message to whoever listens at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<RedisPublish>,
    /// Add an entry to a stream. It has the fields `id`, the same for all attempts of a delivery, and
    /// `event`. An attempt whose answer was lost is made again, so that an entry may come twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_to_stream: Option<RedisStreamAppend>,
    /// Content type of values, by which their templates are written.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
}

/// A key to be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisSet {
    /// Template of the key, such as `order:{{ new.id }}`.
    #[schemars(length(min = 1, max = 1024))]
    pub key: String,
    /// Template of its value. Left out, it is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub value: Option<String>,
    /// When it goes by itself, 1ms to 8760h. Left out, it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
}

/// Keys to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisDelete {
    /// Templates of keys, such as `order:{{ new.id }}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub keys: Vec<String>,
    /// Templates of the keys of sets that name keys, such as `customer:{{ new.customer }}:keys`: what
    /// a set names is removed, and the set too. Whoever fills the cache adds to the sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tags: Vec<String>,
}

/// A message to be published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisPublish {
    /// Template of the channel.
    #[schemars(length(min = 1, max = 1024))]
    pub channel: String,
    /// Template of the message. Left out, it is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
}

/// An entry to be added to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisStreamAppend {
    /// Template of the stream's key.
    #[schemars(length(min = 1, max = 1024))]
    pub stream: String,
    /// Template of the entry's field `event`. Left out, it is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
    /// About how many entries the stream keeps, 1 to 100000000. Left out, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_length: Option<u32>,
}
