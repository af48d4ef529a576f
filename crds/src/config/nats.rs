//! Messages to NATS, after validation.

use super::{Redacted, TlsConfig};

/// A message to a stream of NATS.
#[derive(Clone, Debug)]
pub struct NatsConfig {
    /// The server, `nats` or `tls`, with a host.
    pub url: Redacted,
    /// What the connection needs beyond what the system knows.
    pub tls: Option<TlsConfig>,
    /// What a file of credentials holds.
    pub credentials: Option<Redacted>,
    /// Template of the subject.
    pub subject: String,
    /// Template of the message; the event as JSON where absent.
    pub message: Option<String>,
    /// Content type of the message.
    pub content_type: String,
}
