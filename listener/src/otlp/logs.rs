//! Log lines that are sent to a collector, as they stand on standard error.

use std::sync::Arc;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::{InstrumentationScope, SpanId, TraceFlags, TraceId};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{LogExporter, Protocol, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    LogBatch, LogExporter as _, SdkLogRecord, SdkLogger, SdkLoggerProvider,
};
use program::lines::{self, FieldValue, LineReader, LogLine};
use prometheus::IntCounter;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::batch::{BatchSender, Export, MAX_WAITING};
use super::{OtlpError, Signal, protocol, resource};

/// Lines on their way to the collector, until this is dropped.
#[derive(Debug)]
pub(crate) struct LogSending {
    _runtime: SilentRuntime,
    sending: JoinHandle<()>,
    done: CancellationToken,
}

/// A runtime of the sender alone. What its threads log, as the exporter's connections do, is sent nowhere.
#[derive(Debug)]
struct SilentRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

/// Starts to send the log lines of a listener, if the environment asks for it. What is dropped is counted in
/// `dropped`.
pub(crate) fn start(
    (listener, instance): (&str, &str),
    dropped: &IntCounter,
) -> Result<Option<LogSending>, OtlpError> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(protocol) = protocol(Signal::Logs, variable)? else {
        return Ok(None);
    };
    let runtime = SilentRuntime::new().map_err(OtlpError::Runtime)?;
    let handle = runtime.handle.clone();
    let inside = handle.enter();
    let mut exporter = match protocol {
        Protocol::Grpc => LogExporter::builder()
            .with_tonic()
            .with_tls_config(ClientTlsConfig::new().with_enabled_roots())
            .build()?,
        other => LogExporter::builder()
            .with_http()
            .with_protocol(other)
            .build()?,
    };
    drop(inside);
    exporter.set_resource(&resource(listener, instance, variable));
    let (queue, waiting) = mpsc::channel(MAX_WAITING);
    let scope = InstrumentationScope::builder("observer-listener").build();
    let sender = BatchSender::new(LogBatches { exporter, scope }, waiting, dropped.clone());
    let done = CancellationToken::new();
    let sending = handle.spawn(sender.run(done.clone()));
    lines::set_reader(Some(Arc::new(LogQueue {
        queue,
        logger: SdkLoggerProvider::builder().build().logger(""),
        dropped: dropped.clone(),
    })));
    Ok(Some(LogSending {
        _runtime: runtime,
        sending,
        done,
    }))
}

impl LogSending {
    /// Sends what is left, within a few seconds.
    pub(crate) async fn end(mut self) {
        lines::set_reader(None);
        self.done.cancel();
        let _ended = (&mut self.sending).await;
    }
}

impl Drop for LogSending {
    fn drop(&mut self) {
        lines::set_reader(None);
    }
}

impl SilentRuntime {
    fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp-logs")
            .enable_all()
            .on_thread_start(lines::silence_thread)
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }
}

impl Drop for SilentRuntime {
    fn drop(&mut self) {
        // Others wait, which a thread of another runtime must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The way of lines to the sender.
struct LogQueue {
    queue: mpsc::Sender<SdkLogRecord>,
    logger: SdkLogger,
    dropped: IntCounter,
}

impl LineReader for LogQueue {
    fn take(&self, line: LogLine) {
        match self.queue.try_reserve() {
            Ok(room) => room.send(record(&self.logger, line)),
            Err(_) => self.dropped.inc(),
        }
    }
}

/// What sends batches of lines.
#[derive(Debug)]
struct LogBatches {
    exporter: LogExporter,
    scope: InstrumentationScope,
}

impl Export for LogBatches {
    type Item = SdkLogRecord;

    const NAMES: (&str, &str) = ("log lines", "observer_telemetry_logs_dropped_total");

    async fn export(&self, batch: Vec<SdkLogRecord>) -> OTelSdkResult {
        let all: Vec<_> = batch.iter().map(|record| (record, &self.scope)).collect();
        self.exporter.export(LogBatch::new(&all)).await
    }
}

fn record(logger: &SdkLogger, line: LogLine) -> SdkLogRecord {
    let mut record = logger.create_log_record();
    record.set_timestamp(line.at);
    record.set_observed_timestamp(line.at);
    record.set_target(line.target);
    record.set_severity_text(line.level.as_str());
    record.set_severity_number(match line.level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    });
    record.set_body(AnyValue::from(line.message));
    let id = |name: &str| {
        let mut fields = line.fields.iter();
        let found = fields.find(|(known, _)| *known == name);
        found.and_then(|(_, value)| match value {
            FieldValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    };
    let trace = id("trace_id").and_then(|id| TraceId::from_hex(id).ok());
    // Only that of a span that is recorded stands in a line.
    let span = id("span_id").and_then(|id| SpanId::from_hex(id).ok());
    let has_trace = trace.is_some();
    if let Some(trace) = trace {
        let flags = span.map_or(TraceFlags::NOT_SAMPLED, |_| TraceFlags::SAMPLED);
        record.set_trace_context(trace, span.unwrap_or(SpanId::INVALID), Some(flags));
    }
    for (name, value) in line.fields {
        if has_trace && matches!(name, "trace_id" | "span_id") {
            continue;
        }
        let value = match value {
            FieldValue::Text(text) => AnyValue::from(text),
            FieldValue::Int(number) => AnyValue::from(number),
            FieldValue::Float(number) => AnyValue::from(number),
            FieldValue::Bool(is) => AnyValue::from(is),
        };
        record.add_attribute(name, value);
    }
    record
}
