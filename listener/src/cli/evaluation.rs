//! What the observers of files would do with an event, without doing it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use crds::config::Operation;
use observer_listener::actions::Preview;
use observer_listener::delivery::Delivery;
use observer_listener::delivery::event::{Event, MAX_EVENT_BYTES};
use observer_listener::delivery::outcome::Outcome;
use observer_listener::matching::RuleMatch;
use observer_listener::observers::{Compiled, Observers};
use observer_listener::trace::spans::AttemptTrace;
use serde::Serialize;
use serde_json::value::RawValue;

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
    /// What its lookups ask, and what came of it where they were made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lookups: Vec<LookupEvaluation>,
    sends: Vec<SentPart>,
    /// Why it is not delivered: its condition does not hold, or its lookups were not made.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    /// Why it becomes a dead letter instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

/// What one lookup asks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LookupEvaluation {
    lookup: String,
    asks: Vec<SentPart>,
    /// Why that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// Its result, where it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
}

/// A part of what would be sent, without secrets.
#[derive(Debug, Serialize)]
struct SentPart {
    part: String,
    text: String,
}

impl Evaluation {
    /// Evaluates the observers of an event's entity. Lookups are made if it is `online`.
    pub(super) async fn of(observers: &Observers, event: &Arc<Event>, online: bool) -> Self {
        let mut evaluated = Vec::new();
        for (name, rule, targets) in observers.of_entity(&event.entity) {
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
                    for target in targets {
                        one.actions.push(preview(target, event, online).await);
                    }
                }
                Ok(false) => one.not_matched = rule.explain(event),
                Err(failure) => one.failure = Some(failure),
            }
            evaluated.push(one);
        }
        Self {
            observers: evaluated,
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
            action.print()?;
        }
        Ok(())
    }
}

impl ActionEvaluation {
    fn print(&self) -> Result<(), CliError> {
        say!("  {}", self.action)?;
        for lookup in &self.lookups {
            lookup.print()?;
        }
        for sent in &self.sends {
            print_part(&sent.part, &sent.text)?;
        }
        if let Some(why) = &self.skipped {
            print_part("is not sent", why)?;
        }
        match &self.failure {
            Some(failure) => print_part("becomes a dead letter", failure),
            None => Ok(()),
        }
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
async fn preview(target: &Compiled, event: &Arc<Event>, online: bool) -> ActionEvaluation {
    let mut delivery = Delivery {
        event: Arc::clone(event),
        observer: Arc::clone(&target.name.observer),
        action: Arc::clone(&target.name.action),
        attempt: 1,
        replay: None,
        enrich: None,
        trace: AttemptTrace::default(),
    };
    let now = Utc::now();
    let enriched = match (target.has_lookups(), online) {
        (true, false) => Err(Outcome::Skipped),
        _ => target.enrich(&mut delivery, now).await,
    };
    let mut evaluation = ActionEvaluation {
        action: target.name.action.to_string(),
        lookups: lookups(target, &delivery),
        sends: Vec::new(),
        skipped: None,
        failure: None,
    };
    match enriched {
        Ok(()) => match target.action.preview(&delivery, now) {
            Ok(sends) => evaluation.sends = sent(sends),
            Err(failure) => evaluation.failure = Some(failure.message),
        },
        Err(Outcome::Retry { failure, .. } | Outcome::Rejected(failure)) => {
            evaluation.failure = Some(failure.message);
        }
        Err(_) if target.has_lookups() && !online => {
            let why = "it depends on its lookups, which are not made; add --online to make them";
            evaluation.skipped = Some(why.to_owned());
        }
        Err(_) => evaluation.skipped = Some(target.explain(&delivery).unwrap_or_default()),
    }
    evaluation
}

fn lookups(target: &Compiled, delivery: &Delivery) -> Vec<LookupEvaluation> {
    let results = delivery.enrich.as_deref().map(RawValue::get);
    let mut results: BTreeMap<String, Box<RawValue>> = results
        .and_then(|results| serde_json::from_str(results).ok())
        .unwrap_or_default();
    let previews = target.lookup_previews(delivery).into_iter();
    previews
        .map(|(lookup, preview)| {
            let (asks, failure) = match preview {
                Ok(asks) => (sent(asks), None),
                Err(failure) => (Vec::new(), Some(failure.message)),
            };
            LookupEvaluation {
                result: results.remove(&lookup),
                lookup,
                asks,
                failure,
            }
        })
        .collect()
}

fn sent(preview: Preview) -> Vec<SentPart> {
    let parts = preview.into_iter();
    parts.map(|(part, text)| SentPart { part, text }).collect()
}

impl LookupEvaluation {
    fn print(&self) -> Result<(), CliError> {
        let name = |part: &str| format!("lookup {}, {part}", self.lookup);
        for asked in &self.asks {
            print_part(&name(&asked.part), &asked.text)?;
        }
        if let Some(failure) = &self.failure {
            print_part(&name("which cannot be shown"), failure)?;
        }
        match &self.result {
            Some(result) => print_part(&name("result"), result.get()),
            None => Ok(()),
        }
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
