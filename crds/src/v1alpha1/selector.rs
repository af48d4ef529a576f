//! Choices by label, of observers and of namespaces.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::never_null;

/// What the name of the label begins with by which a namespace lets the listeners of another one
/// run its observers; that namespace's name follows.
const CONSENT_PREFIX: &str = "listeners.observers.fraiseql.dev/";

/// Value of that label.
const CONSENT: &str = "allowed";

/// The namespaces whose observers a listener runs. Any but its own must allow it, by the label
/// `listeners.observers.fraiseql.dev/<namespace of the listener>` with the value `allowed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.selector) == (self.from == 'Selector')",
    "message": "give selector with from: Selector, and only then",
}]))]
pub struct ObserverNamespaces {
    /// `Same`: the listener's own. `All`: every one. `Selector`: those with certain labels.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Labels of the namespaces, for `Selector`. The API server gives each namespace the label
    /// `kubernetes.io/metadata.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How namespaces are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The listener's own namespace.
    #[default]
    Same,
    /// Every namespace.
    All,
    /// Those whose labels fit.
    Selector,
}

/// A choice of observers by their labels; all conditions must hold. An empty one chooses all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that an observer must have, with exactly these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Conditions on single labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelExpression>,
}

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelExpression {
    /// The label's name.
    #[schemars(length(min = 1))]
    pub key: String,
    /// `In`: the label has one of `values`. `NotIn`: it has none of them, or is missing.
    /// `Exists`: it is there. `DoesNotExist`: it is missing.
    pub operator: LabelOperator,
    /// Values for `In` and `NotIn`; none for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// One of the values.
    In,
    /// None of the values, or no such label.
    NotIn,
    /// Any value.
    Exists,
    /// No such label.
    DoesNotExist,
}

impl ObserverNamespaces {
    /// Whether observers in a namespace are chosen by a listener in the namespace `own`, where the
    /// namespace allows it.
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

/// The label with its value by which a namespace lets listeners in the namespace `own` run its
/// observers.
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
    /// Whether something with these labels is chosen.
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
