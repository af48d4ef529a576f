//! Every alert leads to its section of the runbook.

use std::fs;

use observer_reference::root;
use serde_yaml_ng::Value;

use crate::markdown::read;

/// Sections of the runbook and base of the addresses in the rules.
fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
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
    let rules: Value =
        serde_yaml_ng::from_str(&text("charts/observer-operator/files/alerts.yaml")).unwrap();
    let mut alerts = Vec::new();
    for rule in rules["groups"][0]["rules"].as_sequence().unwrap() {
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
