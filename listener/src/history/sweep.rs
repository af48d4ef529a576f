//! Sweep: compares documents that stay unfinished with the checkpoints, the jobs and the dead letters, and
//! completes them. So what reports would have said is made good, where a process ended before it could
//! make them, or had no room for them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use search::{PageKey, SearchIndex};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::settle::{Candidate, Sources, Unsettled, settle};
use super::writer::WriteError;
use crate::telemetry::metrics::SearchMetrics;

/// Documents of younger events are left alone: their reports may be on their way.
const MIN_AGE: TimeDelta = TimeDelta::seconds(5);

/// Time until a sweep that has become necessary.
const SOON: Duration = Duration::from_secs(6);

/// Time between two sweeps by the process that owns the first shard.
const INTERVAL: Duration = Duration::from_mins(5);

/// A sweep takes at most this part of the time, so that millions of waiting jobs are not looked up all
/// the time.
const REST_FACTOR: u32 = 10;

/// Documents of one page, and the pause between two.
const PAGE: u32 = 200;
const PAGE_PAUSE: Duration = Duration::from_millis(50);

/// How a sweep ended.
#[derive(Debug)]
pub(super) struct Swept {
    took: Duration,
    result: Result<(), WriteError>,
}

/// When to sweep, and the sweep that runs.
#[derive(Debug)]
pub(super) struct Sweeper {
    index: Arc<dyn SearchIndex>,
    metrics: SearchMetrics,
    running: JoinSet<Swept>,
    due: Option<Instant>,
    /// When the next sweep may begin, after a long one.
    rested: Option<Instant>,
}

impl Sweeper {
    /// Sweeps nothing until it is told to.
    pub(super) fn new(index: Arc<dyn SearchIndex>, metrics: SearchMetrics) -> Self {
        Self {
            index,
            metrics,
            running: JoinSet::new(),
            due: None,
            rested: None,
        }
    }

    /// Has the next sweep begin soon.
    pub(super) fn needed(&mut self, now: Instant) {
        let soon = now + SOON;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Has sweeps begin from time to time, as the owner of the first shard.
    pub(super) fn needed_regularly(&mut self, now: Instant) {
        self.due.get_or_insert(now + INTERVAL);
    }

    /// Starts a sweep, if one is due and none runs.
    pub(super) fn start(&mut self, now: Instant, sources: &Sources) {
        let is_tired = self.rested.is_some_and(|rested| rested > now);
        if !self.running.is_empty() || is_tired || self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        let (index, metrics) = (Arc::clone(&self.index), self.metrics.clone());
        let sources = sources.clone();
        self.running.spawn(async move {
            let began = Instant::now();
            let result = sweep(&*index, &metrics, &sources, Utc::now() - MIN_AGE).await;
            Swept {
                took: began.elapsed(),
                result,
            }
        });
    }

    /// Waits for the end of a sweep; `None` if none runs.
    pub(super) async fn next(&mut self) -> Option<Result<Swept, tokio::task::JoinError>> {
        self.running.join_next().await
    }

    /// Handles the end of a sweep.
    pub(super) fn ended(&mut self, swept: Result<Swept, tokio::task::JoinError>, now: Instant) {
        let took = match swept {
            Ok(Swept { took, result }) => {
                if let Err(error) = result {
                    self.metrics.errors.inc();
                    tracing::debug!(%error, "cannot compare unfinished documents; retrying");
                    self.needed(now);
                }
                took
            }
            Err(error) => {
                tracing::error!(%error, "the comparison of unfinished documents panicked");
                INTERVAL
            }
        };
        self.rested = Some(now + took * REST_FACTOR);
    }
}

/// Compares all unfinished documents of events that occurred before a time.
async fn sweep(
    index: &dyn SearchIndex,
    metrics: &SearchMetrics,
    sources: &Sources,
    before: DateTime<Utc>,
) -> Result<(), WriteError> {
    let mut after: Option<PageKey> = None;
    loop {
        let listener = &*sources.listener;
        let mut page = index
            .unfinished(listener, before, after.as_ref(), PAGE)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(PageKey::of(last));
        metrics.checked.inc_by(page.len() as u64);
        let mut candidates: Vec<Candidate<'_>> = page
            .iter_mut()
            .map(|document| Candidate {
                document,
                origin: None,
            })
            .collect();
        let changed = settle(sources, &mut candidates, Unsettled::Unfinished).await?;
        let documents = page.into_iter().zip(changed);
        let changed: Vec<_> = documents
            .filter_map(|(document, changed)| changed.then_some(document))
            .collect();
        if !changed.is_empty() {
            let report = index.write(&changed).await?;
            metrics.repaired.inc_by(report.written as u64);
        }
        tokio::time::sleep(PAGE_PAUSE).await;
    }
}
