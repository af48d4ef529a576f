//! Records to Kafka.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Batch;
use crate::config::SaslMechanism;
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// A record to a topic of Kafka, written once all replicas that are in step have it. Records of one
/// key go to one partition, the same that Kafka's own clients choose. Its header `webhook-id` is the
/// same for all attempts of a delivery. An attempt whose answer was lost is made again, so that a
/// record may come twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Kafka {
    /// Brokers to begin with, as `host` or `host:9092`; these name the others. All of them must be
    /// such that they may be dialled.
    #[schemars(length(min = 1, max = 16))]
    pub brokers: Vec<String>,
    /// Template of the topic, such as `orders` or `orders.{{ new.region }}`. There must be one.
    #[schemars(length(min = 1, max = 1024))]
    pub topic: String,
    /// Template of the record's key. Left out, it is the event's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub key: Option<String>,
    /// Template of the record's value. Left out, it is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
    /// Content type of the value, by which its template is written; also a header of the record.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
    /// Encrypts connections. `{}` where the system knows who signed the brokers' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Sends records of one partition together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// How to log in at brokers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sasl {
    /// How the password is shown to them. `Plain` needs `tls`.
    #[serde(default)]
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: ValueSource,
    /// The user's password.
    pub password: ValueSource,
}
