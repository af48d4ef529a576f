//! Metrics of both programs, from their registries.

use listener::observers::describe_circuit_metrics;
use server::registry::MetricDescription;

use crate::{cell, table};

/// Writes the page.
pub(crate) fn body() -> anyhow::Result<String> {
    let mut of_listener = listener::telemetry::metrics::Metrics::new("shop/shop")?.describe();
    of_listener.extend(describe_circuit_metrics()?);
    of_listener.sort();
    let of_operator = operator::telemetry::metrics::Metrics::new()?.describe();
    Ok(format!(
        "Both programs serve their metrics on `/metrics` in the text format of Prometheus. \
         [Alerts](../how-to/runbook.md) for them come with the chart.\n\n\
         ## Listener\n\n\
         Every metric has the label `listener`, the identity of the listener \
         (`namespace/name` by default), besides the labels in the table.\n\n{}\
         ## Operator\n\n{}",
        rows(of_listener),
        rows(of_operator)
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
