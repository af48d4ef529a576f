//! Emails, after validation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Redacted;

/// An email. Texts are templates.
#[derive(Clone, Debug)]
pub struct EmailConfig {
    /// The server that takes it.
    pub smtp: SmtpConfig,
    /// The sender.
    pub from: String,
    /// Recipients; at least one.
    pub to: Vec<String>,
    /// Those who get a copy.
    pub cc: Vec<String>,
    /// Those who get a copy that the others do not know of.
    pub bcc: Vec<String>,
    /// Where answers go.
    pub reply_to: Option<String>,
    /// The subject.
    pub subject: String,
    /// The plain text; there is this, HTML or both.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

/// A server that takes emails.
#[derive(Clone, Debug)]
pub struct SmtpConfig {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: SmtpTls,
    /// Certificates that are trusted besides those of the system, as PEM.
    pub ca: Option<Redacted>,
    /// User and password; only where the connection is encrypted.
    pub login: Option<(Redacted, Redacted)>,
}

/// How a connection to a server for emails is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SmtpTls {
    /// From the beginning.
    Implicit,
    /// Once the server has agreed to it.
    #[default]
    StartTls,
    /// Not at all.
    None,
}
