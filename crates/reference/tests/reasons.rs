//! The reference has the reasons that the code has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use observer_reference::reasons::{OF_LISTENER, OF_OBSERVER, names};
use observer_reference::root;

/// Where reasons arise.
const SOURCES: [&str; 4] = [
    "crds/src/pod_status.rs",
    "listener/src/runtime",
    "operator/src/listener",
    "operator/src/observer",
];

/// Words of the same form that are no reasons.
const OTHERS: [&str; 23] = [
    "AlwaysAllow",
    "Complete",
    "Context",
    "ContainerCreating",
    "Egress",
    "Failed",
    "FallbackToLogsOnError",
    "False",
    "Ingress",
    "Job",
    "Never",
    "None",
    "Observer",
    "ObserverListener",
    "Opaque",
    "PodInitializing",
    "Role",
    "RollingUpdate",
    "RuntimeDefault",
    "ScheduleAnyway",
    "ServiceAccount",
    "True",
    "Unknown",
];

/// The words in quotation marks that have the form of a reason, without those of tests.
fn words(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for file in fs::read_dir(path).unwrap() {
            words(&file.unwrap().path(), found);
        }
        return;
    }
    if path.to_string_lossy().contains("test") {
        return;
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap();
    for quoted in code.split('"').skip(1).step_by(2) {
        let is_reason = quoted.starts_with(|first: char| first.is_ascii_uppercase())
            && quoted.len() > 2
            && quoted.chars().all(|char| char.is_ascii_alphabetic())
            && quoted.chars().any(|char| char.is_ascii_lowercase());
        if is_reason {
            found.insert(quoted.to_owned());
        }
    }
}

#[test]
fn reference_has_the_reasons_of_the_code() {
    let mut in_code = BTreeSet::new();
    for source in SOURCES {
        words(&root().join(source), &mut in_code);
    }
    assert!(in_code.len() > 40, "{in_code:?}");
    let documented: BTreeSet<&str> = names().collect();
    let types = OF_LISTENER
        .iter()
        .chain(&OF_OBSERVER)
        .map(|(name, _)| *name);
    let known: BTreeSet<&str> = types
        .chain(OTHERS)
        .chain(documented.iter().copied())
        .collect();
    let missing: Vec<&String> = in_code
        .iter()
        .filter(|word| !known.contains(word.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "document these in crates/reference/src/reasons.rs: {missing:?}"
    );
    // Events have reasons of their own.
    words(&root().join("operator/src/events.rs"), &mut in_code);
    words(&root().join("operator/src/conditions.rs"), &mut in_code);
    let gone: Vec<&&str> = documented
        .iter()
        .filter(|name| !in_code.contains(**name))
        .collect();
    assert!(
        gone.is_empty(),
        "the code has no such reasons any more: {gone:?}"
    );
}
