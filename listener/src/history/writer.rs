//! Writer of documents: one call to the search index at a time, repeated for as long as it fails.

use std::sync::Arc;
use std::time::Duration;

use backoff::Backoff;
use search::{Document, SearchError, SearchIndex, WriteReport};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::holding::{Outgoing, Receipt};
use super::outcome::OutcomeError;
use super::settle::{Candidate, Sources, Unsettled, settle};
use crate::telemetry::metrics::SearchMetrics;

/// Maximum number of documents in one call.
pub(super) const MAX_DOCUMENTS: usize = 500;

/// A call takes no more documents once it has this many bytes.
pub(super) const MAX_BYTES: u64 = 4 << 20;

/// Backoff of a call that fails.
const RETRY: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));

/// Time between two log entries of an index that keeps failing.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Maximum number of rejected documents that a call logs.
const MAX_REJECTED_LOGGED: usize = 3;

/// Why documents were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The search index failed.
    #[error(transparent)]
    Index(#[from] SearchError),
    /// It could not be found out where deliveries are.
    #[error(transparent)]
    Outcome(#[from] OutcomeError),
}

/// Documents of a call, with as many receipts.
type Payload = (Vec<Document>, Vec<Receipt>);

/// The end of a call.
#[derive(Debug)]
pub(super) struct Call {
    payload: Payload,
    result: Result<WriteReport, WriteError>,
}

/// Writer of documents to a search index.
#[derive(Debug)]
pub(super) struct Writer {
    index: Arc<dyn SearchIndex>,
    metrics: SearchMetrics,
    /// Whether the index is prepared.
    prepared: bool,
    running: JoinSet<Call>,
    /// What is written again, and when.
    retry: Option<(Instant, Payload)>,
    backoff: Backoff,
    /// Why the last call failed, and when that was logged last.
    failing: Option<(String, Instant)>,
}

impl Writer {
    /// Creates a writer to an index that is not prepared yet.
    pub(super) fn new(index: Arc<dyn SearchIndex>, metrics: SearchMetrics) -> Self {
        Self {
            index,
            metrics,
            prepared: false,
            running: JoinSet::new(),
            retry: None,
            backoff: RETRY,
            failing: None,
        }
    }

    /// Returns whether a call can start with other documents.
    pub(super) fn is_free(&self) -> bool {
        self.running.is_empty() && self.retry.is_none()
    }

    /// Returns whether the index was prepared, and the last call succeeded.
    pub(super) const fn is_well(&self) -> bool {
        self.prepared && self.failing.is_none()
    }

    /// Returns why nothing can be written now, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failing.as_ref().map(|(why, _)| why.as_str())
    }

    /// Starts a call; without documents, only if the index is not prepared. What nothing has been reported
    /// of is looked up first, where sources are given.
    pub(super) fn start(&mut self, documents: Vec<Outgoing>, sources: Option<Sources>) {
        let payload = documents.into_iter();
        let payload = payload.map(|outgoing| (outgoing.document, outgoing.receipt));
        self.call(payload.unzip(), sources);
    }

    fn call(&mut self, mut payload: Payload, sources: Option<Sources>) {
        if payload.0.is_empty() && self.prepared {
            return;
        }
        let (index, prepared) = (Arc::clone(&self.index), self.prepared);
        self.running.spawn(async move {
            let result = write(&*index, prepared, &mut payload, sources).await;
            Call { payload, result }
        });
    }

    /// Starts the call again that has failed, if it is due, with as many more documents as there is room
    /// for: among others an index can tell a bad document from one that it cannot store for now. `more` takes
    /// up to so many, and so many bytes.
    pub(super) fn start_retry(
        &mut self,
        now: Instant,
        sources: Option<Sources>,
        more: impl FnOnce(usize, u64) -> Vec<Outgoing>,
    ) {
        let Some((_, mut payload)) = self.retry.take_if(|(due, _)| *due <= now) else {
            return;
        };
        let bytes = payload.1.iter().map(Receipt::bytes).sum();
        let room = MAX_DOCUMENTS.saturating_sub(payload.0.len());
        for outgoing in more(room, MAX_BYTES.saturating_sub(bytes)) {
            payload.0.push(outgoing.document);
            payload.1.push(outgoing.receipt);
        }
        self.call(payload, sources);
    }

    /// Waits for the end of a call; `None` if none runs.
    pub(super) async fn next(&mut self) -> Option<Result<Call, JoinError>> {
        self.running.join_next().await
    }

    /// Handles the end of a call. Returns the receipts of the documents that are done with.
    pub(super) fn ended(&mut self, call: Call) -> Vec<Receipt> {
        let report = match call.result {
            Ok(report) => report,
            Err(error) => {
                self.failed(&error);
                let due = Instant::now() + self.backoff.next_delay();
                self.retry = Some((due, call.payload));
                return Vec::new();
            }
        };
        self.prepared = true;
        self.backoff.reset();
        if self.failing.take().is_some() {
            tracing::info!(
                backend = self.index.backend(),
                "documents of the history are written again"
            );
        }
        let count = |result: &str, n: usize| {
            let counter = self.metrics.documents.with_label_values(&[result]);
            counter.inc_by(n as u64);
        };
        count("written", report.written);
        count("rejected", report.rejected.len());
        for rejected in report.rejected.iter().take(MAX_REJECTED_LOGGED) {
            tracing::warn!(
                event = rejected.id,
                reason = rejected.reason,
                "the search index rejects the document of an event, which is missing in the history"
            );
        }
        call.payload.1
    }

    fn failed(&mut self, error: &WriteError) {
        self.metrics.errors.inc();
        let (why, now) = (error.to_string(), Instant::now());
        let is_logged = self
            .failing
            .as_ref()
            .is_some_and(|(_, logged)| now.saturating_duration_since(*logged) < LOG_INTERVAL);
        let logged = match &self.failing {
            Some((_, logged)) if is_logged => *logged,
            _ => {
                tracing::warn!(
                    backend = self.index.backend(),
                    error = why,
                    "cannot write documents of the history; deliveries go on, and it catches up later"
                );
                now
            }
        };
        self.failing = Some((why, logged));
    }
}

async fn write(
    index: &dyn SearchIndex,
    prepared: bool,
    (documents, receipts): &mut Payload,
    sources: Option<Sources>,
) -> Result<WriteReport, WriteError> {
    if !prepared {
        index.prepare().await?;
    }
    if documents.is_empty() {
        return Ok(WriteReport::default());
    }
    if let Some(sources) = &sources {
        let both = documents.iter_mut().zip(receipts.iter());
        let mut candidates: Vec<Candidate<'_>> = both
            .map(|(document, receipt)| Candidate {
                document,
                origin: receipt.read.map(|read| read.origin),
            })
            .collect();
        settle(sources, &mut candidates, Unsettled::Unreported).await?;
    }
    Ok(index.write(documents).await?)
}
