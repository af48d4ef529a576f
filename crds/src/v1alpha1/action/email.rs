//! Emails.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::SmtpTls;
use crate::v1alpha1::{ValueSource, never_null};

/// An email, sent by SMTP. Its `Message-ID` is the same for all attempts of a delivery, so that whoever
/// receives it can tell a repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.text) || has(self.html)",
    "message": "give text, html or both",
}]))]
pub struct Email {
    /// The server that takes it.
    pub smtp: Smtp,
    /// Template of the sender, as `shop@example.com` or `The Shop <shop@example.com>`.
    #[schemars(length(min = 1, max = 1024))]
    pub from: String,
    /// Templates of the recipients. Each may come out as several, with commas between them, or as none.
    #[schemars(length(min = 1, max = 32))]
    pub to: Vec<String>,
    /// Templates of those who get a copy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub cc: Vec<String>,
    /// Templates of those who get a copy that the others do not know of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub bcc: Vec<String>,
    /// Template of where answers go. Left out, to the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub reply_to: Option<String>,
    /// Template of the subject.
    #[schemars(length(min = 1, max = 4096))]
    pub subject: String,
    /// Template of the plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub text: Option<String>,
    /// Template of the HTML; values are escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub html: Option<String>,
}

/// A server that takes emails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Smtp {
    /// Its name or address.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Its port. Left out, 465 with `tls: Implicit`, 587 with `StartTls`, and 25 with `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// `Implicit` encrypts from the beginning, `StartTls` once the server has agreed to it, without
    /// which nothing is sent. `None` sends in the clear, and no password.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Certificates of those who sign the server's, as PEM, besides those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<ValueSource>,
    /// The user. Left out, nobody logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<ValueSource>,
    /// The user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<ValueSource>,
}
