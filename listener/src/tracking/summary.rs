//! Summary of findings for a report: bounded, as there may be one for each column of each template.

use std::collections::BTreeMap;

use crds::pod_status::{TrackingFinding, TrackingReport};

use super::Finding;
use crate::text::on_one_line;

/// Maximum number of findings in a report.
const MAX_FINDINGS: usize = 64;

/// Maximum length of a message in bytes.
const MAX_MESSAGE: usize = 512;

/// Maximum length of a path in bytes.
const MAX_PATH: usize = 128;

/// Summarizes findings of observers: one of each observer before the second of any, and the number of those omitted.
pub(crate) fn summary(found: &[Finding]) -> TrackingReport {
    let mut of_observer: BTreeMap<&str, usize> = BTreeMap::new();
    let of_observers = found.iter().filter(|one| !one.observer.is_empty());
    let mut ranked: Vec<(usize, &Finding)> = of_observers
        .map(|one| {
            let rank = of_observer.entry(&one.observer).or_default();
            *rank += 1;
            (*rank, one)
        })
        .collect();
    ranked.sort_unstable();
    let left_out = ranked.len().saturating_sub(MAX_FINDINGS);
    let findings = ranked
        .into_iter()
        .take(MAX_FINDINGS)
        .map(|(_, one)| reported(one));
    TrackingReport {
        findings: findings.collect(),
        left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
    }
}

fn reported(one: &Finding) -> TrackingFinding {
    TrackingFinding {
        observer: one.observer.clone(),
        path: bounded(&one.path, MAX_PATH),
        reason: one.reason.to_owned(),
        message: bounded(&one.message, MAX_MESSAGE),
    }
}

/// Names in it are a user's, and a quoted one may hold anything.
fn bounded(text: &str, most: usize) -> String {
    let mut line = on_one_line(text);
    if line.len() > most {
        line.truncate(line.floor_char_boundary(most - 3));
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use crds::pod_status::COLUMN_MISSING;

    use super::*;

    fn found(observer: usize, n: usize, message: &str) -> Finding {
        Finding {
            observer: format!("shop/o{observer:03}"),
            path: format!("spec.actions[{n}].webhook.body"),
            reason: COLUMN_MISSING,
            message: message.to_owned(),
        }
    }

    #[test]
    fn each_observer_comes_before_the_second_finding_of_any() {
        let found: Vec<Finding> = (0..40)
            .flat_map(|observer| (0..3).map(move |n| found(observer, n, "m")))
            .collect();
        let report = summary(&found);
        assert_eq!(
            (report.findings.len(), report.left_out),
            (MAX_FINDINGS, 120 - 64)
        );
        for observer in 0..40 {
            let name = format!("shop/o{observer:03}");
            assert!(report.findings.iter().any(|one| one.observer == name));
        }
        assert_eq!(summary(&[]), TrackingReport::default());
    }

    #[test]
    fn report_is_bounded_for_long_table_names() {
        let odd = "\u{1}\n\"\\".repeat(10_000);
        let found: Vec<Finding> = (0..500).map(|observer| found(observer, 0, &odd)).collect();
        let report = summary(&found);
        let bytes = serde_json::to_vec(&report).unwrap().len();
        assert!(bytes < 100 << 10, "{bytes} bytes");
        assert!(report.findings[0].message.ends_with("..."));
    }
}
