//! Webhooks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Batch;
use crate::config::{MessageFormat, Method};
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// HTTP request. It has the headers of Standard Webhooks (`webhook-id`, `webhook-timestamp`, and
/// `webhook-signature` if there is a signing secret) and `traceparent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.signingSecret) && has(self.signingSecrets))",
    "message": "give signingSecret or signingSecrets, not both",
}]))]
pub struct Webhook {
    /// URL to send the request to, as `https://host/path` or `http://host/path`. Redirects are not
    /// followed.
    pub url: ValueSource,
    /// HTTP method; default `POST`.
    #[serde(default)]
    pub method: Method,
    /// Headers to add, up to 32: a name, and a template (`value`) or a fixed secret
    /// (`secretKeyRef`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, ValueSource>,
    /// Template of the body, such as `{"total": {{ new.total }}}`, up to 65536 characters; default
    /// is the event in its `format`. In a JSON body, values are written as JSON literals, with quotes
    /// where they need them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Format of the body where `body` is left out; default `Event`. `Event` is the event as JSON,
    /// `Debezium` the value that Debezium's connector for Postgres writes, `CloudEvents` a
    /// `CloudEvent` in structured mode, and `CloudEventsBinary` one whose
    /// attributes are headers `ce-…`.
    #[serde(default)]
    pub format: MessageFormat,
    /// Content type of the body, which also decides how template values are escaped, 1 to 256
    /// characters; default `application/json`. A `format` other than `Event` decides it.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
    /// Secret that signs each request: `whsec_` and the base64 of 24 to 64 random bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<ValueSource>,
    /// Signing secrets during a rotation, up to 4. Each of them signs every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub signing_secrets: Vec<ValueSource>,
    /// Batching of events; left out, each event is sent alone. The body is a JSON array of what
    /// `body` renders for each event, or of the events in their `format`, which must not be
    /// `CloudEventsBinary`, and headers must not contain templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// TLS settings, for a `https` URL that needs a private authority or a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}
