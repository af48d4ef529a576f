//! Telemetry that is sent over OTLP, as the variables of OpenTelemetry ask for. Nothing waits for it.

mod batch;
mod logs;
mod metrics;
mod metrics_client;
mod metrics_data;
mod resource;
mod settings;

use std::time::Duration;

use opentelemetry_otlp::ExporterBuildError;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub(crate) use batch::{BatchSender, Export, MAX_WAITING};
pub(crate) use logs::{LogSending, start as start_logs};
pub(crate) use metrics::start as start_metrics;
pub(crate) use resource::resource;
pub(crate) use settings::{SettingsError, Signal, protocol};

/// Longest time of a request with its retries.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a stop waits for what is left to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits for a sender that ends after `done`, but no longer than a stop may wait for it.
async fn until_flushed(sending: impl Future<Output = ()>, done: &CancellationToken) {
    let deadline = async {
        done.cancelled().await;
        sleep(FLUSH_TIMEOUT).await;
    };
    tokio::select! {
        () = sending => {}
        () = deadline => {}
    }
}

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
