//! Label selectors, for observers and for namespaces.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;

/// Prefix of the label by which a namespace lets the listeners of another one run its observers;
/// the other namespace's name follows.
const CONSENT_PREFIX: &str = "listeners.observers.fraiseql.dev/";

/// Value of that label.
const CONSENT: &str = "allowed";

/// Namespaces whose observers a listener runs. Every namespace but the listener's own must consent,
/// with the label `listeners.observers.fraiseql.dev/<namespace of the listener>` set to `allowed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.selector) == (self.from == 'Selector')",
    "message": "give selector with from: Selector, and only then",
}]))]
pub struct ObserverNamespaces {
    /// How namespaces are selected; default `Same`. `Same` is the listener's own namespace, `All`
    /// every namespace, and `Selector` those that `selector` matches.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Label selector for namespaces. It is required with `from: Selector` and not allowed
    /// otherwise. The API server labels each namespace with `kubernetes.io/metadata.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How namespaces are selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The listener's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Namespaces whose labels match a selector.
    Selector,
}

/// Label selector. All of its requirements must be met; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must be present with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements for single labels, up to 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelExpression>,
}

/// Requirement for one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// Name of the label.
    #[schemars(length(min = 1))]
    pub key: String,
    /// How the label relates to `values`. `In`: its value is one of them. `NotIn`: it is none of
    /// them, or the label is missing. `Exists`: the label is present. `DoesNotExist`: the label is
    /// missing.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`, 1 to 64; must be left out for `Exists` and `DoesNotExist`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// How a label relates to a list of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// Its value is one of them.
    In,
    /// Its value is none of them, or the label is missing.
    NotIn,
    /// The label is present.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

impl ObserverNamespaces {
    /// Whether a listener in the namespace `own` selects observers in a namespace, consent aside.
    #[must_use]
    pub fn contain(&self, namespace: &str, labels: &BTreeMap<String, String>, own: &str) -> bool {
        match (self.from, &self.selector) {
            (NamespacesFrom::Same, _) => namespace == own,
            (NamespacesFrom::All, _) => true,
            (NamespacesFrom::Selector, None) => false,
            (NamespacesFrom::Selector, Some(selector)) => selector.matches(labels),
        }
    }
}

/// Label and value by which a namespace lets listeners in the namespace `own` run its observers.
#[must_use]
pub fn consent(own: &str) -> (String, &'static str) {
    (format!("{CONSENT_PREFIX}{own}"), CONSENT)
}

/// Whether a namespace with these labels lets listeners in the namespace `own` run its observers.
#[must_use]
pub fn consents(namespace: &str, labels: &BTreeMap<String, String>, own: &str) -> bool {
    let (label, value) = consent(own);
    namespace == own || labels.get(&label).is_some_and(|found| found == value)
}

impl LabelSelector {
    /// Whether these labels meet all requirements.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
            && self.match_expressions.iter().all(|e| e.matches(labels))
    }
}

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => listed,
            LabelOperator::NotIn => !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    fn expression(operator: LabelOperator, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_labels: BTreeMap::new(),
            match_expressions: vec![LabelExpression {
                key: "app".into(),
                operator,
                values: values.iter().map(|value| (*value).into()).collect(),
            }],
        }
    }

    #[test]
    fn an_empty_selector_chooses_every_observer() {
        assert!(LabelSelector::default().matches(&labels(&[])));
    }

    #[test]
    fn another_namespace_consents_by_its_label() {
        let allowed = labels(&[("listeners.observers.fraiseql.dev/shop", "allowed")]);
        assert!(consents("crm", &allowed, "shop"));
        assert!(!consents("crm", &allowed, "shops"));
        assert!(consents("crm", &labels(&[]), "crm"));
        for other in ["", "true", "denied"] {
            let other = labels(&[("listeners.observers.fraiseql.dev/shop", other)]);
            assert!(!consents("crm", &other, "shop"), "{other:?}");
        }
    }

    #[test]
    fn namespaces_are_chosen_as_the_listener_says() {
        let chosen = |from, selector| ObserverNamespaces { from, selector };
        let sales = LabelSelector {
            match_labels: labels(&[("team", "sales")]),
            ..LabelSelector::default()
        };
        for (chosen, expected) in [
            (ObserverNamespaces::default(), [true, false]),
            (chosen(NamespacesFrom::All, None), [true, true]),
            (chosen(NamespacesFrom::Selector, Some(sales)), [false, true]),
            (chosen(NamespacesFrom::Selector, None), [false, false]),
        ] {
            let found = [
                chosen.contain("shop", &labels(&[]), "shop"),
                chosen.contain("crm", &labels(&[("team", "sales")]), "shop"),
            ];
            assert_eq!(found, expected, "{chosen:?}");
        }
    }

    #[test]
    fn match_labels_must_all_hold() {
        let selector = LabelSelector {
            match_labels: labels(&[("app", "shop"), ("tier", "web")]),
            ..LabelSelector::default()
        };
        assert!(selector.matches(&labels(&[("app", "shop"), ("tier", "web"), ("x", "y")])));
        assert!(!selector.matches(&labels(&[("app", "shop")])));
        assert!(!selector.matches(&labels(&[("app", "shop"), ("tier", "db")])));
    }

    #[test]
    fn expressions_follow_the_rules_of_kubernetes() {
        let (with, other, without) = (
            labels(&[("app", "shop")]),
            labels(&[("app", "blog")]),
            labels(&[]),
        );
        for (selector, expected) in [
            (
                expression(LabelOperator::In, &["shop"]),
                [true, false, false],
            ),
            (
                expression(LabelOperator::NotIn, &["shop"]),
                [false, true, true],
            ),
            (expression(LabelOperator::Exists, &[]), [true, true, false]),
            (
                expression(LabelOperator::DoesNotExist, &[]),
                [false, false, true],
            ),
        ] {
            let found = [&with, &other, &without].map(|labels| selector.matches(labels));
            assert_eq!(found, expected, "{selector:?}");
        }
    }
}
