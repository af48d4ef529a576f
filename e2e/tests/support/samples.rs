//! What the pods of a listener count, read from their metrics.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use crds::pod_status::STATUS_PORT;

use super::reach;
use super::room::Room;

/// The samples of a pod: of each name with its labels, the value.
pub(crate) struct Samples(Vec<(String, f64)>);

impl Samples {
    /// What a pod counts now.
    pub(crate) async fn of(room: &Room, pod: &str) -> Result<Self> {
        let text = reach::ask(room, pod, STATUS_PORT, "/metrics").await?;
        let mut samples = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').context("a line without a value")?;
            samples.push((name.to_owned(), value.parse()?));
        }
        Ok(Self(samples))
    }

    /// The sum of a metric over all its labels; none if there is no such metric.
    pub(crate) fn sum(&self, metric: &str) -> Option<f64> {
        let values = self.0.iter().filter(|(name, _)| {
            let rest = name.strip_prefix(metric);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        });
        let values: Vec<f64> = values.map(|(_, value)| *value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// A metric by the values of one of its labels.
    pub(crate) fn by(&self, metric: &str, label: &str) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        for (name, value) in &self.0 {
            let Some(labels) = name.strip_prefix(metric).and_then(|n| n.strip_prefix('{')) else {
                continue;
            };
            let labels = labels.trim_end_matches('}').split(',');
            let mut labels = labels.filter_map(|pair| pair.split_once('='));
            if let Some((_, of)) = labels.find(|(key, _)| *key == label) {
                *found.entry(of.trim_matches('"').to_owned()).or_default() += value;
            }
        }
        found
    }
}
