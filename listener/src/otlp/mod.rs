//! Telemetry that is sent over OTLP, as the variables of OpenTelemetry ask for. Nothing waits for it.

mod metrics;
mod metrics_client;
mod metrics_data;
mod resource;
mod settings;

pub(crate) use metrics::start as start_metrics;
pub(crate) use resource::resource;
pub(crate) use settings::{SettingsError, Signal, protocol};
