//! TLS, after validation.

use super::Redacted;

/// What a connection by TLS needs beyond what the system knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Certificates that are trusted besides those of the system, as PEM.
    pub ca: Option<Redacted>,
    /// A certificate and its key, to show to a server that asks for one, as PEM.
    pub identity: Option<(Redacted, Redacted)>,
}
