//! Statements in Postgres.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::v1alpha1::{Tls, ValueSource, never_null};

/// A statement in a Postgres database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct Postgres {
    /// The database, as `postgres://user:password@host:5432/database`. Left out, it is the listener's
    /// own, where each delivery takes effect exactly once; the listener must allow that
    /// (`spec.egress.ownDatabase`). Elsewhere one whose answer was lost is made again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ValueSource>,
    /// A private authority, and a certificate of our own, where the server at `url` needs them. The
    /// connection is encrypted then, and the server's certificate must bear its name, unless the URL
    /// has `sslmode=verify-ca`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// The statement, such as `select shop.bill($1::bigint, $2::numeric)`. It is no template: values
    /// are bound as parameters. Each is text or null, so cast it to what it is to be.
    #[schemars(length(min = 1, max = 16384))]
    pub statement: String,
    /// Templates of the parameters, the first one for `$1`, such as `{{ new.id }}`. One that is a null
    /// and nothing else is bound as null.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parameters: Vec<String>,
}
