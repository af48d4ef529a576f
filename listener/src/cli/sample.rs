//! `check --event`: what the observers would do with a sample event.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use crds::config::Operation;
use observer_listener::delivery::Delivery;
use observer_listener::delivery::event::Event;
use observer_listener::matching::RuleMatch;
use observer_listener::observers::Observers;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::CliError;
use super::output::say;

/// Largest sample in bytes.
const MAX_SAMPLE: u64 = 16 << 20;

/// Sample event, in the format of a webhook body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sample {
    entity: String,
    operation: Operation,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    occurred_at: Option<DateTime<Utc>>,
    #[serde(default)]
    old: Option<Box<RawValue>>,
    #[serde(default)]
    new: Option<Box<RawValue>>,
    /// Other fields of a webhook body, which are ignored.
    #[serde(default, rename = "id")]
    _id: Option<String>,
    #[serde(default, rename = "changed")]
    _changed: Option<Vec<String>>,
    #[serde(default, rename = "observer")]
    _observer: Option<String>,
    #[serde(default, rename = "action")]
    _action: Option<String>,
}

/// Prints what each observer of the event's entity would do with it.
pub(super) fn show(observers: &Observers, path: &Path) -> Result<(), CliError> {
    let event = Arc::new(read(path)?);
    let mut watching = 0;
    for (observer, targets) in observers.watching(&event) {
        watching += 1;
        match observers.decide(&event, observer) {
            None => say!("\n{observer}: does not match")?,
            Some(RuleMatch::Failed(failure)) => {
                say!(
                    "\n{observer}: fails, and each of its actions becomes a dead letter: {}",
                    failure.message
                )?;
            }
            Some(RuleMatch::Match) => {
                say!("\n{observer}: matches")?;
                for target in targets {
                    let delivery = Delivery {
                        event: Arc::clone(&event),
                        observer: Arc::clone(&target.name.observer),
                        action: Arc::clone(&target.name.action),
                        attempt: 1,
                        replay: None,
                    };
                    say!("  {}", target.name.action)?;
                    match target.action.preview(&delivery, Utc::now()) {
                        Ok(lines) => lines
                            .iter()
                            .try_for_each(|(label, text)| print(label, text))?,
                        Err(failure) => print("becomes a dead letter", &failure.message)?,
                    }
                }
            }
        }
    }
    if watching == 0 {
        say!(
            "\nno observer watches {} of {}",
            event.operation.as_str(),
            event.entity
        )?;
    }
    Ok(())
}

/// Prints a label and its text, below it if it has several lines.
fn print(label: &str, text: &str) -> Result<(), CliError> {
    if !text.contains('\n') {
        return say!("    {label}: {text}");
    }
    say!("    {label}:")?;
    text.lines().try_for_each(|line| say!("      {line}"))
}

fn read(path: &Path) -> Result<Event, CliError> {
    let shown = path.display();
    let size = std::fs::metadata(path).map(|found| found.len());
    let size = size.with_context(|| format!("cannot read {shown}"))?;
    if size > MAX_SAMPLE {
        return Err(CliError::Config(format!("{shown}: is larger than 16 MiB")));
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let sample: Sample = serde_json::from_str(&text).map_err(|error| {
        CliError::Config(format!(
            "{shown}: {error}; write an event such as {{\"entity\": \"public.orders\", \"operation\": \"Insert\", \
             \"key\": \"7\", \"new\": {{\"id\": 7}}}}"
        ))
    })?;
    let occurred_at = sample.occurred_at.unwrap_or_else(Utc::now);
    Ok(Event {
        log_id: 1,
        id: "sample-1".to_owned(),
        hash: 0,
        entity: sample.entity.into(),
        operation: sample.operation,
        key: sample.key,
        tenant: sample.tenant,
        occurred_at,
        old: sample.old,
        new: sample.new,
    })
}
