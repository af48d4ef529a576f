//! Commands to Redis.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::MessageFormat;
use crate::duration::HumanDuration;
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// Command on a Redis server, for example to invalidate a cache. Set exactly one of `set`,
/// `delete`, `publish` and `appendToStream`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.set), has(self.delete), has(self.publish), has(self.appendToStream)].filter(given, given).size() == 1",
    "message": "give exactly one of set, delete, publish and appendToStream",
}]))]
pub struct Redis {
    /// Connection URL, as `redis://user:password@host:6379/0`, or `rediss://` for TLS. It is a
    /// single server: redirections of a cluster are not followed.
    pub url: ValueSource,
    /// TLS settings, for a `rediss` URL that needs a private authority or a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Sets a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<RedisSet>,
    /// Deletes keys, for example of a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete: Option<RedisDelete>,
    /// Publishes a message to the current subscribers of a channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<RedisPublish>,
    /// Appends an entry to a stream (`XADD`). Its fields are `id`, the same for all attempts of a
    /// delivery, and `event`. An attempt whose response was lost is repeated, so an entry may be
    /// appended twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_to_stream: Option<RedisStreamAppend>,
    /// Content type of the values, which also decides how template values are escaped, 1 to 256
    /// characters; default `application/json`.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
}

/// A key to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisSet {
    /// Template of the key, such as `order:{{ new.id }}`, 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub key: String,
    /// Template of the value, up to 16384 characters; default is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub value: Option<String>,
    /// Time to live of the key, 1ms to 8760h. Left out, it does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
}

/// Keys to delete. Set `keys`, `tags` or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisDelete {
    /// Templates of keys, such as `order:{{ new.id }}`, up to 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub keys: Vec<String>,
    /// Templates of the keys of sets that list keys, such as `customer:{{ new.customer }}:keys`, up
    /// to 16. The keys that a set lists are deleted, and the set too. The code that fills the cache
    /// adds to these sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tags: Vec<String>,
}

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisPublish {
    /// Template of the channel, 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub channel: String,
    /// Template of the message, up to 16384 characters; default is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
}

/// An entry to append to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct RedisStreamAppend {
    /// Template of the stream's key, 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub stream: String,
    /// Template of the entry's field `event`, up to 16384 characters; default is the event in its
    /// `format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
    /// Format of the field `event` where `message` is left out; default `Event`. `Event` is the event
    /// as JSON, `Debezium` the value that Debezium's connector for Postgres writes, and `CloudEvents`
    /// a `CloudEvent` in structured mode. `CloudEventsBinary` is not for Redis, whose entries have no
    /// headers.
    #[serde(default)]
    pub format: MessageFormat,
    /// Approximate number of entries that the stream keeps, 1 to 100000000. Left out, it keeps all
    /// of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_length: Option<u32>,
}
