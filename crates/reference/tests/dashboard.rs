//! The dashboard shows what there is, and says what it shows.

use std::collections::BTreeSet;
use std::fs;

use observer_reference::metrics::{of_listener, of_operator};
use observer_reference::root;
use serde_json::Value;

use crate::queries::{Exported, check_by_prometheus};

/// Labels of metrics, each with why it has few values.
const BOUNDED: [(&str, &str); 18] = [
    ("action", "names in the observers"),
    ("attempts", "a few classes"),
    ("cause", "an enum"),
    ("kind", "an enum, or a kind of resource"),
    ("lookup", "names in the observers"),
    ("method", "of HTTP"),
    ("name", "names of lookups and actions in the observers"),
    ("observer", "names of the observers"),
    ("operation", "an enum"),
    ("outcome", "an enum"),
    ("pool", "three names"),
    ("reason", "an enum"),
    ("result", "an enum"),
    ("served", "an enum"),
    ("state", "an enum"),
    ("verb", "of Kubernetes"),
    ("le", "the bounds of a histogram"),
    ("listener", "one in a process"),
];

/// The dashboard, as the chart ships it.
fn dashboard() -> Value {
    let path = root().join("charts/observer-operator/files/dashboard.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The panels that show something.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels.filter(|panel| panel["type"] != "row")
}

/// The titles of its panels.
pub(crate) fn titles() -> BTreeSet<String> {
    let dashboard = dashboard();
    let titles = panels(&dashboard).map(|panel| panel["title"].as_str().unwrap().to_owned());
    titles.collect()
}

/// A query with its variables replaced, as Grafana does for "All".
fn replaced(query: &str) -> String {
    let query = query.replace("$__rate_interval", "5m");
    let query = ["$namespace", "$listener", "$operator_namespace"]
        .iter()
        .fold(query, |query, name| query.replace(name, ".*"));
    assert!(!query.contains('$'), "an unknown variable: {query}");
    query
}

/// The names in a text like `{{observer}} {{action}}`.
fn legend_labels(legend: &str) -> impl Iterator<Item = &str> {
    legend
        .split("{{")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("}}")?.0.trim()))
}

#[test]
fn panels_show_what_the_programs_export() {
    let (dashboard, exported) = (dashboard(), Exported::new());
    let mut shown = BTreeSet::new();
    let mut queries = Vec::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} shows nothing");
        for target in targets {
            let query = replaced(target["expr"].as_str().unwrap());
            let checked = exported.check(&query);
            let checked = checked.unwrap_or_else(|error| panic!("panel {title}: {error}"));
            for label in legend_labels(target["legendFormat"].as_str().unwrap()) {
                assert!(
                    checked.labels.contains(label),
                    "{title}: {label} in its legend"
                );
            }
            // Every other program has these, too.
            if checked
                .names
                .iter()
                .any(|name| name.starts_with("process_"))
            {
                let ours = ["listener!=\"\"", "app_kubernetes_io_name=\""];
                assert!(
                    ours.iter().any(|one| query.contains(one)),
                    "{title}: {query}"
                );
            }
            shown.extend(checked.names);
            queries.push(query);
        }
    }
    check_by_prometheus(&queries);
    let all = of_listener()
        .unwrap()
        .into_iter()
        .chain(of_operator().unwrap());
    for metric in all {
        let name = metric.name;
        let shown = match metric.kind {
            "histogram" => shown.contains(&format!("{name}_bucket")),
            _ => shown.contains(&name),
        };
        assert!(shown, "no panel shows {name}");
    }
}

#[test]
fn panels_have_a_title_of_their_own_and_a_description() {
    let dashboard = dashboard();
    let (mut titles, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
    }
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title), "{title} is there twice");
        let description = panel["description"].as_str().unwrap();
        assert!(description.ends_with('.'), "{title}: {description}");
        assert!(description.split(' ').count() > 4, "{title}: {description}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables: Vec<_> = variables
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let expected = ["datasource", "namespace", "listener", "operator_namespace"];
    assert_eq!(variables, expected);
}

#[test]
fn labels_of_metrics_have_few_values() {
    for metric in of_listener()
        .unwrap()
        .into_iter()
        .chain(of_operator().unwrap())
    {
        for label in &metric.labels {
            let bounded = BOUNDED.iter().any(|(name, _)| name == label);
            assert!(
                bounded,
                "{}: {label} may have any number of values",
                metric.name
            );
        }
    }
}
