//! The task that sends spans. It has a bounded queue, and nothing waits for it: what does not fit, and what the
//! collector does not take, is dropped and counted.

use std::time::Duration;

use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::IntCounter;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use super::spans::Spans;
use crate::otlp::{SettingsError, resource};

/// Most spans that wait to be sent, some kilobytes each at most.
const MAX_WAITING: usize = 4096;

/// Most spans of one request.
const MAX_BATCH: usize = 1024;

/// How long spans are collected for one request.
const LINGER: Duration = Duration::from_millis(500);

/// Longest time of a request with its retries.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop waits for the spans that are left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there are no traces.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// A variable is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The exporter does not take its variables.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT is no URL to send to")]
    Exporter(#[from] ExporterBuildError),
}

/// The sending end of spans.
#[derive(Debug)]
pub(crate) struct SpanSender {
    exporter: SpanExporter,
    waiting: mpsc::Receiver<SpanData>,
    dropped: IntCounter,
    is_failing: bool,
}

/// Starts traces for a listener, if the environment asks for them. What is dropped is counted in `dropped`.
pub(crate) fn start(
    (listener, instance): (&str, &str),
    dropped: &IntCounter,
) -> Result<Option<(Spans, SpanSender)>, TraceError> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(settings) = Settings::read(variable)? else {
        return Ok(None);
    };
    let mut exporter = match settings.protocol {
        Protocol::Grpc => SpanExporter::builder()
            .with_tonic()
            .with_tls_config(ClientTlsConfig::new().with_enabled_roots())
            .build()?,
        other => SpanExporter::builder()
            .with_http()
            .with_protocol(other)
            .build()?,
    };
    exporter.set_resource(&resource(listener, instance, variable));
    let (queue, waiting) = mpsc::channel(MAX_WAITING);
    let spans = Spans::new(queue, settings.sampler, (listener, dropped), rand::random());
    let sender = SpanSender {
        exporter,
        waiting,
        dropped: dropped.clone(),
        is_failing: false,
    };
    Ok(Some((spans, sender)))
}

impl SpanSender {
    /// Sends spans until `done`, and then what is left, within a few seconds.
    pub(crate) async fn run(mut self, done: CancellationToken) {
        let deadline = async {
            done.cancelled().await;
            sleep(FLUSH_TIMEOUT).await;
        };
        tokio::select! {
            () = self.send_until(&done) => {}
            () = deadline => {}
        }
    }

    async fn send_until(&mut self, done: &CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let received = self.waiting.recv_many(&mut batch, MAX_BATCH);
            let _stopped = done.run_until_cancelled(received).await;
            if batch.len() < MAX_BATCH {
                let _stopped = done.run_until_cancelled(sleep(LINGER)).await;
                while batch.len() < MAX_BATCH
                    && let Ok(span) = self.waiting.try_recv()
                {
                    batch.push(span);
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
    async fn send(&self, batch: Vec<SpanData>) -> bool {
        match timeout(EXPORT_TIMEOUT, self.exporter.export(batch)).await {
            Ok(Ok(())) => true,
            // The error may repeat what the collector said, so it is nobody's to trust.
            Ok(Err(error)) => {
                tracing::debug!(%error, "spans were not taken");
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
            if is_sent {
                tracing::info!("the collector takes spans again");
            } else {
                tracing::warn!(
                    "the collector at OTEL_EXPORTER_OTLP_ENDPOINT takes no spans: they are dropped and counted in \
                     observer_telemetry_spans_dropped_total; deliveries go on"
                );
            }
        }
    }
}
