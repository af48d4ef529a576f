//! Formats of messages: what is sent for a delivery where no template says it.
//!
//! A format decides the body and the headers of a message. The content type follows from its
//! configuration. Images go into every format as they are, byte for byte.

mod cloud_events;
mod debezium;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::MessageFormat;

use super::Delivery;
use super::event::Envelope;

/// Writes deliveries of a listener in one format.
pub(crate) struct MessageWriter {
    format: MessageFormat,
    /// Identity of the listener, which names the source.
    listener: Arc<str>,
}

/// Protocol whose headers a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderProtocol {
    Http,
    Kafka,
    Nats,
}

/// Names and values of headers.
pub(crate) type Headers = Vec<(String, String)>;

impl MessageWriter {
    pub(crate) fn new(format: MessageFormat, listener: &str) -> Self {
        Self {
            format,
            listener: Arc::from(listener),
        }
    }

    /// Returns whether it writes the event's own envelope.
    pub(crate) fn is_event(&self) -> bool {
        self.format == MessageFormat::Event
    }

    /// Writes the body of a delivery that is attempted `now`.
    pub(crate) fn body(
        &self,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> serde_json::Result<Vec<u8>> {
        match self.format {
            MessageFormat::Event | MessageFormat::CloudEventsBinary => {
                serde_json::to_vec(&envelope(delivery))
            }
            MessageFormat::Debezium => debezium::value(&self.listener, delivery, now),
            MessageFormat::CloudEvents => cloud_events::structured(&self.listener, delivery),
        }
    }

    /// Returns the headers that the format adds to a message. Its content type is among them where the protocol
    /// otherwise sends none.
    pub(crate) fn headers(&self, delivery: &Delivery, protocol: HeaderProtocol) -> Headers {
        match (self.format, protocol) {
            (MessageFormat::CloudEventsBinary, _) => {
                cloud_events::headers(&self.listener, delivery, protocol)
            }
            // By it a consumer tells the two modes apart.
            (MessageFormat::CloudEvents, HeaderProtocol::Nats) => vec![(
                "Content-Type".to_owned(),
                self.format.content_type(false).to_owned(),
            )],
            _ => Vec::new(),
        }
    }
}

/// Returns the event's own envelope.
fn envelope(delivery: &Delivery) -> Envelope<'_> {
    delivery.event.envelope(
        &delivery.observer,
        &delivery.action,
        delivery.replay.is_some(),
    )
}

#[cfg(test)]
mod tests;
