//! What compiles and can never work: found before the first event, which would become a dead letter.

mod json;
mod statement;

use crds::config::{
    ActionConfig, ActionKind, ObserverConfig, Operation, RedisCommand, TeamsContent,
};

use crate::actions::Action;
use crate::admission::action_runtime::ActionRuntime;
use crate::matching::{Condition, Side};
use crate::observers::CompileProblem;
use crate::tracking::templates;

/// Names all that can never work in an observer that compiles.
#[must_use]
pub fn lint(config: &ObserverConfig, shared: &ActionRuntime) -> Vec<CompileProblem> {
    let mut found: Vec<(String, String)> = Vec::new();
    if let Some(condition) = config.when.as_deref().map(Condition::compile)
        && let Ok(condition) = condition
    {
        let missing = condition.images().into_iter();
        found.extend(
            missing
                .filter_map(|image| never_there(image, &config.operations))
                .map(|message| ("spec.when".to_owned(), message)),
        );
    }
    for (n, action) in config.actions.iter().enumerate() {
        let place =
            |(place, message): (String, String)| (format!("spec.actions[{n}].{place}"), message);
        found.extend(of_action(action, &config.operations).into_iter().map(place));
        found.extend(Action::refused(action, shared).map(place));
    }
    found
        .into_iter()
        .map(|(path, message)| CompileProblem {
            observer: config.identity(),
            path,
            message,
        })
        .collect()
}

/// What is wrong with an image that no event of these operations has; nothing if one has it.
fn never_there(image: Side, operations: &[Operation]) -> Option<String> {
    use Operation::{Custom, Delete, Insert, Truncate, Update};
    let (name, other, having): (_, _, &[Operation]) = match image {
        Side::Old => ("old", "new", &[Update, Delete]),
        Side::New => ("new", "old", &[Insert, Update, Custom]),
    };
    if operations.iter().any(|one| having.contains(one)) {
        return None;
    }
    let names: Vec<&str> = operations.iter().map(|one| one.as_str()).collect();
    let remedy = if operations.iter().all(|one| *one == Truncate) {
        "leave it out".to_owned()
    } else {
        format!("write `{other}`")
    };
    Some(format!(
        "there is no `{name}` in events of {}: {remedy}, or watch other operations",
        names.join(" and ")
    ))
}

fn of_action(action: &ActionConfig, operations: &[Operation]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let sources = templates::sources(&action.kind);
    for (place, source) in &sources {
        // What stands in a block may never be reached.
        if source.contains("{%") {
            continue;
        }
        let images = templates::images(source).into_iter();
        let wrong = images.filter_map(|image| never_there(image, operations));
        found.extend(wrong.map(|message| (place.clone(), message)));
    }
    found.extend(of_content(&action.kind));
    if let ActionKind::Postgres(postgres) = &action.kind
        && let Some(message) = statement::wrong(&postgres.statement, postgres.parameters.len())
    {
        found.push(("postgres.statement".to_owned(), message));
    }
    found
}

/// What is wrong with what is sent.
fn of_content(kind: &ActionKind) -> Option<(String, String)> {
    let json = |place: &str, source: Option<&String>, content_type: &str| {
        let source = source.filter(|_| crds::config::is_json(content_type))?;
        json::wrong(source).map(|message| (place.to_owned(), message))
    };
    match kind {
        ActionKind::Webhook(webhook) => {
            json("webhook.body", webhook.body.as_ref(), &webhook.content_type)
        }
        ActionKind::Nats(nats) => json("nats.message", nats.message.as_ref(), &nats.content_type),
        ActionKind::Kafka(kafka) => {
            json("kafka.message", kafka.message.as_ref(), &kafka.content_type)
        }
        ActionKind::Redis(redis) => {
            let (place, source) = match &redis.command {
                RedisCommand::Set { value, .. } => ("redis.set.value", value.as_ref()),
                RedisCommand::Publish { message, .. } => {
                    ("redis.publish.message", message.as_ref())
                }
                RedisCommand::AppendToStream { message, .. } => {
                    ("redis.appendToStream.message", message.as_ref())
                }
                RedisCommand::Delete { .. } => return None,
            };
            json(place, source, &redis.content_type)
        }
        ActionKind::Slack(slack) => {
            let message = json::wrong_blocks(slack.blocks.as_ref()?)?;
            Some(("slack.blocks".to_owned(), message))
        }
        ActionKind::Teams(teams) => match &teams.content {
            TeamsContent::Card(card) => {
                let message = json::wrong_card(card)?;
                Some(("teams.card".to_owned(), message))
            }
            _ => None,
        },
        _ => None,
    }
}
