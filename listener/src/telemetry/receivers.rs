//! How the receivers of actions are doing, looked up whenever metrics are asked for.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tokio::sync::watch;

use crate::actions::breaker::Condition;
use crate::dispatch::observers::Observers;

/// Says of each action of the observers of the moment whether its receiver is left alone.
#[derive(Clone, Debug)]
pub(super) struct Receivers {
    observers: watch::Receiver<Arc<Observers>>,
    /// Names and help texts; the values are found anew each time.
    shown: (IntGaugeVec, IntCounterVec),
}

impl Receivers {
    pub(super) fn new(
        observers: watch::Receiver<Arc<Observers>>,
    ) -> Result<Self, prometheus::Error> {
        let shown = metrics()?;
        Ok(Self { observers, shown })
    }
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
