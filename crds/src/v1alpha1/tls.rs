//! TLS settings of connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ValueSource, never_null};

/// TLS settings that a connection needs beyond the system's. Versions before 1.2 are never used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.certificate) == has(self.key)",
    "message": "give certificate and key, or neither",
}]))]
pub struct Tls {
    /// PEM certificates of authorities to trust, besides those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<ValueSource>,
    /// PEM client certificate, with its chain, for servers that ask for one. Set it together with
    /// `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ValueSource>,
    /// PEM private key of the client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ValueSource>,
}
