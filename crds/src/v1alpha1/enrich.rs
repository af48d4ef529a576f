//! Lookups of an observer: values from elsewhere that its actions can use.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::action::default_content_type;
use super::{Postgres, Tls, ValueSource, never_null};
use crate::config::{OnLookupError, RequestMethod};
use crate::duration::HumanDuration;

/// Fields of a lookup of which exactly one is set.
pub(crate) const LOOKUP_KINDS: [&str; 2] = ["postgres", "http"];

/// Lookup before the actions of an observer. Its result is `enrich.NAME` in their templates and
/// conditions. Set exactly one of `postgres` and `http`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(transform = exactly_one_kind)]
pub struct Lookup {
    /// Name of the lookup, 1 to 63 lower case letters, digits and `_`, beginning with a letter,
    /// unique within the observer.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Runs a query in a read-only transaction. The result is its row as an object, or null if it
    /// returns none; it must not return several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
    /// Sends an HTTP request whose response is JSON. The result is that, or null if the status is
    /// 204, 404 or 410.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpLookup>,
    /// Timeout of the lookup, 1ms to 1m; default 5s. It is not part of the timeout of an action.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// What happens to a delivery when the lookup fails; default `Fail`. `Fail` retries the
    /// delivery as the action's `retry` says. `Null` goes on with a null result. `Stale` goes on with
    /// the last result in the cache, up to 24h after its `ttl`, and fails where there is none.
    #[serde(default)]
    pub on_error: OnLookupError,
    /// Caching of results. Left out, each delivery makes the lookup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<LookupCache>,
}

/// Caching of the results of a lookup, for equal requests. A cached result is never used for another
/// tenant, another observer, or an observer whose spec has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct LookupCache {
    /// How long a result is used, 1s to 24h; default is `spec.cache.ttl` of the listener. The time of
    /// each result is up to a tenth shorter, so that they do not all expire at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// How long a null result is used, 0s to 24h; default 10s. 0s does not cache it.
    #[serde(default = "default_negative_ttl")]
    pub negative_ttl: HumanDuration,
    /// How long after its `ttl` a result is still used if the lookup fails, 0s to 24h; default 0s,
    /// which is not at all.
    #[serde(default = "no_time")]
    pub stale_if_error: HumanDuration,
    /// Changes that end a result before its time, up to 8. No event that was committed after such a
    /// change is delivered with a result of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub invalidate_on: Vec<InvalidateOn>,
}

/// Caching of an action whose effect may stand for a while: an equal request is not sent again within
/// `ttl`, and its delivery counts as done. What is equal is decided by all that the action renders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct ActionCache {
    /// How long an equal request is not sent again, 1s to 24h; default is `spec.cache.ttl` of the
    /// listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<HumanDuration>,
    /// Changes after which it is sent again, up to 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub invalidate_on: Vec<InvalidateOn>,
}

/// Defaults of the caches of lookups and actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheDefaults {
    /// How long a result is used where a `cache` does not say, 1s to 24h; default 1m.
    #[serde(default = "default_ttl")]
    pub ttl: HumanDuration,
}

impl Default for CacheDefaults {
    fn default() -> Self {
        Self { ttl: default_ttl() }
    }
}

/// A change that ends cached results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct InvalidateOn {
    /// Entity, as `schema.table` of a tracked table or the name given to `observer.emit`, 1 to 255
    /// characters.
    #[schemars(length(min = 1, max = 255))]
    pub entity: String,
    /// Template of the key of its row, such as `{{ new.customer_id }}`, up to 4096 characters. Left
    /// out, a change of any row ends the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub key: Option<String>,
}

/// HTTP request of a lookup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct HttpLookup {
    /// URL, as `https://host/path` or `http://host/path`. Redirects are not followed.
    pub url: ValueSource,
    /// Template of what is appended to the URL, such as `/customers/{{ new.customer_id }}`, up to
    /// 4096 characters. Values are percent-encoded, so that they add no part of a path or a query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub path: Option<String>,
    /// HTTP method; default `GET`.
    #[serde(default)]
    pub method: RequestMethod,
    /// Headers to add, up to 32: a name, and a template (`value`) or a fixed secret
    /// (`secretKeyRef`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub headers: BTreeMap<String, ValueSource>,
    /// Template of the body of a `POST`, up to 65536 characters; left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Content type of the body, which also decides how template values are escaped, 1 to 256
    /// characters; default `application/json`.
    #[serde(default = "default_content_type")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: String,
    /// TLS settings, for a `https` URL that needs a private authority or a client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Adds the rule that a lookup is of exactly one kind.
fn exactly_one_kind(schema: &mut Schema) {
    let rule = json!([{
        "rule": "has(self.postgres) != has(self.http)",
        "message": "give exactly one of postgres and http",
    }]);
    schema.insert("x-kubernetes-validations".to_owned(), rule);
}

fn default_ttl() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn default_negative_ttl() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn no_time() -> HumanDuration {
    HumanDuration::from_secs(0)
}

fn default_timeout() -> HumanDuration {
    HumanDuration::from_secs(5)
}
