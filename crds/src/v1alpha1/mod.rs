//! The custom resources as users write them and as the API server stores them.
//!
//! Each level rejects unknown fields, and no field may be null. The doc comments are what
//! `kubectl explain` prints: what a field is, its unit, default and bounds.

mod action;
mod api;
mod autoscaling;
mod console;
mod egress;
mod enrich;
mod listener;
mod network_policy;
mod observer;
mod pod_template;
mod queue;
mod redis_server;
mod search;
mod selector;
mod source;
mod status;
mod tls;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use action::{ACTION_KINDS, default_content_type};
pub use action::{
    Action, Batch, Email, Kafka, Log, Nats, Postgres, RateLimitSpec, Redis, RedisDelete,
    RedisPublish, RedisSet, RedisStreamAppend, RetryPolicy, Sasl, Slack, Smtp, Teams, Webhook,
};
pub use api::{DEFAULT_API_PORT, HttpApi, HttpApiToken, KubernetesAccess};
pub use autoscaling::{Autoscaling, AutoscalingStatus};
pub use console::Console;
pub use egress::{EgressLimit, EgressProxy, EgressRules, OwnDatabaseLogin};
pub(crate) use enrich::LOOKUP_KINDS;
pub use enrich::{ActionCache, CacheDefaults, HttpLookup, InvalidateOn, Lookup, LookupCache};
pub use listener::{
    Checkpoint, DEFAULT_MAX_CONCURRENCY, Database, DeletionPolicy, Delivery, LeaseTiming,
    ObserverListener, ObserverListenerSpec,
};
pub use network_policy::{NetworkPolicyEgress, NetworkPolicyOptions};
pub use observer::{EventSelector, Observer, ObserverSpec};
pub use pod_template::PodTemplate;
pub(crate) use pod_template::{OWN_NAMES, OWN_PREFIX};
pub use queue::{Backend, Queue, Workers};
pub use redis_server::{RedisCluster, RedisSentinel, RedisServer};
pub use search::{DocumentContent, ElasticsearchSearch, PostgresSearch, Search};
pub use selector::{
    LabelExpression, LabelOperator, LabelSelector, NamespacesFrom, ObserverNamespaces, consent,
    consents,
};
pub use source::{
    KafkaSource, KafkaTopic, Source, SourceDatabase, SourceTable, TriggerSource, WalSource,
};
pub use status::{
    ObserverCounts, ObserverListenerStatus, ObserverStatus, ShardStatus, WorkerCounts,
};
pub use tls::Tls;

/// API group of both resources.
pub const GROUP: &str = "observers.fraiseql.dev";

/// API version of both resources.
pub const VERSION: &str = "v1alpha1";

/// A value, given inline or read from a Secret. Set exactly one of `value` and `secretKeyRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.value) != has(self.secretKeyRef)",
    "message": "give exactly one of value and secretKeyRef",
}]))]
pub struct ValueSource {
    /// Inline value. Put confidential values into a Secret instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Key of a Secret in the same namespace. One line break at the end of its value is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// Reference to a key of a Secret in the namespace of the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretKeyRef {
    /// Name of the Secret, 1 to 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret, 1 to 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Conditions as the API conventions define them: a list with one entry for each type.
fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut condition = generator.subschema_for::<Condition>();
    never_null(&mut condition);
    json_schema!({
        "type": "array",
        "items": condition,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Removes `additionalProperties: false` from an object without fields, which a definition may not
/// have; the API server rejects unknown fields by itself.
fn open(schema: &mut Schema) {
    schema.remove("additionalProperties");
}

/// Removes `null` from the types of optional fields: a field may be left out, but an empty one is a
/// mistake.
fn never_null(schema: &mut Schema) {
    let Some(Value::Object(properties)) = schema.get_mut("properties") else {
        return;
    };
    for property in properties.values_mut().filter_map(Value::as_object_mut) {
        drop_null(property);
    }
}

fn drop_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            property.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(branches)) = property.get_mut("anyOf") {
        branches.retain(|branch| branch.get("type") != Some(&Value::from("null")));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            property.remove("anyOf");
            for (keyword, value) in only {
                property.entry(keyword).or_insert(value);
            }
        }
    }
    if property.get("default") == Some(&Value::Null) {
        property.remove("default");
    }
}
