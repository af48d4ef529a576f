//! Webhooks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Batch;
use crate::config::Method;
use crate::v1alpha1::{Tls, ValueSource, never_null};

/// An HTTP request. It carries the headers of Standard Webhooks (`webhook-id`,
/// `webhook-timestamp`, and `webhook-signature` where there is a secret) and `traceparent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.signingSecret) && has(self.signingSecrets))",
    "message": "give signingSecret or signingSecrets, not both",
}]))]
pub struct Webhook {
    /// Where to send it, as `https://host/path` or `http://host/path`. Redirects are not followed.
    pub url: ValueSource,
    /// Method of the request.
    #[serde(default)]
    pub method: Method,
    /// Headers to add: a name, and a template (`value`) or a fixed secret (`secretKeyRef`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, ValueSource>,
    /// Template of the body, such as `{"total": {{ new.total }}}`. In a JSON body, values are
    /// written as JSON literals, with quotes where they need them. Left out, the body is the
    /// event as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Content type of the body.
    #[serde(default = "super::default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
    /// Secret that signs each request: `whsec_` and the base64 of 24 to 64 random bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_secret: Option<ValueSource>,
    /// Several such secrets, each of which signs, for the time of a rotation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub signing_secrets: Vec<ValueSource>,
    /// Sends events together. The body is a JSON array then, whatever makes its elements, and headers
    /// hold no template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// A private authority, and a certificate of our own, where `https` needs them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}
