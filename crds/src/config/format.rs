//! Formats of messages, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an event is written where no template says what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MessageFormat {
    /// As the event's own envelope.
    #[default]
    Event,
    /// As the value that Debezium's connector for Postgres writes.
    Debezium,
    /// As a `CloudEvent` in structured mode.
    CloudEvents,
    /// As a `CloudEvent` in binary mode: its attributes are headers.
    CloudEventsBinary,
}

impl MessageFormat {
    /// Returns the content type of a message, or of an array of them where `is_batch`.
    #[must_use]
    pub const fn content_type(self, is_batch: bool) -> &'static str {
        match self {
            Self::CloudEvents if is_batch => "application/cloudevents-batch+json; charset=utf-8",
            Self::CloudEvents => "application/cloudevents+json; charset=utf-8",
            Self::Event | Self::Debezium | Self::CloudEventsBinary => "application/json",
        }
    }
}
