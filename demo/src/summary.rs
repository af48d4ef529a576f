//! The summary of a demonstration.

use std::fmt::Write as _;
use std::time::Duration;

use crate::figures::Figures;
use crate::tally::Verdict;

/// How a demonstration went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) lasted: Duration,
    pub(crate) figures: Figures,
    pub(crate) verdict: Verdict,
}

/// The summary, for people.
pub(crate) fn of(outcome: &Outcome) -> String {
    let Outcome {
        lasted,
        figures,
        verdict,
    } = outcome;
    let total = figures.total();
    let mut text = format!("\nSummary after {} s\n", lasted.as_secs());
    let mut line = |name: &str, count: u64, what: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {name:<13}{count:>7}  {what}");
    };
    line("committed", verdict.changes, "changes");
    line("", verdict.transactions, "transactions");
    line(
        "rolled back",
        verdict.rolled_back,
        "transactions, which nobody hears of",
    );
    line("delivered", verdict.arrived, "webhooks, once each");
    line("", figures.notes(), "log lines");
    line(
        "retried",
        total.retried,
        "attempts that the receiver answered with 503",
    );
    line(
        "given up",
        total.given_up,
        "dead letters: orders without a total",
    );
    line("missing", verdict.missing, "of what should be there");
    line("repeated", verdict.repeated, "although delivered before");
    line("out of order", verdict.out_of_order, "within one order");
    line("unexpected", verdict.unexpected, "that no change calls for");
    if let Some((half, most)) = verdict.latency {
        let _ = writeln!(
            text,
            "  from commit to receipt: p50 {}, p99 {} (retried ones included)",
            time(half),
            time(most),
        );
    }
    text.push_str(if verdict.is_good() {
        "Everything that should have arrived arrived once, and in order.\n"
    } else {
        "NOT everything arrived as it should.\n"
    });
    text
}

fn time(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
