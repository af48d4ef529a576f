//! Messages to NATS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{Tls, ValueSource, never_null};

/// A message to a stream of NATS `JetStream`. Its `Nats-Msg-Id` is the same for all attempts of a
/// delivery, so that the stream keeps it once within its window for duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Nats {
    /// The server, as `nats://user:password@host:4222`, or `tls://` where it must be encrypted.
    pub url: ValueSource,
    /// A private authority, and a certificate of our own, where a `tls` URL needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// What a file of credentials (`.creds`) holds, where the user has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<ValueSource>,
    /// Template of the subject, such as `orders.{{ new.region }}`. A stream must take it.
    #[schemars(length(min = 1, max = 1024))]
    pub subject: String,
    /// Template of the message. Left out, it is the event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub message: Option<String>,
    /// Content type of the message, by which its template is written.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
}
