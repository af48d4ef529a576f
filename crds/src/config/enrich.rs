//! Lookups of an observer, after validation.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HeaderValue, PostgresConfig, Redacted, TlsConfig};

/// A lookup.
#[derive(Clone, Debug)]
pub struct LookupConfig {
    /// Name, unique within the observer.
    pub name: String,
    /// Where its result comes from.
    pub kind: LookupKind,
    /// Timeout of one lookup.
    pub timeout: Duration,
    /// What becomes of a delivery when it fails.
    pub on_error: OnLookupError,
    /// Caching of its results; none where absent.
    pub cache: Option<CacheConfig>,
}

/// Caching of the results of a lookup or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// How long a result is used, not zero; that of the listener where absent.
    pub ttl: Option<Duration>,
    /// How long a null result is used; not at all where zero.
    pub negative_ttl: Duration,
    /// How long after that a result is used when the request fails; not at all where zero.
    pub stale_if_error: Duration,
    /// Changes that end a result.
    pub invalidate_on: Vec<InvalidateOnConfig>,
}

/// A change that ends cached results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidateOnConfig {
    /// Entity of the event.
    pub entity: String,
    /// Template of its key; any where absent.
    pub key: Option<String>,
}

/// Where the result of a lookup comes from.
#[derive(Clone, Debug)]
pub enum LookupKind {
    /// A query in a Postgres database.
    Postgres(PostgresConfig),
    /// An HTTP request.
    Http(HttpLookupConfig),
}

/// An HTTP request of a lookup.
#[derive(Clone, Debug)]
pub struct HttpLookupConfig {
    /// Target, `http` or `https`. It may hold a secret token, so it is redacted.
    pub url: Redacted,
    /// Template of what is appended to the URL.
    pub path: Option<String>,
    /// Method; `GET` by default.
    pub method: RequestMethod,
    /// Headers: a name and a template each.
    pub headers: Vec<(String, HeaderValue)>,
    /// Body template; no body where absent.
    pub body: Option<String>,
    /// Content type of the body.
    pub content_type: String,
    /// TLS settings of the connection.
    pub tls: Option<TlsConfig>,
}

/// What becomes of a delivery when a lookup fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnLookupError {
    /// It fails, and is retried.
    #[default]
    Fail,
    /// It goes on with a null result.
    Null,
    /// It goes on with the last result in the cache, or fails where there is none.
    Stale,
}

/// Methods that a lookup may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum RequestMethod {
    /// `GET`
    #[default]
    Get,
    /// `POST`
    Post,
}
