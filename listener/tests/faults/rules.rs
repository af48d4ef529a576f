//! The chart's alerts and dashboard on a clock of their own: a minute of theirs lasts a second here, or
//! three where the fault itself takes its time.

use std::fs;
use std::path::{Path, PathBuf};

use regex::{Captures, Regex};
use serde_json::Value;

/// How many times faster the clock of the rules goes.
pub(super) const FASTER: u32 = 60;

/// The same for a fault that has to be made again and again, which a busy machine does slowly.
pub(super) const LESS_FAST: u32 = 20;

/// Alerts that compare an age or a duration: the bound is that many times smaller, too.
const OF_TIME: [&str; 5] = [
    "ObserverDeadLettersAging",
    "ObserverHistoryLagging",
    "ObserverListenerLagging",
    "ObserverReceiverSlow",
    "ObserverRetentionBlocked",
];

/// A file of the workspace.
pub(super) fn file(path: &str) -> String {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// Divides the durations of a query or of `for` (`5m`, `1h`).
fn faster(text: &str, times: u32) -> String {
    let duration = Regex::new(r"\b(\d+)([mh])\b").unwrap();
    let shorter = duration.replace_all(text, |found: &Captures| {
        let count: u32 = found[1].parse().unwrap();
        let minutes = if &found[2] == "h" { 60 * count } else { count };
        format!("{}s", minutes * 60 / times)
    });
    shorter.into_owned()
}

/// The chart's alerts by a clock that goes so many times faster.
pub(super) fn alerts(times: u32) -> String {
    let bound = Regex::new(r"> (\d+)\s*$").unwrap();
    let mut alert = String::new();
    let lines = file("charts/observer-operator/files/alerts.yaml");
    let lines = lines.lines().map(|line| {
        if let Some((_, name)) = line.split_once("- alert: ") {
            name.clone_into(&mut alert);
        }
        // Texts for people keep their minutes.
        if ["summary: ", "description: "]
            .iter()
            .any(|text| line.trim_start().starts_with(text))
        {
            return line.to_owned();
        }
        let line = faster(line, times);
        if !OF_TIME.contains(&alert.as_str()) {
            return line;
        }
        let smaller = bound.replace(&line, |found: &Captures| {
            let seconds: f64 = found[1].parse().unwrap();
            format!("> {}", seconds / f64::from(times))
        });
        smaller.into_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The queries of a panel of the chart's dashboard, for all listeners, by such a clock.
pub(super) fn panel(title: &str, times: u32) -> Vec<String> {
    let text = file("charts/observer-operator/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut panels = dashboard["panels"].as_array().unwrap().iter();
    let panel = panels.find(|panel| panel["title"] == title);
    let panel = panel.unwrap_or_else(|| panic!("there is no panel {title:?}"));
    let targets = panel["targets"].as_array().unwrap().iter();
    let queries = targets.map(|target| {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "10m");
        let query = query.replace("$namespace", ".*").replace("$listener", ".*");
        faster(&query, times)
    });
    queries.collect()
}

#[test]
fn a_minute_lasts_a_second() {
    assert_eq!(
        faster("increase(a[5m]) offset 1h", FASTER),
        "increase(a[5s]) offset 60s"
    );
    assert_eq!(faster("for: 12m", LESS_FAST), "for: 36s");
    let alerts = alerts(FASTER);
    assert!(
        !Regex::new(r"(for: \d+|\[\d+)[mh]")
            .unwrap()
            .is_match(&alerts),
        "{alerts}"
    );
    assert!(alerts.contains("(observer_lag_seconds) > 5\n"), "{alerts}");
    assert!(
        alerts.contains("changes(process_start_time_seconds{listener!=\"\"}[60s])) > 3"),
        "{alerts}"
    );
}
