//! Queries of Prometheus, checked against what the programs export.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use observer_reference::metrics::{of_listener, of_operator};
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// Labels that Prometheus adds when it reads a pod: see the chart's monitors.
const OF_TARGETS: [&str; 7] = [
    "app_kubernetes_io_instance",
    "app_kubernetes_io_name",
    "container",
    "instance",
    "job",
    "namespace",
    "pod",
];

/// Names and labels of all series.
pub(crate) struct Exported {
    series: BTreeMap<String, BTreeSet<String>>,
}

impl Exported {
    /// What both programs export, and `up` of Prometheus itself.
    pub(crate) fn new() -> Self {
        let mut series = BTreeMap::from([("up".to_owned(), labels(&OF_TARGETS))]);
        let of_listener = of_listener().unwrap().into_iter();
        let of_operator = of_operator().unwrap().into_iter();
        let all = of_operator
            .map(|metric| (metric, false))
            .chain(of_listener.map(|metric| (metric, true)));
        for (metric, of_listener) in all {
            let mut with = labels(&OF_TARGETS);
            with.extend(metric.labels);
            if of_listener {
                with.insert("listener".to_owned());
            }
            if metric.kind == "histogram" {
                for suffix in ["_sum", "_count"] {
                    series.insert(format!("{}{suffix}", metric.name), with.clone());
                }
                with.insert("le".to_owned());
                series.insert(format!("{}_bucket", metric.name), with);
            } else {
                series.insert(metric.name, with);
            }
        }
        Self { series }
    }

    /// Parses a query and returns the series that it reads and the labels that its result may have, or which
    /// part of it names what nobody exports.
    pub(crate) fn check(&self, query: &str) -> Result<Checked, String> {
        let parsed = parser::parse(query).map_err(|error| format!("{query}: {error}"))?;
        let mut names = BTreeSet::new();
        let labels = self.labels(&parsed, &mut names);
        let labels = labels.map_err(|error| format!("{query}: {error}"))?;
        Ok(Checked { names, labels })
    }

    fn labels(
        &self,
        expr: &Expr,
        names: &mut BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        match expr {
            Expr::VectorSelector(selector) => self.selected(selector, names),
            Expr::MatrixSelector(matrix) => self.selected(&matrix.vs, names),
            Expr::Paren(inner) => self.labels(&inner.expr, names),
            Expr::Unary(inner) => self.labels(&inner.expr, names),
            Expr::Subquery(inner) => self.labels(&inner.expr, names),
            Expr::Aggregate(aggregate) => {
                let inner = self.labels(&aggregate.expr, names)?;
                match &aggregate.modifier {
                    None => Ok(BTreeSet::new()),
                    Some(LabelModifier::Include(by)) => {
                        let by: BTreeSet<String> = by.labels.iter().cloned().collect();
                        known(&by, &inner)?;
                        Ok(by)
                    }
                    Some(LabelModifier::Exclude(_)) => Ok(inner),
                }
            }
            Expr::Binary(binary) => {
                let left = self.labels(&binary.lhs, names)?;
                let right = self.labels(&binary.rhs, names)?;
                let matching = binary.modifier.as_ref().and_then(|it| it.matching.as_ref());
                if let Some(LabelModifier::Include(on)) = matching {
                    let on = on.labels.iter().cloned().collect();
                    known(&on, &left)?;
                    known(&on, &right)?;
                }
                Ok(&left | &right)
            }
            Expr::Call(call) => {
                let mut all = BTreeSet::new();
                for arg in &call.args.args {
                    all.extend(self.labels(arg, names)?);
                }
                Ok(all)
            }
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {
                Ok(BTreeSet::new())
            }
        }
    }

    fn selected(
        &self,
        selector: &VectorSelector,
        names: &mut BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        let name = selector.name.as_deref().unwrap_or_default();
        let Some(labels) = self.series.get(name) else {
            return Err(format!("nobody exports {name:?}"));
        };
        names.insert(name.to_owned());
        let matched = selector.matchers.matchers.iter();
        known(&matched.map(|one| one.name.clone()).collect(), labels)?;
        Ok(labels.clone())
    }
}

/// What a query reads, and what comes of it.
pub(crate) struct Checked {
    pub(crate) names: BTreeSet<String>,
    pub(crate) labels: BTreeSet<String>,
}

fn labels(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn known(named: &BTreeSet<String>, there: &BTreeSet<String>) -> Result<(), String> {
    match named.difference(there).next() {
        Some(label) => Err(format!("no series there has the label {label:?}")),
        None => Ok(()),
    }
}

/// Has Prometheus itself check queries.
pub(crate) fn check_by_prometheus(queries: &[String]) {
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(n, query)| serde_json::json!({"record": format!("query:{n}"), "expr": query}))
        .collect();
    let file = serde_json::json!({"groups": [{"name": "queries", "rules": rules}]});
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    // JSON is YAML.
    fs::write(&path, file.to_string()).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&path)
        .output()
        .expect(
            "promtool runs: Debian's package prometheus has it, and scripts/prepare installs it",
        );
    let said = String::from_utf8_lossy(&checked.stdout);
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}{errors}");
    let found = format!("{} rules found", queries.len());
    assert!(said.contains(&found), "{said}");
}

#[test]
fn queries_of_what_nobody_exports_are_found() {
    let exported = Exported::new();
    let fails = |query: &str| exported.check(query).err().unwrap_or_default();
    for query in [
        "observer_lag_second",
        "sum(rate(observer_gone_total[5m]))",
        "observer_delivery_latency_seconds",
    ] {
        assert!(fails(query).contains("nobody exports"), "{query}");
    }
    for query in [
        "observer_lag_seconds{observer=\"a\"}",
        "sum by (action) (observer_matches_total)",
        "observer_lag_seconds and on (action) observer_lag_seconds",
        "sum by (listener) (observer_operator_leader)",
    ] {
        assert!(fails(query).contains("has the label"), "{query}");
    }
    let fine = "histogram_quantile(0.9, sum by (le, action) (rate(observer_delivery_latency_seconds_bucket[5m])))";
    assert!(exported.check(fine).unwrap().labels.contains("action"));
}
