//! What a listener has done so far, from its metrics, and how that looks.

use std::time::Duration;

use prometheus::IntCounterVec;
use prometheus::core::Collector;

use crate::tally::Verdict;
use listener::telemetry::metrics::Metrics;

/// The shop's actions, as `observer/action`.
const ACTIONS: [(&str, &str); 4] = [
    ("big-orders", "notify"),
    ("paid-orders", "ship"),
    ("order-audit", "record"),
    ("customer-removed", "note"),
];

/// Where the log line about a customer stands in [`ACTIONS`].
const NOTES: usize = 3;

/// What became of one action, or of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) matched: u64,
    pub(crate) delivered: u64,
    pub(crate) retried: u64,
    pub(crate) given_up: u64,
}

/// All actions at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    actions: [Counted; ACTIONS.len()],
    /// Actions that wait for their next attempt.
    waiting: i64,
}

impl Figures {
    /// Reads the metrics of a listener whose observers are in namespace `default`.
    pub(crate) fn read(metrics: &Metrics) -> Self {
        let actions = ACTIONS.map(|(observer, _)| {
            let observer = format!("default/{observer}");
            let of = |counters, more: &[(&str, &str)]| {
                sum(counters, &[&[("observer", &*observer)], more].concat())
            };
            Counted {
                matched: of(&metrics.matches, &[]),
                delivered: of(&metrics.delivery_attempts, &[("outcome", "success")]),
                retried: of(&metrics.delivery_attempts, &[("outcome", "retryable")]),
                given_up: of(&metrics.dead_letters_written, &[]),
            }
        });
        let ended = |outcome| sum(&metrics.jobs.executions, &[("outcome", outcome)]);
        let waiting = sum(&metrics.jobs.enqueued, &[]);
        let waiting = waiting.saturating_sub(ended("completed") + ended("discarded"));
        Self {
            actions,
            waiting: waiting.try_into().unwrap_or(i64::MAX),
        }
    }

    /// All actions together.
    pub(crate) fn total(&self) -> Counted {
        self.actions
            .iter()
            .fold(Counted::default(), |sum, one| Counted {
                matched: sum.matched + one.matched,
                delivered: sum.delivered + one.delivered,
                retried: sum.retried + one.retried,
                given_up: sum.given_up + one.given_up,
            })
    }

    /// Log lines written about customers.
    pub(crate) const fn notes(&self) -> u64 {
        self.actions[NOTES].delivered
    }

    /// Everything on one line.
    pub(crate) fn line(&self, since: Duration, so_far: &Verdict) -> String {
        let total = self.total();
        format!(
            "{:>4} s  committed {:>5}  matched {:>5}  delivered {:>5}  retried {:>4}  given up {:>3}  waiting {:>2}",
            since.as_secs(),
            so_far.changes,
            total.matched,
            total.delivered,
            total.retried,
            total.given_up,
            self.waiting,
        )
    }

    /// A line for each action, for a terminal of 80 columns.
    pub(crate) fn table(&self, since: Duration, so_far: &Verdict) -> Vec<String> {
        let row = |name: &str, of: [String; 4]| {
            let [matched, delivered, retried, given_up] = of;
            format!("  {name:<24}{matched:>10}{delivered:>12}{retried:>10}{given_up:>10}")
        };
        let head = ["matched", "delivered", "retried", "given up"].map(str::to_owned);
        let counted = |name: &str, one: &Counted| {
            let of = [one.matched, one.delivered, one.retried, one.given_up];
            row(name, of.map(|count| count.to_string()))
        };
        let mut lines = vec![String::new(), row("observer/action", head)];
        lines.extend(
            ACTIONS
                .iter()
                .zip(&self.actions)
                .map(|((observer, action), one)| counted(&format!("{observer}/{action}"), one)),
        );
        lines.push(counted("all", &self.total()));
        lines.push(format!(
            "  {} s: {} changes committed, {} transactions rolled back",
            since.as_secs(),
            so_far.changes,
            so_far.rolled_back,
        ));
        lines
    }
}

/// The sum of the counters that have all these labels.
fn sum(counters: &IntCounterVec, labels: &[(&str, &str)]) -> u64 {
    let families = counters.collect();
    let all = families
        .iter()
        .flat_map(prometheus::proto::MetricFamily::get_metric);
    let chosen = all.filter(|metric| {
        labels.iter().all(|(name, value)| {
            let mut own = metric.get_label().iter();
            own.any(|label| label.name() == *name && label.value() == *value)
        })
    });
    // Counters are whole numbers, kept as such and only handed out as floating ones.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count is whole and not negative"
    )]
    chosen
        .map(|metric| metric.get_counter().get_value() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn figures_are_those_of_the_metrics() {
        let metrics = Metrics::new("shop").unwrap();
        let attempts = |observer, action, outcome, count| {
            metrics
                .delivery_attempts
                .with_label_values(&[observer, action, outcome])
                .inc_by(count);
        };
        attempts("default/big-orders", "notify", "success", 3);
        attempts("default/big-orders", "notify", "retryable", 2);
        attempts("default/customer-removed", "note", "success", 1);
        let given_up = ["default/big-orders", "notify", "condition"];
        metrics
            .dead_letters_written
            .with_label_values(&given_up)
            .inc();
        let figures = Figures::read(&metrics);
        let total = Counted {
            matched: 0,
            delivered: 4,
            retried: 2,
            given_up: 1,
        };
        assert_eq!(figures.total(), total);
        assert_eq!(figures.notes(), 1);
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let figures = Figures::read(&Metrics::new("shop").unwrap());
        let so_far = Verdict {
            changes: 999_999,
            rolled_back: 99_999,
            ..Verdict::default()
        };
        for line in figures.table(Duration::from_secs(9999), &so_far) {
            assert!(line.len() <= 80, "{line}");
        }
    }
}
