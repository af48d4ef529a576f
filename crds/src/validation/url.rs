//! URLs of servers. They are used as they are, so none holds a template.

use url::Url;

use super::context::ValidationContext;
use crate::config::Redacted;
use crate::v1alpha1::{RedisServer, ValueSource};

/// A URL of one of `schemes` with a host, used as it is; `wrong` says what else it has to be.
pub(crate) fn url(
    at: &str,
    source: &ValueSource,
    (schemes, wrong): (&[&str], &str),
    context: &mut ValidationContext<'_>,
) -> Redacted {
    let Some((at, url)) = context.resolve(at, source) else {
        return Redacted::default();
    };
    let proper = Url::parse(url.reveal()).is_ok_and(|url| {
        schemes.contains(&url.scheme()) && url.host_str().is_some_and(|host| !host.is_empty())
    });
    if url.reveal().contains("{{") {
        context.error(
            &at,
            "holds a template, but a URL is used as it is; templates are for what is sent",
        );
    } else if !proper {
        context.error(&at, wrong);
    }
    url
}

/// The URL of a Postgres database.
pub(crate) fn database_url(
    at: &str,
    source: &ValueSource,
    context: &mut ValidationContext<'_>,
) -> Redacted {
    let Some((at, url)) = context.resolve(at, source) else {
        return Redacted::default();
    };
    let text = url.reveal();
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        context.error(
            &at,
            "is not the URL of a Postgres database; write postgres://user:password@host:5432/database",
        );
    }
    url
}

/// The URL of the Redis server of a listener.
pub(crate) fn redis_url(redis: &RedisServer, context: &mut ValidationContext<'_>) -> Redacted {
    let Some((at, url)) = context.resolve("/spec/redis/url", &redis.url) else {
        return Redacted::default();
    };
    let text = url.reveal();
    if !text.starts_with("redis://") && !text.starts_with("rediss://") {
        context.error(
            &at,
            "is not the URL of a Redis server; write redis://user:password@host:6379/0, or rediss:// for TLS",
        );
    }
    url
}
