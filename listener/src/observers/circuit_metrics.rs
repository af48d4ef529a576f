//! Circuit breakers of endpoints, lookups and the cache of observers, collected whenever metrics are scraped.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::SecondsFormat;
use crds::pod_status::{OpenCircuitBreaker, OpenCircuitBreakers};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use server::registry::MetricDescription;
use tokio::sync::watch;

use super::Observers;
use crate::cache::metrics::CacheMetrics;
use crate::circuit_breaker::CircuitState;
use crate::telemetry::lookup_metrics::LookupMetrics;
use crate::telemetry::metrics::OpenCircuits;
use crate::text::on_one_line;

/// Maximum number of endpoints in a report.
const MAX_ENDPOINTS: usize = 64;

/// Maximum length of an endpoint's name in bytes.
const MAX_NAME: usize = 256;

/// Collector of the circuit breakers of the current observers' actions.
#[derive(Clone, Debug)]
pub(crate) struct EndpointCollector {
    observers: watch::Receiver<Arc<Observers>>,
    /// Names and help texts; the values are set with each scrape.
    shown: (IntGaugeVec, IntCounterVec),
    /// Names and help texts of the metrics of lookups, and of the cache.
    others: (LookupMetrics, CacheMetrics),
}

impl EndpointCollector {
    pub(crate) fn new(
        observers: watch::Receiver<Arc<Observers>>,
    ) -> Result<Self, prometheus::Error> {
        let shown = metrics()?;
        let others = (LookupMetrics::new()?, CacheMetrics::new()?);
        Ok(Self {
            observers,
            shown,
            others,
        })
    }
}

impl OpenCircuits for EndpointCollector {
    /// Returns the endpoints whose circuit breaker is open. Those of one host and port count as one.
    fn open_circuits(&self) -> OpenCircuitBreakers {
        let observers = Arc::clone(&self.observers.borrow());
        let found = observers
            .open_circuits()
            .filter_map(|(target, standing, state)| {
                let mut endpoint = on_one_line(&target.action.endpoint_url());
                endpoint.truncate(endpoint.floor_char_boundary(MAX_NAME));
                Some(OpenCircuitBreaker {
                    since: standing.since?.to_rfc3339_opts(SecondsFormat::Secs, true),
                    endpoint,
                    state,
                    actions: 1,
                })
            });
        listed(found)
    }
}

fn listed(found: impl Iterator<Item = OpenCircuitBreaker>) -> OpenCircuitBreakers {
    let mut by_name: BTreeMap<String, OpenCircuitBreaker> = BTreeMap::new();
    for one in found {
        by_name
            .entry(one.endpoint.clone())
            .and_modify(|known| {
                known.actions += 1;
                known.state = known.state.max(one.state);
                if one.since < known.since {
                    known.since.clone_from(&one.since);
                }
            })
            .or_insert(one);
    }
    let mut endpoints: Vec<OpenCircuitBreaker> = by_name.into_values().collect();
    endpoints.sort_unstable();
    let left_out = endpoints.len().saturating_sub(MAX_ENDPOINTS);
    endpoints.truncate(MAX_ENDPOINTS);
    OpenCircuitBreakers {
        endpoints,
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    }
}

/// Describes the metrics of circuit breakers.
pub fn describe_circuit_metrics() -> Result<Vec<MetricDescription>, prometheus::Error> {
    let (state, opened) = metrics()?;
    let mut described = server::registry::describe(Some("observer"), &state);
    described.extend(server::registry::describe(Some("observer"), &opened));
    let lookups = LookupMetrics::new()?;
    described.extend(server::registry::describe(Some("observer"), &lookups));
    let cache = CacheMetrics::new()?;
    described.extend(server::registry::describe(Some("observer"), &cache));
    Ok(described)
}

fn metrics() -> Result<(IntGaugeVec, IntCounterVec), prometheus::Error> {
    let by = ["observer", "action"];
    let state = Opts::new(
        "circuit_breaker_state",
        "State of the circuit breaker of an action's endpoint: 0 closed, 1 half-open, 2 open",
    );
    let opened = Opts::new(
        "circuit_breaker_opened_total",
        "Times that the circuit breaker of an action's endpoint opened",
    );
    Ok((
        IntGaugeVec::new(state, &by)?,
        IntCounterVec::new(opened, &by)?,
    ))
}

impl Collector for EndpointCollector {
    fn desc(&self) -> Vec<&Desc> {
        let (state, opened) = &self.shown;
        let (lookups, cache) = &self.others;
        let circuits = state.desc().into_iter().chain(opened.desc());
        circuits.chain(lookups.desc()).chain(cache.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (state, opened) = &self.shown;
        state.reset();
        opened.reset();
        let observers = Arc::clone(&self.observers.borrow());
        for target in observers.targets() {
            let Some(standing) = target.action.endpoint_status() else {
                continue;
            };
            let labels = [&*target.name.observer, &*target.name.action];
            let number = match standing.circuit {
                CircuitState::Closed => 0,
                CircuitState::HalfOpen => 1,
                CircuitState::Open => 2,
            };
            state.with_label_values(&labels).set(number);
            opened.with_label_values(&labels).inc_by(standing.opened);
        }
        let circuits = state.collect().into_iter().chain(opened.collect());
        let lookups = observers.lookup_metrics().collect();
        let cache = observers.results().metrics().collect();
        circuits.chain(lookups).chain(cache).collect()
    }
}

#[cfg(test)]
mod tests {
    use crds::pod_status::BreakerState;

    use super::*;

    fn one(endpoint: &str, since: &str, state: BreakerState) -> OpenCircuitBreaker {
        OpenCircuitBreaker {
            since: since.to_owned(),
            endpoint: endpoint.to_owned(),
            state,
            actions: 1,
        }
    }

    #[test]
    fn actions_of_one_endpoint_are_one_and_the_oldest_is_first() {
        use BreakerState::{HalfOpen, Open};
        let listed = listed(
            [
                one("https://a:443", "2026-01-01T00:00:09Z", Open),
                one("https://b:443", "2026-01-01T00:00:05Z", HalfOpen),
                one("https://a:443", "2026-01-01T00:00:07Z", HalfOpen),
            ]
            .into_iter(),
        );
        let first = one("https://b:443", "2026-01-01T00:00:05Z", HalfOpen);
        let second = OpenCircuitBreaker {
            actions: 2,
            ..one("https://a:443", "2026-01-01T00:00:07Z", Open)
        };
        assert_eq!(listed.endpoints, [first, second]);
        assert_eq!(listed.left_out, 0);
    }

    #[test]
    fn report_is_bounded() {
        let many = (0..100).map(|n| {
            let since = "2026-01-01T00:00:00Z";
            one(&format!("https://{n}:443"), since, BreakerState::Open)
        });
        let listed = listed(many);
        assert_eq!(
            (listed.endpoints.len(), listed.left_out),
            (MAX_ENDPOINTS, 36)
        );
    }
}
