//! Lint of observers: finds what compiles and can never work before the first event becomes a dead letter.

mod json;

use crds::config::{ActionConfig, ObserverConfig, Operation};

use crate::actions;
use crate::actions::template_source::{TemplateOutput, TemplateSource};
use crate::admission::action_runtime::ActionRuntime;
use crate::matching::{Condition, Side};
use crate::observers::CompileProblem;
use crate::tracking::templates;

/// Returns everything in an observer that compiles and can never work.
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
        found.extend(
            of_templates(action, &config.operations)
                .into_iter()
                .map(place),
        );
        found.extend(actions::lint(action, shared).into_iter().map(place));
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

/// Describes an image that no event of these operations has; nothing if one has it.
fn never_there(image: Side, operations: &[Operation]) -> Option<String> {
    use Operation::{Custom, Delete, Insert, Read, Truncate, Update};
    let (name, other, having): (_, _, &[Operation]) = match image {
        Side::Old => ("old", "new", &[Update, Delete]),
        Side::New => ("new", "old", &[Insert, Update, Custom, Read]),
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

/// What is wrong with the templates of an action.
fn of_templates(action: &ActionConfig, operations: &[Operation]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let templates = actions::templates(&action.kind);
    for template in &templates {
        // What stands in a block may never be reached.
        if template.source.contains("{%") {
            continue;
        }
        let images = templates::images(template.source).into_iter();
        let wrong = images.filter_map(|image| never_there(image, operations));
        found.extend(wrong.map(|message| (template.field.clone(), message)));
    }
    let wrong = |template: TemplateSource<'_>| {
        let message = match template.output {
            TemplateOutput::Text => None,
            TemplateOutput::Json => json::wrong(template.source),
            TemplateOutput::SlackBlocks => json::wrong_blocks(template.source),
            TemplateOutput::AdaptiveCard => json::wrong_card(template.source),
        };
        message.map(|message| (template.field, message))
    };
    found.extend(templates.into_iter().filter_map(wrong));
    found
}
