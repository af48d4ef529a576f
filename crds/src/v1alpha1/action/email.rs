//! Emails.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::SmtpTls;
use crate::v1alpha1::{ValueSource, never_null};

/// Email, sent by SMTP. Its `Message-ID` is the same for all attempts of a delivery, so that the
/// recipient can recognize a repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.text) || has(self.html)",
    "message": "give text, html or both",
}]))]
pub struct Email {
    /// SMTP server that sends the email.
    pub smtp: Smtp,
    /// Template of the sender, as `shop@example.com` or `The Shop <shop@example.com>`, 1 to 1024
    /// characters.
    #[schemars(length(min = 1, max = 1024))]
    pub from: String,
    /// Templates of the recipients, 1 to 32. Each may yield several addresses, separated by commas,
    /// or none.
    #[schemars(length(min = 1, max = 32))]
    pub to: Vec<String>,
    /// Templates of recipients of a copy, up to 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub cc: Vec<String>,
    /// Templates of recipients of a blind copy, up to 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub bcc: Vec<String>,
    /// Template of the address for replies, 1 to 1024 characters; default is the sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub reply_to: Option<String>,
    /// Template of the subject, 1 to 4096 characters.
    #[schemars(length(min = 1, max = 4096))]
    pub subject: String,
    /// Template of the plain text body, 1 to 16384 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub text: Option<String>,
    /// Template of the HTML body, 1 to 16384 characters; values are escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16384))]
    pub html: Option<String>,
}

/// SMTP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Smtp {
    /// Host name or address, 1 to 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Port, 1 to 65535; default is 465 with `tls: Implicit`, 587 with `StartTls`, and 25 with
    /// `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Encryption of the connection; default `StartTls`. `Implicit` encrypts from the start.
    /// `StartTls` upgrades the connection, and sends nothing if the server does not support it.
    /// `None` sends unencrypted, and never a password.
    #[serde(default)]
    pub tls: SmtpTls,
    /// PEM certificates of authorities to trust, besides those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<ValueSource>,
    /// User name. Left out, the listener does not log in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<ValueSource>,
    /// Password of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<ValueSource>,
}
