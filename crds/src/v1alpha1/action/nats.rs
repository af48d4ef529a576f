//! Messages to NATS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::MessageFormat;
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// Message to a NATS `JetStream` stream. Its `Nats-Msg-Id` is the same for all attempts of a
/// delivery, so the stream stores it once within its deduplication window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Nats {
    /// Connection URL, as `nats://user:password@host:4222`, or `tls://` to require encryption.
    pub url: ValueSource,
    /// TLS settings, for a `tls` URL that needs a private authority or a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Content of a credentials file (`.creds`) of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ValueSource>,
    /// Template of the subject, such as `orders.{{ new.region }}`, 1 to 1024 characters. A stream
    /// must capture it.
    #[schemars(length(min = 1, max = 1024))]
    pub subject: String,
    /// Template of the message, up to 16384 characters; default is the event in its `format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
    /// Format of the message where `message` is left out; default `Event`. `Event` is the event as JSON,
    /// `Debezium` the value that Debezium's connector for Postgres writes, `CloudEvents` a
    /// `CloudEvent` in structured mode, and `CloudEventsBinary` one whose
    /// attributes are headers `ce-…`.
    #[serde(default)]
    pub format: MessageFormat,
    /// Content type of the message, which also decides how template values are escaped, 1 to 256
    /// characters; default `application/json`. A `format` other than `Event` decides it.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
}
