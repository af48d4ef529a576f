//! Validation of a Redis command: the rules that its schema cannot say.

use super::SHORTEST;
use super::format::check_format;
use super::webhook::content_type;
use crate::config::{MessageFormat, RedisCommand, RedisConfig, ServerUrl};
use crate::duration::HumanDuration;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Redis, RedisStreamAppend};
use crate::validation::context::ValidationContext;
use crate::validation::tls;
use crate::validation::url::url;

const LONGEST_TTL: HumanDuration = HumanDuration::from_secs(8760 * 3600);

/// Validates a Redis command and returns its configuration, with placeholders for what it reports.
pub(super) fn check(at: &str, redis: &Redis, context: &mut ValidationContext<'_>) -> RedisConfig {
    let url = url(&field(at, "url"), &redis.url, ServerUrl::REDIS, context);
    RedisConfig {
        tls: tls::of_url(at, redis.tls.as_ref(), (&url, "rediss"), context),
        url,
        command: command(at, redis, context),
        content_type: content_type(&field(at, "contentType"), &redis.content_type, context),
    }
}

fn command(at: &str, redis: &Redis, context: &mut ValidationContext<'_>) -> RedisCommand {
    let mut given = Vec::with_capacity(1);
    if let Some(set) = &redis.set {
        let at = field(&field(at, "set"), "ttl");
        let ttl = set.ttl;
        given.push(RedisCommand::Set {
            key: set.key.clone(),
            value: set.value.clone(),
            ttl: ttl.map(|ttl| context.check_range(&at, ttl, SHORTEST, LONGEST_TTL)),
        });
    }
    if let Some(delete) = &redis.delete {
        if delete.keys.is_empty() && delete.tags.is_empty() {
            context.error(
                &field(at, "delete"),
                "removes nothing; give `keys`, `tags` or both",
            );
        }
        given.push(RedisCommand::Delete {
            keys: delete.keys.clone(),
            tags: delete.tags.clone(),
        });
    }
    if let Some(publish) = &redis.publish {
        given.push(RedisCommand::Publish {
            channel: publish.channel.clone(),
            message: publish.message.clone(),
        });
    }
    if let Some(append) = &redis.append_to_stream {
        given.push(append_to_stream(
            &field(at, "appendToStream"),
            append,
            context,
        ));
    }
    if given.len() != 1 {
        context.error(
            at,
            "must have exactly one of `set`, `delete`, `publish` and `appendToStream`; make an action of each",
        );
    }
    let placeholder = RedisCommand::Delete {
        keys: Vec::new(),
        tags: Vec::new(),
    };
    given.into_iter().next().unwrap_or(placeholder)
}

fn append_to_stream(
    at: &str,
    append: &RedisStreamAppend,
    context: &mut ValidationContext<'_>,
) -> RedisCommand {
    let format = append.format;
    check_format(at, format, ("message", append.message.as_ref()), context);
    if format == MessageFormat::CloudEventsBinary {
        context.error(
            &field(at, "format"),
            "needs headers, and entries of a stream have none; make it CloudEvents",
        );
    }
    RedisCommand::AppendToStream {
        stream: append.stream.clone(),
        message: append.message.clone(),
        format,
        max_length: append.max_length,
    }
}
