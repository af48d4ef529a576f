//! The task that sends telemetry in batches. It has a bounded queue, and nothing waits for it: what does not fit,
//! and what the collector does not take, is dropped and counted.

use std::time::Duration;

use opentelemetry_sdk::error::OTelSdkResult;
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{REQUEST_TIMEOUT, until_flushed};

/// Most items that wait to be sent, some kilobytes each at most.
pub(crate) const MAX_WAITING: usize = 4096;

/// Most items of one request.
const MAX_BATCH: usize = 1024;

/// How long items are collected for one request.
const LINGER: Duration = Duration::from_millis(500);

/// What sends a batch.
pub(crate) trait Export: Send + Sync {
    /// What is sent.
    type Item: Send;

    /// What it is called, and the metric that counts what is dropped.
    const NAMES: (&str, &str);

    /// Sends a batch.
    fn export(&self, batch: Vec<Self::Item>) -> impl Future<Output = OTelSdkResult> + Send;
}

/// The sending end of a queue.
#[derive(Debug)]
pub(crate) struct BatchSender<E: Export> {
    exporter: E,
    waiting: mpsc::Receiver<E::Item>,
    dropped: IntCounter,
    is_failing: bool,
}

impl<E: Export> BatchSender<E> {
    /// Creates the end that sends what waits. What it drops is counted in `dropped`.
    pub(crate) fn new(exporter: E, waiting: mpsc::Receiver<E::Item>, dropped: IntCounter) -> Self {
        Self {
            exporter,
            waiting,
            dropped,
            is_failing: false,
        }
    }

    /// Sends items until `done`, and then what is left, within a few seconds.
    pub(crate) async fn run(mut self, done: CancellationToken) {
        until_flushed(self.send_until(&done), &done).await;
    }

    async fn send_until(&mut self, done: &CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let received = self.waiting.recv_many(&mut batch, MAX_BATCH);
            let _stopped = done.run_until_cancelled(received).await;
            if batch.len() < MAX_BATCH {
                let _stopped = done.run_until_cancelled(sleep(LINGER)).await;
                while batch.len() < MAX_BATCH
                    && let Ok(item) = self.waiting.try_recv()
                {
                    batch.push(item);
                }
            }
            if batch.is_empty() {
                return;
            }
            let count = batch.len();
            let is_sent = self.send(std::mem::take(&mut batch)).await;
            self.note(count, is_sent);
        }
    }

    /// Sends a batch. Returns whether the collector took it.
    async fn send(&self, batch: Vec<E::Item>) -> bool {
        match timeout(REQUEST_TIMEOUT, self.exporter.export(batch)).await {
            Ok(Ok(())) => true,
            // The error may repeat what the collector said, so it is nobody's to trust.
            Ok(Err(error)) => {
                tracing::debug!(%error, "{} were not taken", E::NAMES.0);
                false
            }
            Err(_) => false,
        }
    }

    /// Counts a batch that was dropped, and logs when that begins and ends.
    fn note(&mut self, count: usize, is_sent: bool) {
        if !is_sent {
            self.dropped
                .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
        if self.is_failing == is_sent {
            self.is_failing = !is_sent;
            let (items, metric) = E::NAMES;
            if is_sent {
                tracing::info!("the collector takes {items} again");
            } else {
                tracing::warn!(
                    "the collector of OTEL_EXPORTER_OTLP_* takes no {items}: they are dropped and counted in {metric}; \
                     deliveries go on"
                );
            }
        }
    }
}
