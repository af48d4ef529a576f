//! Messages to NATS, after validation.

use super::{MessageFormat, Redacted, TlsConfig};

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
    /// Template of the message; the event in its format where absent.
    pub message: Option<String>,
    /// Format of the event; `Event` where there is a template.
    pub format: MessageFormat,
    /// Content type of the message, which the format decides unless it is `Event`.
    pub content_type: String,
}
