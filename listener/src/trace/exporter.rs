//! What sends spans.

use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prometheus::IntCounter;
use tokio::sync::mpsc;

use super::settings::Settings;
use super::spans::Spans;
use crate::otlp::{BatchSender, Export, MAX_WAITING, OtlpError, resource};

/// What sends batches of spans.
#[derive(Debug)]
pub(crate) struct SpanBatches(SpanExporter);

impl Export for SpanBatches {
    type Item = SpanData;

    const NAMES: (&str, &str) = ("spans", "observer_telemetry_spans_dropped_total");

    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.export(batch).await
    }
}

/// Starts traces for a listener, if the environment asks for them. What is dropped is counted in `dropped`.
pub(crate) fn start(
    (listener, instance): (&str, &str),
    dropped: &IntCounter,
) -> Result<Option<(Spans, BatchSender<SpanBatches>)>, OtlpError> {
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
    let sender = BatchSender::new(SpanBatches(exporter), waiting, dropped.clone());
    Ok(Some((spans, sender)))
}
