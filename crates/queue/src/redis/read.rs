//! Words of the queue from answers of scripts, and the other way round.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Claim, Claimed, Figures, First, Job, Lane, Priority, QueueError, Run, Shown, State};

/// Fields of an answer; nothing where a hash has none.
pub(super) type Row = Vec<Option<String>>;

/// The one thing that is read of an attempt.
#[derive(Deserialize)]
struct Attempt {
    #[serde(default)]
    error: Option<String>,
}

/// Longest wait that scripts are given: a hundred years. Their numbers are exact far beyond.
const LONGEST_WAIT: Duration = Duration::from_hours(24 * 36_525);

pub(super) fn micros(duration: Duration) -> u128 {
    duration.min(LONGEST_WAIT).as_micros()
}

pub(super) fn priority_digit(priority: Priority) -> u8 {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

fn priority(digit: &str) -> Result<Priority, QueueError> {
    match digit {
        "0" => Ok(Priority::High),
        "1" => Ok(Priority::Normal),
        "2" => Ok(Priority::Low),
        _ => Err(unreadable("priority")),
    }
}

fn unreadable(what: &str) -> QueueError {
    QueueError::Unreadable(format!("its {what} is not as it was written"))
}

fn optional(row: &Row, n: usize) -> Option<&str> {
    row.get(n).and_then(Option::as_deref)
}

fn text<'a>(row: &'a Row, n: usize, what: &str) -> Result<&'a str, QueueError> {
    optional(row, n).ok_or_else(|| unreadable(what))
}

fn number<T: std::str::FromStr>(row: &Row, n: usize, what: &str) -> Result<T, QueueError> {
    text(row, n, what)?.parse().map_err(|_| unreadable(what))
}

fn json(row: &Row, n: usize, what: &str) -> Result<Box<RawValue>, QueueError> {
    RawValue::from_string(text(row, n, what)?.to_owned()).map_err(|_| unreadable(what))
}

fn time(row: &Row, n: usize, what: &str) -> Result<DateTime<Utc>, QueueError> {
    DateTime::from_timestamp_micros(number(row, n, what)?).ok_or_else(|| unreadable(what))
}

/// The last failure that a history tells of; nothing where it tells of none.
fn last_error(history: Option<&str>) -> Option<String> {
    let attempts: Vec<Attempt> = serde_json::from_str(history?).ok()?;
    attempts.into_iter().next_back()?.error
}

/// A claim as `place:number`.
pub(super) fn claim(text: &str) -> Result<Claim, QueueError> {
    let (place, number) = text.split_once(':').ok_or_else(|| unreadable("claim"))?;
    Ok(Claim {
        place: place.to_owned(),
        number: number.parse().map_err(|_| unreadable("claim"))?,
    })
}

/// Rows of one run follow each other.
pub(super) fn runs(rows: &[Row]) -> Result<Vec<Run>, QueueError> {
    let mut runs: Vec<Run> = Vec::new();
    let mut last = "";
    for row in rows {
        let run = text(row, 0, "run")?;
        let job = claimed(row)?;
        match runs.last_mut() {
            Some(open) if run == last => open.jobs.push(job),
            _ => runs.push(Run { jobs: vec![job] }),
        }
        last = run;
    }
    Ok(runs)
}

fn claimed(row: &Row) -> Result<Claimed, QueueError> {
    Ok(Claimed {
        claim: Claim {
            place: text(row, 1, "place")?.to_owned(),
            number: number(row, 2, "claim")?,
        },
        late: Duration::from_micros(number(row, 3, "lateness")?),
        job: Job {
            id: text(row, 4, "id")?.to_owned(),
            lane: Lane {
                observer: text(row, 5, "observer")?.into(),
                action: text(row, 6, "action")?.into(),
                hash: number(row, 7, "hash")?,
            },
            log_id: number(row, 8, "log id")?,
            event_id: text(row, 9, "event's id")?.to_owned(),
            entity: text(row, 10, "entity")?.to_owned(),
            key: optional(row, 11).map(str::to_owned),
            tenant: optional(row, 12).map(str::to_owned),
            priority: priority(text(row, 13, "priority")?)?,
            event: json(row, 14, "event")?,
        },
        attempts: number(row, 15, "attempts")?,
        history: json(row, 16, "history")?,
        enqueued_at: time(row, 17, "time")?,
    })
}

pub(super) fn first(row: &Row) -> Result<Option<First>, QueueError> {
    if row.is_empty() {
        return Ok(None);
    }
    Ok(Some(First {
        log_id: number(row, 0, "log id")?,
        event_id: text(row, 1, "event's id")?.to_owned(),
        attempts: number(row, 2, "attempts")?,
        error: last_error(optional(row, 3)),
    }))
}

pub(super) fn figures(row: &Row) -> Result<(String, Figures), QueueError> {
    // A counter is never below zero for longer than a script runs.
    let counter = |n| number::<i64>(row, n, "counter").map(|n| u64::try_from(n).unwrap_or(0));
    let mut by_attempts = [0; 5];
    for (n, figure) in (5..).zip(&mut by_attempts) {
        *figure = counter(n)?;
    }
    Ok((
        text(row, 0, "observer")?.to_owned(),
        Figures {
            pending: counter(1)?,
            due: counter(2)?,
            running: counter(3)?,
            behind: counter(4)?,
            by_attempts,
            oldest_seconds: counter(10)? / 1_000_000,
        },
    ))
}

/// How scripts write a state; nothing for all of them.
pub(super) fn state_letter(state: Option<State>) -> &'static str {
    match state {
        None => "",
        Some(State::Ready) => "r",
        Some(State::Running) => "c",
        Some(State::Behind) => "b",
        Some(State::Finished) => "f",
    }
}

/// A job as it is shown; in full where its event is in the row.
pub(super) fn shown(row: &Row) -> Result<Shown, QueueError> {
    let full = optional(row, 15).is_some();
    Ok(Shown {
        id: text(row, 1, "id")?.to_owned(),
        state: match text(row, 2, "state")? {
            "c" => State::Running,
            "b" => State::Behind,
            "f" => State::Finished,
            _ => State::Ready,
        },
        observer: text(row, 3, "observer")?.to_owned(),
        action: text(row, 4, "action")?.to_owned(),
        event_id: text(row, 5, "event's id")?.to_owned(),
        entity: text(row, 6, "entity")?.to_owned(),
        key: optional(row, 7).map(str::to_owned),
        tenant: optional(row, 8).map(str::to_owned),
        priority: format!("{:?}", priority(text(row, 9, "priority")?)?),
        attempts: number(row, 10, "attempts")?,
        enqueued_at: time(row, 11, "time")?,
        due: time(row, 12, "due time")?,
        worker: optional(row, 13).map(str::to_owned),
        error: last_error(optional(row, 14)),
        history: full.then(|| json(row, 14, "history")).transpose()?,
        event: full.then(|| json(row, 15, "event")).transpose()?,
    })
}
