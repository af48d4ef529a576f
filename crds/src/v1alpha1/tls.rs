//! TLS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ValueSource, never_null};

/// What a connection by TLS needs beyond what the system knows. Versions before 1.2 are never used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.certificate) == has(self.key)",
    "message": "give certificate and key, or neither",
}]))]
pub struct Tls {
    /// Certificates of those who sign the server's, as PEM, besides those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<ValueSource>,
    /// The certificate to show to a server that asks for one, as PEM, with those that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ValueSource>,
    /// Its key, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<ValueSource>,
}
