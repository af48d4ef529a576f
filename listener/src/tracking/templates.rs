//! The columns that the templates of an action read.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use crds::config::{ActionConfig, ActionKind, HeaderValue, RedisCommand, TeamsContent};
use minijinja::Environment;
use regex::Regex;

use crate::matching::Side;

/// Stack for the parser, which calls itself for each of a chain of operators: enough for the longest
/// template that is compiled. Memory is only taken as far as it is used.
const PARSER_STACK: usize = 128 * 1024 * 1024;

/// Prefixes of a column in a template, as in `new.total`.
const ROWS: [&str; 3] = ["new.", "old.", "changed."];

/// Tests of a column before it is read.
static ASKED: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"\b(?:new|old|changed)\.(\w+)\s*(?:\|\s*(?:default|d)\b|is\s+(?:not\s+)?(?:un)?defined)",
    )
    .ok()
});

/// Path of a template within an action, and its text.
pub(crate) type TemplateSource<'a> = (String, &'a str);

/// Returns the columns that each template of an action fails without, with its path.
pub(super) fn columns(action: &ActionConfig) -> Vec<(String, Vec<String>)> {
    let sources = sources(&action.kind).into_iter();
    sources
        .map(|(place, source)| {
            let mut columns: Vec<String> = paths(source)
                .into_iter()
                .map(|(_, column)| column)
                .collect();
            columns.sort();
            columns.dedup();
            (place, columns)
        })
        .collect()
}

/// Returns the images that a template fails without.
pub(crate) fn images(source: &str) -> Vec<Side> {
    let paths = paths(source);
    let sides = [(Side::Old, "old."), (Side::New, "new.")].into_iter();
    sides
        .filter(|(_, row)| paths.iter().any(|(of, _)| of == row))
        .map(|(side, _)| side)
        .collect()
}

/// Returns the columns that a template reads without testing for them, each with its row.
fn paths(source: &str) -> Vec<(&'static str, String)> {
    let names = names(source);
    let asked: BTreeSet<&str> = ASKED
        .iter()
        .flat_map(|asked| asked.captures_iter(source))
        .filter_map(|found| found.get(1))
        .map(|name| name.as_str())
        .collect();
    let split = |name: &String| {
        let (row, path) = ROWS
            .iter()
            .find_map(|row| Some((*row, name.strip_prefix(row)?)))?;
        let column = path.split('.').next()?;
        let usable = !column.is_empty() && !asked.contains(column);
        usable.then(|| (row, column.to_owned()))
    };
    names.iter().filter_map(split).collect()
}

/// Returns the names that a template refers to, with their paths; none if it cannot be parsed, which
/// compiling it reports.
fn names(source: &str) -> HashSet<String> {
    let parse = || {
        let environment = Environment::new();
        let template = environment.template_from_str(source);
        template.map_or_else(
            |_| HashSet::new(),
            |template| template.undeclared_variables(true),
        )
    };
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, parse);
        let names = parser.ok().and_then(|parser| parser.join().ok());
        names.unwrap_or_default()
    })
}

/// Returns every template of an action.
pub(crate) fn sources<'a>(kind: &'a ActionKind) -> Vec<TemplateSource<'a>> {
    let mut all = Vec::new();
    let mut add = |place: &str, source: Option<&'a String>| {
        all.extend(source.map(|source| (place.to_owned(), source.as_str())));
    };
    match kind {
        ActionKind::Webhook(webhook) => {
            add("webhook.body", webhook.body.as_ref());
            for (name, value) in &webhook.headers {
                if let HeaderValue::Template(source) = value {
                    add(&format!("webhook.headers[{name}]"), Some(source));
                }
            }
        }
        ActionKind::Slack(slack) => {
            add("slack.text", slack.text.as_ref());
            add("slack.blocks", slack.blocks.as_ref());
        }
        ActionKind::Teams(teams) => match &teams.content {
            TeamsContent::Summary => {}
            TeamsContent::Text(source) => add("teams.text", Some(source)),
            TeamsContent::Card(source) => add("teams.card", Some(source)),
        },
        ActionKind::Email(email) => {
            add("email.from", Some(&email.from));
            let lists = [("to", &email.to), ("cc", &email.cc), ("bcc", &email.bcc)];
            for (name, list) in lists {
                for (n, source) in list.iter().enumerate() {
                    add(&format!("email.{name}[{n}]"), Some(source));
                }
            }
            add("email.replyTo", email.reply_to.as_ref());
            add("email.subject", Some(&email.subject));
            add("email.text", email.text.as_ref());
            add("email.html", email.html.as_ref());
        }
        ActionKind::Postgres(postgres) => {
            for (n, source) in postgres.parameters.iter().enumerate() {
                add(&format!("postgres.parameters[{n}]"), Some(source));
            }
        }
        ActionKind::Redis(redis) => match &redis.command {
            RedisCommand::Set { key, value, .. } => {
                add("redis.set.key", Some(key));
                add("redis.set.value", value.as_ref());
            }
            RedisCommand::Delete { keys, tags } => {
                for (name, list) in [("keys", keys), ("tags", tags)] {
                    for (n, source) in list.iter().enumerate() {
                        add(&format!("redis.delete.{name}[{n}]"), Some(source));
                    }
                }
            }
            RedisCommand::Publish { channel, message } => {
                add("redis.publish.channel", Some(channel));
                add("redis.publish.message", message.as_ref());
            }
            RedisCommand::AppendToStream {
                stream, message, ..
            } => {
                add("redis.appendToStream.stream", Some(stream));
                add("redis.appendToStream.message", message.as_ref());
            }
        },
        ActionKind::Nats(nats) => {
            add("nats.subject", Some(&nats.subject));
            add("nats.message", nats.message.as_ref());
        }
        ActionKind::Kafka(kafka) => {
            add("kafka.topic", Some(&kafka.topic));
            add("kafka.key", kafka.key.as_ref());
            add("kafka.message", kafka.message.as_ref());
        }
        ActionKind::Log(log) => add("log.message", log.message.as_ref()),
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_except_those_tested_for() {
        let of = |source| {
            let mut columns: Vec<String> = paths(source).into_iter().map(|(_, one)| one).collect();
            columns.sort();
            columns.join(" ")
        };
        assert_eq!(of("{{ new.total }} {{ old.a.b }} {{ key }}"), "a total");
        assert_eq!(of("{% if changed.status %}x{% endif %}"), "status");
        assert_eq!(of("{{ new.note | default('') }}{{ new.a }}"), "a");
        assert_eq!(
            of("{% if new.note is defined %}{{ new.note }}{% endif %}"),
            ""
        );
        assert_eq!(
            of("{% for item in new.items %}{{ item.price }}{% endfor %}"),
            "items"
        );
        assert_eq!(of("{{ new."), "");
    }
}
