//! Every alert leads to its section of the runbook.

use std::fs;

use observer_reference::root;
use serde_yaml_ng::Value;

use crate::dashboard::titles;
use crate::markdown::read;
use crate::queries::{Exported, check_by_prometheus};

/// Sections of the runbook and base of the addresses in the rules.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn rules() -> Vec<Value> {
    let file: Value =
        serde_yaml_ng::from_str(&text("charts/observer-operator/files/alerts.yaml")).unwrap();
    file["groups"][0]["rules"].as_sequence().unwrap().clone()
}

/// The labels that the texts of an alert name.
fn labels_in(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("$labels.").skip(1);
    parts.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn alerts_query_what_the_programs_export() {
    let exported = Exported::new();
    let (mut queries, panels) = (Vec::new(), titles());
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        let query = rule["expr"].as_str().unwrap();
        let checked = exported.check(query);
        let checked = checked.unwrap_or_else(|error| panic!("{alert}: {error}"));
        for name in ["summary", "description"] {
            let said = rule["annotations"][name].as_str().unwrap();
            for label in labels_in(said) {
                assert!(
                    checked.labels.contains(label),
                    "{alert}: {label} in its {name}"
                );
            }
        }
        let panel = rule["annotations"]["panel"].as_str();
        let panel = panel.unwrap_or_else(|| panic!("{alert} names no panel"));
        assert!(panels.contains(panel), "{alert}: there is no panel {panel}");
        queries.push(query.to_owned());
    }
    check_by_prometheus(&queries);
}

/// `charts/test` has Prometheus run them.
#[test]
fn every_alert_has_a_test_that_fires_it() {
    let file: Value = serde_yaml_ng::from_str(&text("charts/alerts.test.yaml")).unwrap();
    let mut fired = std::collections::BTreeSet::new();
    for test in file["tests"].as_sequence().unwrap() {
        for step in test["alert_rule_test"].as_sequence().unwrap() {
            let expected = step["exp_alerts"].as_sequence();
            if expected.is_some_and(|alerts| !alerts.is_empty()) {
                fired.insert(step["alertname"].as_str().unwrap().to_owned());
            }
        }
    }
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        assert!(
            fired.contains(alert),
            "no test of charts/alerts.test.yaml fires {alert}"
        );
    }
}

#[test]
fn alerts_lead_to_the_runbook() {
    let values: Value =
        serde_yaml_ng::from_str(&text("charts/observer-operator/values.yaml")).unwrap();
    let base = values["monitoring"]["rules"]["runbookUrl"]
        .as_str()
        .unwrap();
    let page = base.split_once("/docs/").expect("a page of the docs").1;
    let runbook = text(&format!("docs/{page}"));
    let anchors = read(&runbook).anchors;
    let mut alerts = Vec::new();
    for rule in &rules() {
        let alert = rule["alert"].as_str().unwrap();
        let url = rule["annotations"]["runbook_url"].as_str();
        let url = url.unwrap_or_else(|| panic!("{alert} has no runbook_url"));
        let anchor = url
            .strip_prefix(base)
            .and_then(|rest| rest.strip_prefix('#'));
        let anchor = anchor.unwrap_or_else(|| panic!("{url} does not begin with {base}#"));
        assert_eq!(anchor, alert.to_lowercase());
        assert!(
            anchors.iter().any(|one| one == anchor),
            "the runbook has no section {alert}"
        );
        for part in ["Meaning", "Impact", "Diagnosis", "Mitigation"] {
            let section = runbook.split(&format!("\n## {alert}\n")).nth(1).unwrap();
            let section = section.split("\n## ").next().unwrap();
            assert!(section.contains(&format!("**{part}.**")), "{alert}: {part}");
        }
        alerts.push(anchor.to_owned());
    }
    assert!(alerts.len() >= 11, "{alerts:?}");
    let gone: Vec<&String> = anchors
        .iter()
        .filter(|anchor| anchor.starts_with("observer") && !alerts.contains(anchor))
        .collect();
    assert!(gone.is_empty(), "sections without an alert: {gone:?}");
}
