//! What the observers of files would do with an event, without doing it.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::config::Operation;
use observer_listener::delivery::Delivery;
use observer_listener::delivery::event::{Event, MAX_EVENT_BYTES};
use observer_listener::matching::RuleMatch;
use observer_listener::observers::{Compiled, Observers};
use serde::Serialize;

use super::CliError;
use super::output::say;
use super::table::one_line;

/// What each observer of an event's entity would do with it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Evaluation {
    id: String,
    entity: String,
    operation: Operation,
    key: Option<String>,
    tenant: Option<String>,
    occurred_at: DateTime<Utc>,
    observers: Vec<ObserverEvaluation>,
}

/// What one observer would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObserverEvaluation {
    observer: String,
    matches: bool,
    /// Why it does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_matched: Option<String>,
    /// Why its condition has no answer, so that each of its actions becomes a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    actions: Vec<ActionEvaluation>,
}

/// What one action would do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionEvaluation {
    action: String,
    sends: Vec<SentPart>,
    /// Why it becomes a dead letter instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// A part of what would be sent, without secrets.
#[derive(Debug, Serialize)]
struct SentPart {
    part: String,
    text: String,
}

impl Evaluation {
    /// Evaluates the observers of an event's entity.
    pub(super) fn of(observers: &Observers, event: &Arc<Event>) -> Self {
        let evaluated = observers
            .of_entity(&event.entity)
            .map(|(name, rule, targets)| {
                let mut one = ObserverEvaluation {
                    observer: name.to_owned(),
                    matches: false,
                    not_matched: None,
                    failure: None,
                    actions: Vec::new(),
                };
                let decided = match too_large(event) {
                    // Its images are not there to evaluate.
                    Some(failure) if rule.operations.contains(&event.operation) => Err(failure),
                    _ => match observers.decide(event, name) {
                        Some(RuleMatch::Failed(failure)) => Err(failure.message),
                        Some(RuleMatch::Match) => Ok(true),
                        None => Ok(false),
                    },
                };
                match decided {
                    Ok(true) => {
                        one.matches = true;
                        one.actions = targets.iter().map(|one| preview(one, event)).collect();
                    }
                    Ok(false) => one.not_matched = rule.explain(event),
                    Err(failure) => one.failure = Some(failure),
                }
                one
            });
        Self {
            observers: evaluated.collect(),
            id: event.id.clone(),
            entity: event.entity.to_string(),
            operation: event.operation,
            key: event.key.clone(),
            tenant: event.tenant.clone(),
            occurred_at: event.occurred_at,
        }
    }

    /// Prints which event it is about.
    pub(super) fn print_event(&self) -> Result<(), CliError> {
        let at = self
            .occurred_at
            .to_rfc3339_opts(SecondsFormat::Micros, true);
        let (operation, entity) = (self.operation.as_str(), one_line(&self.entity));
        let key = self.key.as_deref().map(one_line);
        let key = key.map_or_else(String::new, |key| format!(", key {key}"));
        say!("\n{}: {operation} of {entity}{key}, at {at}", self.id)
    }

    /// Prints what would be done.
    pub(super) fn print(&self) -> Result<(), CliError> {
        for one in &self.observers {
            one.print()?;
        }
        if self.observers.is_empty() {
            let entity = one_line(&self.entity);
            say!(
                "\nno observer watches {} of {entity}",
                self.operation.as_str()
            )?;
        }
        Ok(())
    }
}

impl ObserverEvaluation {
    fn print(&self) -> Result<(), CliError> {
        let name = &self.observer;
        if let Some(failure) = &self.failure {
            return say!(
                "\n{name}: fails, and each of its actions becomes a dead letter: {failure}"
            );
        }
        if !self.matches {
            let why = self.not_matched.as_ref();
            let why = why.map_or_else(String::new, |why| format!(", {why}"));
            return say!("\n{name}: does not match{why}");
        }
        say!("\n{name}: matches")?;
        for action in &self.actions {
            say!("  {}", action.action)?;
            for sent in &action.sends {
                print_part(&sent.part, &sent.text)?;
            }
            if let Some(failure) = &action.failure {
                print_part("becomes a dead letter", failure)?;
            }
        }
        Ok(())
    }
}

/// Returns why an event of the log has no images although its row has, if so.
fn too_large(event: &Event) -> Option<String> {
    let is_row = !matches!(event.operation, Operation::Truncate | Operation::Custom);
    (is_row && event.log_id > 0 && event.old.is_none() && event.new.is_none()).then(|| {
        format!("the row's images take more than the {MAX_EVENT_BYTES} bytes that are delivered")
    })
}

/// Renders what an action would send.
fn preview(target: &Compiled, event: &Arc<Event>) -> ActionEvaluation {
    let delivery = Delivery {
        event: Arc::clone(event),
        observer: Arc::clone(&target.name.observer),
        action: Arc::clone(&target.name.action),
        attempt: 1,
        replay: None,
    };
    let rendered = target.action.preview(&delivery, Utc::now());
    let (sends, failure) = match rendered {
        Ok(parts) => (parts, None),
        Err(failure) => (Vec::new(), Some(failure.message)),
    };
    ActionEvaluation {
        action: target.name.action.to_string(),
        sends: sends
            .into_iter()
            .map(|(part, text)| SentPart { part, text })
            .collect(),
        failure,
    }
}

/// Prints a label and its text, below it if it has several lines.
fn print_part(label: &str, text: &str) -> Result<(), CliError> {
    if !text.contains('\n') {
        return say!("    {label}: {text}");
    }
    say!("    {label}:")?;
    text.lines().try_for_each(|line| say!("      {line}"))
}
