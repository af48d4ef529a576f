//! Webhooks, after validation.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MessageFormat, Redacted, TlsConfig};

/// A webhook.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Target, `http` or `https`. It may hold a secret token, so it is redacted.
    pub url: Redacted,
    /// Method; `POST` by default.
    pub method: Method,
    /// Headers: a name and a template each.
    pub headers: Vec<(String, HeaderValue)>,
    /// Body template; the event in its format where absent.
    pub body: Option<String>,
    /// Format of the event; `Event` where there is a template.
    pub format: MessageFormat,
    /// Content type of the body, which the format decides unless it is `Event`.
    pub content_type: String,
    /// Standard Webhooks secrets, each of which signs; empty for none.
    pub signing_secrets: Vec<Redacted>,
    /// How many events go together; each by itself where absent.
    pub batch: Option<BatchConfig>,
    /// What the connection needs beyond what the system knows.
    pub tls: Option<TlsConfig>,
}

/// How many events go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    /// So many at most; at least 1.
    pub max_events: usize,
    /// So many bytes at most, unless one event alone has more.
    pub max_bytes: usize,
    /// How long the first waits for others.
    pub linger: Duration,
}

/// Whether a content type is that of JSON.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// Returns whether a header, in lower case, is set by each request itself.
#[must_use]
pub fn is_own_header(name: &str) -> bool {
    const OWN: [&str; 7] = [
        "connection",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "transfer-encoding",
        "user-agent",
    ];
    name.starts_with("webhook-") || OWN.contains(&name)
}

/// A header's value.
#[derive(Clone, Debug)]
pub enum HeaderValue {
    /// A template, rendered for each event.
    Template(String),
    /// A fixed value from a secret, sent as it is.
    Secret(Redacted),
}

/// Methods that a webhook may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `POST`
    #[default]
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}
