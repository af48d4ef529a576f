//! Records to Kafka, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchConfig, MessageFormat, Redacted, TlsConfig};

/// A record to a topic of Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Names or IPv4 addresses of brokers with their ports; at least one.
    pub brokers: Vec<(String, u16)>,
    /// Template of the topic.
    pub topic: String,
    /// Template of the key; the event's where absent.
    pub key: Option<String>,
    /// Template of the value; the event in its format where absent.
    pub message: Option<String>,
    /// Format of the event; `Event` where there is a template.
    pub format: MessageFormat,
    /// Content type of the value, which the format decides unless it is `Event`.
    pub content_type: String,
    /// What an encrypted connection needs; not encrypted where absent.
    pub tls: Option<TlsConfig>,
    /// How to log in; nobody does where absent.
    pub sasl: Option<SaslConfig>,
    /// How many records go together; each by itself where absent.
    pub batch: Option<BatchConfig>,
}

/// How to log in at brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslConfig {
    /// How the password is shown.
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: Redacted,
    /// The user's password.
    pub password: Redacted,
}

/// How a password is shown to a broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// As it is.
    Plain,
    /// By a proof with SHA-256.
    ScramSha256,
    /// By a proof with SHA-512.
    #[default]
    ScramSha512,
}
