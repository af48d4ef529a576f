//! A session that is read: what comes is appended in batches, and pages of backfills between them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use pgoutput::LogicalMessage;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::changes::Changes;
use super::error::IngestError;
use super::pages::{Page, PageEnd, PageRequest};
use super::rows::RowBatch;
use super::store::{Progress, SourceStore};
use super::strikes::Verdict;
use crate::backfill::BackfillStore;
use crate::telemetry::backfill_metrics::BackfillMetrics;
use crate::telemetry::source_metrics::SourceMetrics;

/// Rows, and bytes of them, that are saved together.
const MAX_ROWS: usize = 2000;
const MAX_BYTES: usize = 2 << 20;

/// A session that is read.
pub(super) struct Stream<'a> {
    pub(super) session: ReplicationClient,
    pub(super) changes: Changes,
    pub(super) store: &'a SourceStore,
    pub(super) epoch: i64,
    /// What is saved.
    pub(super) saved: Progress,
    pub(super) saved_at: Instant,
    /// When the last transaction was committed.
    pub(super) committed_at: Option<DateTime<Utc>>,
    pub(super) metrics: &'a SourceMetrics,
    /// What backfills ask for.
    pub(super) pages: mpsc::Receiver<PageRequest>,
    /// A page that waits to be appended.
    pub(super) page: Option<(Box<Page>, oneshot::Sender<PageEnd>)>,
    pub(super) backfills: BackfillStore,
    pub(super) backfill_metrics: &'a BackfillMetrics,
}

impl Stream<'_> {
    pub(super) async fn run(&mut self, renewal: Duration) -> Result<(), IngestError> {
        let mut ticks = interval(renewal);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What is there already is read first, so that many small transactions are saved together.
            let event = if let Some(event) = self.session.recv().now_or_never() {
                event?
            } else {
                if !self.changes.is_in_transaction() {
                    self.save().await?;
                    self.append_page().await?;
                }
                tokio::select! {
                    event = self.session.recv() => event?,
                    Some(request) = self.pages.recv() => {
                        self.note(request);
                        continue;
                    }
                    _ = ticks.tick() => {
                        self.renew().await?;
                        continue;
                    }
                }
            };
            let Some(event) = event else {
                // The server ended the session, as it does when it stops.
                let ended = std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                return Err(PgWireError::from(ended).into());
            };
            self.read(event)?;
            if let Ok(request) = self.pages.try_recv() {
                self.note(request);
            }
            if self.page.is_some() && !self.changes.is_in_transaction() {
                self.append_page().await?;
            }
            let (rows, bytes) = self.changes.waiting();
            if rows >= MAX_ROWS || bytes >= MAX_BYTES {
                self.save().await?;
            } else if self.saved_at.elapsed() > renewal {
                self.renew().await?;
            }
        }
    }

    fn read(&mut self, event: ReplicationEvent) -> Result<(), IngestError> {
        match event {
            ReplicationEvent::Begin {
                final_lsn,
                xid,
                commit_time_micros,
            } => {
                let begun = self.changes.begin((xid, final_lsn), commit_time_micros);
                self.committed_at = begun;
            }
            ReplicationEvent::XLogData { data, .. } => self.changes.message(&data)?,
            ReplicationEvent::Message {
                transactional,
                prefix,
                content,
                ..
            } => self.changes.custom_event(&LogicalMessage {
                transactional,
                prefix: &prefix,
                content: &content,
            }),
            ReplicationEvent::Commit { end_lsn, .. } => self.changes.commit(end_lsn),
            ReplicationEvent::KeepAlive { wal_end, .. } => self.changes.advance(wal_end),
            ReplicationEvent::StoppedAt { .. } => {}
        }
        Ok(())
    }

    /// Saves the rows that wait, if there are any.
    async fn save(&mut self) -> Result<(), IngestError> {
        if self.changes.waiting().0 == 0 {
            return Ok(());
        }
        let Some((rows, progress)) = self.changes.take() else {
            return Ok(());
        };
        self.append(rows, progress).await
    }

    /// Takes note of what a backfill asks for.
    fn note(&mut self, request: PageRequest) {
        match request {
            PageRequest::Begin(entity, row_columns, told) => {
                self.changes.strikes.begin(entity, row_columns);
                // Who asked has ended with the session.
                let _ = told.send(());
            }
            PageRequest::Append(page, told) => self.page = Some((page, told)),
        }
    }

    /// Appends the page that waits, once all that it has seen is read.
    async fn append_page(&mut self) -> Result<(), IngestError> {
        let end = self.changes.end();
        let Some((page, told)) = self.page.take_if(|(page, _)| end >= page.end) else {
            return Ok(());
        };
        self.save().await?;
        let verdict = self.changes.strikes.judge(&page.snapshot, &page.rows);
        self.changes.strikes.end();
        let ended = match verdict {
            Verdict::Discard => PageEnd::Discarded,
            Verdict::Append(struck) => {
                let mut page = *page;
                let mut place = 0..;
                page.rows.retain(|_| {
                    place
                        .next()
                        .is_none_or(|n| struck.binary_search(&n).is_err())
                });
                let progress = self
                    .changes
                    .take()
                    .map_or(self.saved, |(_, progress)| progress);
                let what = (page, &self.backfills);
                let appended = self.store.append_page(self.epoch, progress, what).await?;
                self.backfill_metrics.superseded.inc_by(struck.len() as u64);
                if appended {
                    self.saved = progress;
                    self.saved_at = Instant::now();
                    self.session.update_applied_lsn(progress.confirmed);
                    PageEnd::Appended
                } else {
                    PageEnd::Over
                }
            }
        };
        let _ = told.send(ended);
        Ok(())
    }

    /// Renews the lease, and moves the position where nothing else does.
    async fn renew(&mut self) -> Result<(), IngestError> {
        if self.changes.is_idle()
            && let Some((rows, progress)) = self.changes.take()
        {
            return self.append(rows, progress).await;
        }
        self.append(RowBatch::default(), self.saved).await
    }

    async fn append(&mut self, rows: RowBatch, progress: Progress) -> Result<(), IngestError> {
        let count = rows.len();
        self.store.append(self.epoch, progress, rows).await?;
        self.saved = progress;
        self.saved_at = Instant::now();
        // Only now, as it is in the log for sure.
        self.session.update_applied_lsn(progress.confirmed);
        if count > 0 {
            self.metrics
                .changes
                .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
            let delay = self
                .committed_at
                .and_then(|at| (Utc::now() - at).to_std().ok());
            self.metrics
                .delay
                .set(delay.unwrap_or_default().as_secs_f64());
        }
        Ok(())
    }
}
