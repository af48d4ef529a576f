//! How the receivers of actions are doing, looked up whenever metrics are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::SecondsFormat;
use crds::pod_status::{LeftAlone, ReceiverLeftAlone};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use server::registry::MetricDescription;
use tokio::sync::watch;

use super::Observers;
use crate::admission::circuit_breaker::Condition;
use crate::telemetry::metrics::OpenCircuits;
use crate::text::on_one_line;

/// Most receivers that a report has.
const MOST: usize = 64;

/// Longest name of a receiver in bytes.
const MAX_NAME: usize = 256;

/// Says of each action of the observers of the moment whether its receiver is left alone.
#[derive(Clone, Debug)]
pub(crate) struct Receivers {
    observers: watch::Receiver<Arc<Observers>>,
    /// Names and help texts; the values are found anew each time.
    shown: (IntGaugeVec, IntCounterVec),
}

impl Receivers {
    pub(crate) fn new(
        observers: watch::Receiver<Arc<Observers>>,
    ) -> Result<Self, prometheus::Error> {
        let shown = metrics()?;
        Ok(Self { observers, shown })
    }
}

impl OpenCircuits for Receivers {
    /// The receivers that are left alone now. Those of one host and port are told of as one.
    fn open_circuits(&self) -> LeftAlone {
        let observers = Arc::clone(&self.observers.borrow());
        let found = observers
            .open_circuits()
            .filter_map(|(target, standing, state)| {
                let mut receiver = on_one_line(&target.action.receiver());
                receiver.truncate(receiver.floor_char_boundary(MAX_NAME));
                Some(ReceiverLeftAlone {
                    since: standing.since?.to_rfc3339_opts(SecondsFormat::Secs, true),
                    receiver,
                    state,
                    actions: 1,
                })
            });
        listed(found)
    }
}

fn listed(found: impl Iterator<Item = ReceiverLeftAlone>) -> LeftAlone {
    let mut by_name: BTreeMap<String, ReceiverLeftAlone> = BTreeMap::new();
    for one in found {
        by_name
            .entry(one.receiver.clone())
            .and_modify(|known| {
                known.actions += 1;
                known.state = known.state.max(one.state);
                if one.since < known.since {
                    known.since.clone_from(&one.since);
                }
            })
            .or_insert(one);
    }
    let mut receivers: Vec<ReceiverLeftAlone> = by_name.into_values().collect();
    receivers.sort_unstable();
    let left_out = receivers.len().saturating_sub(MOST);
    receivers.truncate(MOST);
    LeftAlone {
        receivers,
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    }
}

/// Describes the metrics of circuit breakers.
pub fn describe_circuit_metrics() -> Result<Vec<MetricDescription>, prometheus::Error> {
    let (state, opened) = metrics()?;
    let mut described = server::registry::describe(Some("observer"), &state);
    described.extend(server::registry::describe(Some("observer"), &opened));
    Ok(described)
}

fn metrics() -> Result<(IntGaugeVec, IntCounterVec), prometheus::Error> {
    let by = ["observer", "action"];
    let state = Opts::new(
        "breaker_state",
        "Whether the receiver of an action is left alone, as it fails: 0 no, 1 it is being looked whether it is back, 2 yes",
    );
    let opened = Opts::new(
        "breaker_opened_total",
        "Times that leaving the receiver of an action alone was begun",
    );
    Ok((
        IntGaugeVec::new(state, &by)?,
        IntCounterVec::new(opened, &by)?,
    ))
}

impl Collector for Receivers {
    fn desc(&self) -> Vec<&Desc> {
        let (state, opened) = &self.shown;
        state.desc().into_iter().chain(opened.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (state, opened) = &self.shown;
        state.reset();
        opened.reset();
        let observers = Arc::clone(&self.observers.borrow());
        for target in observers.targets() {
            let Some(standing) = target.action.standing() else {
                continue;
            };
            let labels = [&*target.name.0, &*target.name.1];
            let number = match standing.condition {
                Condition::Closed => 0,
                Condition::HalfOpen => 1,
                Condition::Open => 2,
            };
            state.with_label_values(&labels).set(number);
            opened.with_label_values(&labels).inc_by(standing.opened);
        }
        state
            .collect()
            .into_iter()
            .chain(opened.collect())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crds::pod_status::BreakerState;

    use super::*;

    fn one(receiver: &str, since: &str, state: BreakerState) -> ReceiverLeftAlone {
        ReceiverLeftAlone {
            since: since.to_owned(),
            receiver: receiver.to_owned(),
            state,
            actions: 1,
        }
    }

    #[test]
    fn actions_of_one_receiver_are_one_and_the_longest_comes_first() {
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
        let second = ReceiverLeftAlone {
            actions: 2,
            ..one("https://a:443", "2026-01-01T00:00:07Z", Open)
        };
        assert_eq!(listed.receivers, [first, second]);
        assert_eq!(listed.left_out, 0);
    }

    #[test]
    fn no_more_are_told_of_than_there_is_room_for() {
        let many = (0..100).map(|n| {
            let since = "2026-01-01T00:00:00Z";
            one(&format!("https://{n}:443"), since, BreakerState::Open)
        });
        let listed = listed(many);
        assert_eq!((listed.receivers.len(), listed.left_out), (MOST, 36));
    }
}
