//! Sample events of `check --event`.

use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use crds::config::Operation;
use observer_listener::delivery::event::Event;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::CliError;

/// Number in the log of an event that is in none.
const NO_LOG_ID: i64 = 0;

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

/// Reads a sample event.
pub(super) fn read(path: &Path) -> Result<Event, CliError> {
    let shown = path.display();
    let size = std::fs::metadata(path).map(|found| found.len());
    let size = size.with_context(|| {
        format!("{shown} is no id of an event, and cannot be read as a file with one")
    })?;
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
        log_id: NO_LOG_ID,
        id: "sample-1".to_owned(),
        hash: 0,
        entity: sample.entity.into(),
        operation: sample.operation,
        key: sample.key,
        tenant: sample.tenant,
        occurred_at,
        old: sample.old,
        new: sample.new,
        trace: None,
    })
}
