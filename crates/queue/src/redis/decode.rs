//! Encoding of arguments and decoding of replies.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use crate::history::last_error;
use crate::{
    ClaimToken, ClaimedJob, Job, JobState, JobView, Lane, LaneBatch, LaneHead, Priority,
    QueueError, QueueStats,
};

/// Row of a reply; `None` for a field that a hash does not have.
pub(super) type Row = Vec<Option<String>>;

/// Longest duration that scripts get: a hundred years. Their numbers are exact far beyond.
const MAX_DURATION: Duration = Duration::from_hours(24 * 36_525);

pub(super) fn micros(duration: Duration) -> u128 {
    duration.min(MAX_DURATION).as_micros()
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
    QueueError::Unreadable(format!("its {what} is malformed"))
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

/// Decodes a claim, written as `job_ref:generation`.
pub(super) fn token(text: &str) -> Result<ClaimToken, QueueError> {
    let (job_ref, generation) = text.split_once(':').ok_or_else(|| unreadable("claim"))?;
    Ok(ClaimToken {
        job_ref: job_ref.to_owned(),
        generation: generation.parse().map_err(|_| unreadable("claim"))?,
    })
}

/// Groups claimed rows into batches; the rows of a batch are adjacent.
pub(super) fn batches(rows: &[Row]) -> Result<Vec<LaneBatch>, QueueError> {
    let mut batches: Vec<LaneBatch> = Vec::new();
    let mut last = "";
    for row in rows {
        let batch = text(row, 0, "batch")?;
        let job = claimed_job(row)?;
        match batches.last_mut() {
            Some(open) if batch == last => open.jobs.push(job),
            _ => batches.push(LaneBatch { jobs: vec![job] }),
        }
        last = batch;
    }
    Ok(batches)
}

fn claimed_job(row: &Row) -> Result<ClaimedJob, QueueError> {
    Ok(ClaimedJob {
        claim: ClaimToken {
            job_ref: text(row, 1, "reference")?.to_owned(),
            generation: number(row, 2, "generation")?,
        },
        queue_delay: Duration::from_micros(number(row, 3, "queue delay")?),
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

pub(super) fn lane_head(row: &Row) -> Result<Option<LaneHead>, QueueError> {
    if row.is_empty() {
        return Ok(None);
    }
    Ok(Some(LaneHead {
        log_id: number(row, 0, "log id")?,
        event_id: text(row, 1, "event's id")?.to_owned(),
        attempts: number(row, 2, "attempts")?,
        error: optional(row, 3).and_then(last_error),
    }))
}

pub(super) fn stats(row: &Row) -> Result<(String, QueueStats), QueueError> {
    // Below zero only while a script runs.
    let counter = |n| number::<i64>(row, n, "counter").map(|n| u64::try_from(n).unwrap_or(0));
    let mut by_attempts = [0; 5];
    for (n, count) in (5..).zip(&mut by_attempts) {
        *count = counter(n)?;
    }
    Ok((
        text(row, 0, "observer")?.to_owned(),
        QueueStats {
            pending: counter(1)?,
            available: counter(2)?,
            running: counter(3)?,
            blocked: counter(4)?,
            by_attempts,
            oldest_seconds: counter(10)? / 1_000_000,
        },
    ))
}

/// Encodes a filter of states; empty for all.
pub(super) fn state_letter(state: Option<JobState>) -> &'static str {
    match state {
        None => "",
        Some(JobState::Available) => "r",
        Some(JobState::Scheduled) => "d",
        Some(JobState::Running) => "c",
        Some(JobState::Blocked) => "b",
        Some(JobState::Completed) => "f",
    }
}

/// Decodes a job, in full if the row has its event.
pub(super) fn job_view(row: &Row) -> Result<JobView, QueueError> {
    let full = optional(row, 15).is_some();
    Ok(JobView {
        id: text(row, 1, "id")?.to_owned(),
        state: match text(row, 2, "state")? {
            "c" => JobState::Running,
            "b" => JobState::Blocked,
            "d" => JobState::Scheduled,
            "f" => JobState::Completed,
            _ => JobState::Available,
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
        scheduled_at: time(row, 12, "due time")?,
        worker: optional(row, 13).map(str::to_owned),
        error: optional(row, 14).and_then(last_error),
        history: full.then(|| json(row, 14, "history")).transpose()?,
        event: full.then(|| json(row, 15, "event")).transpose()?,
    })
}
