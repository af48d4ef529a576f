//! Telemetry that is sent over OTLP, as the variables of OpenTelemetry ask for. Nothing waits for it.

mod batch;
mod logs;
mod metrics;
mod metrics_client;
mod metrics_data;
mod resource;
mod settings;

use opentelemetry_otlp::ExporterBuildError;

pub(crate) use batch::{BatchSender, Export, MAX_WAITING};
pub(crate) use logs::{LogSending, start as start_logs};
pub(crate) use metrics::start as start_metrics;
pub(crate) use resource::resource;
pub(crate) use settings::{SettingsError, Signal, protocol};

/// Why a signal is not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OtlpError {
    /// A variable is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The exporter does not take its variables.
    #[error(
        "the exporter does not take its variables OTEL_EXPORTER_OTLP_*, as it does where one for an endpoint is no URL"
    )]
    Exporter(#[from] ExporterBuildError),
    /// There is no thread to send from.
    #[error("no thread can be started to send from")]
    Runtime(#[source] std::io::Error),
}
