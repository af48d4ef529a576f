//! Records to Kafka.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Batch;
use crate::config::{MessageFormat, SaslMechanism};
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// Record to a Kafka topic, acknowledged by all in-sync replicas. Records of one key go to one
/// partition, the one that Kafka's own clients choose. The header `webhook-id` is the same for all
/// attempts of a delivery. An attempt whose response was lost is repeated, so a record may be
/// written twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Kafka {
    /// Bootstrap brokers, as `host` or `host:9092`, 1 to 16. Every broker of the cluster must be an
    /// allowed destination.
    #[schemars(length(min = 1, max = 16))]
    pub brokers: Vec<String>,
    /// Template of the topic, such as `orders` or `orders.{{ new.region }}`, 1 to 1024 characters.
    /// The topic must exist.
    #[schemars(length(min = 1, max = 1024))]
    pub topic: String,
    /// Template of the record's key, up to 1024 characters; default is the event's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub key: Option<String>,
    /// Template of the record's value, up to 16384 characters; default is the event in its
    /// `format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
    /// Format of the value where `message` is left out; default `Event`. `Event` is the event as JSON,
    /// `Debezium` the value that Debezium's connector for Postgres writes, `CloudEvents` a
    /// `CloudEvent` in structured mode, and `CloudEventsBinary` one whose
    /// attributes are headers `ce_…`.
    #[serde(default)]
    pub format: MessageFormat,
    /// Content type of the value, which also decides how template values are escaped, and is sent
    /// as a header; 1 to 256 characters; default `application/json`. A `format` other than `Event`
    /// decides it.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
    /// TLS settings; left out, connections are not encrypted. Use `{}` if the system trusts the
    /// authority of the brokers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// SASL login; left out, the listener does not log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Batching of records; left out, each record is sent alone. Records of one partition are sent
    /// together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// SASL login to brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sasl {
    /// SASL mechanism; default `ScramSha512`. `Plain` needs `tls`.
    #[serde(default)]
    pub mechanism: SaslMechanism,
    /// User name.
    pub username: ValueSource,
    /// Password of the user.
    pub password: ValueSource,
}
