//! The task that sends metrics.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::Attributes;
use server::registry::Registry;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics_client::MetricsClient;
use super::metrics_data::metrics;
use super::settings::{SettingsError, Signal, metrics_interval, protocol};
use super::until_flushed;

/// Sends metrics at an interval.
#[derive(Debug)]
pub(crate) struct MetricsSender {
    client: MetricsClient,
    interval: Duration,
    resource: Resource,
    begun: SystemTime,
    is_failing: bool,
}

/// Starts to send the metrics of a listener, if the environment asks for it.
pub(crate) fn start(
    listener: &str,
    instance: &str,
) -> Result<Option<MetricsSender>, SettingsError> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(protocol) = protocol(Signal::Metrics, variable)? else {
        return Ok(None);
    };
    let attributes = super::resource(listener, instance, variable);
    let attributes = attributes.iter();
    let attributes =
        attributes.map(|(key, value)| opentelemetry::KeyValue::new(key.clone(), value.clone()));
    Ok(Some(MetricsSender {
        client: MetricsClient::new(protocol, variable)?,
        interval: metrics_interval(variable)?,
        resource: Resource {
            attributes: Attributes::from(attributes).0,
            ..Resource::default()
        },
        begun: SystemTime::now(),
        is_failing: false,
    }))
}

impl MetricsSender {
    /// Sends the metrics of a registry until `done`, and then once more, within a few seconds. `before_each` brings
    /// them up to date.
    pub(crate) async fn run(
        mut self,
        registry: Registry,
        before_each: impl Fn() + Send,
        done: CancellationToken,
    ) {
        until_flushed(self.send_until(&registry, before_each, &done), &done).await;
    }

    async fn send_until(
        &mut self,
        registry: &Registry,
        before_each: impl Fn() + Send,
        done: &CancellationToken,
    ) {
        let mut turns = interval_at(Instant::now() + self.interval, self.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = done.run_until_cancelled(turns.tick()).await.is_none();
            before_each();
            let is_sent = self.send(registry).await;
            self.note(is_sent);
            if is_last {
                return;
            }
        }
    }

    /// Sends the metrics as they are now. Returns whether the collector took them.
    async fn send(&self, registry: &Registry) -> bool {
        let scope = InstrumentationScope {
            name: "observer-listener".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope),
                    metrics: metrics(registry, self.begun),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        match timeout(self.client.timeout(), self.client.send(request)).await {
            Ok(Ok(())) => true,
            // The error may repeat what the collector said, so it is nobody's to trust.
            Ok(Err(error)) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "metrics were not taken"
                );
                false
            }
            Err(_) => false,
        }
    }

    /// Logs when the collector begins and ceases to refuse metrics. What it did not take, it gets with the next.
    fn note(&mut self, is_sent: bool) {
        if self.is_failing == is_sent {
            self.is_failing = !is_sent;
            if is_sent {
                tracing::info!("the collector takes metrics again");
            } else {
                tracing::warn!(
                    "the collector at {} takes no metrics; /metrics has them, and deliveries go on",
                    self.client.endpoint_by()
                );
            }
        }
    }
}
