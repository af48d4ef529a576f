//! Metrics of both programs, from their registries.

use listener::observers::describe_circuit_metrics;
use server::registry::MetricDescription;

use crate::{cell, table};

/// Describes the metrics of the listener.
pub fn of_listener() -> anyhow::Result<Vec<MetricDescription>> {
    let mut described = listener::telemetry::metrics::Metrics::new("shop/shop")?.describe();
    described.extend(describe_circuit_metrics()?);
    described.sort();
    Ok(described)
}

/// Describes the metrics of the operator.
pub fn of_operator() -> anyhow::Result<Vec<MetricDescription>> {
    Ok(operator::telemetry::metrics::Metrics::new()?.describe())
}

/// Writes the page.
pub(crate) fn body() -> anyhow::Result<String> {
    Ok(format!(
        "Both programs serve their metrics on `/metrics` in the text format of Prometheus, or in \
         OpenMetrics where a client prefers that. \
         [Alerts](../how-to/runbook.md) for them come with the chart, and so does \
         [a dashboard](../how-to/operate.md#dashboard). Labels are names of configuration, kinds and outcomes, never \
         keys, tenants or addresses. The series of an observer or an action that is removed go away.\n\n\
         ## Listener\n\n\
         Every metric has the label `listener`, the identity of the listener \
         (`namespace/name` by default), besides the labels in the table.\n\n{}\
         ## Operator\n\n{}",
        rows(of_listener()?),
        rows(of_operator()?)
    ))
}

fn rows(described: Vec<MetricDescription>) -> String {
    table(
        ["Metric", "Type", "Labels", "Meaning"],
        described.into_iter().map(|metric| {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            [
                format!("`{}`", metric.name),
                metric.kind.to_owned(),
                labels.join(", "),
                cell(&metric.help),
            ]
        }),
    )
}
