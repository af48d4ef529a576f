//! Statements in Postgres.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{Tls, ValueSource, never_null};

/// Statement in a Postgres database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Postgres {
    /// Connection URL, as `postgres://user:password@host:5432/database`. Left out, the statement
    /// runs in the listener's own database, where each delivery takes effect exactly once; the
    /// listener must allow it (`spec.egress.ownDatabase`). In another database, an attempt whose
    /// response was lost is repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ValueSource>,
    /// TLS settings, for a server that needs a private authority or a client certificate. They make
    /// the connection encrypted, and the certificate of the server must match its name unless the
    /// URL has `sslmode=verify-ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// SQL statement, such as `select shop.bill($1::bigint, $2::numeric)`, 1 to 16384 characters.
    /// It is not a template: values are bound as parameters. Each is text or null, so cast it to
    /// the type that it should have.
    #[schemars(length(min = 1, max = 16384))]
    pub statement: String,
    /// Templates of the parameters, the first one for `$1`, such as `{{ new.id }}`, up to 32. A
    /// parameter that renders to nothing but a null is bound as null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parameters: Vec<String>,
}
