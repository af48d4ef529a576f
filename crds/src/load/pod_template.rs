//! The rules for `spec.podTemplate` that its schema cannot say.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource};

use super::checks::{Checks, is_domain};
use super::report::field;
use crate::resources::{OWN_NAMES, OWN_PREFIX, PodTemplate};

const AT: &str = "/spec/podTemplate";

pub(super) fn check(template: &PodTemplate, checks: &mut Checks<'_>) {
    let class = template.priority_class_name.as_deref();
    if class.is_some_and(|class| !is_domain(class)) {
        checks.wrong(
            &field(AT, "priorityClassName"),
            "is not the name of a priority class; see `kubectl get priorityclasses`",
        );
    }
    let mut names = BTreeSet::new();
    for (index, variable) in template.env.iter().enumerate() {
        let at = format!("{AT}/env/{index}");
        let EnvVar { name, .. } = variable;
        if !is_variable(name) {
            checks.wrong(
                &field(&at, "name"),
                "is no name of a variable; use letters, digits, `-`, `_` and `.`, not a digit first",
            );
        } else if name.starts_with(OWN_PREFIX) || OWN_NAMES.contains(&&**name) {
            checks.wrong(
                &field(&at, "name"),
                "is the operator's to set; leave it out",
            );
        } else if !names.insert(name) {
            checks.wrong(&field(&at, "name"), "is there already; keep one of them");
        }
        check_value(&at, variable, checks);
    }
}

fn check_value(at: &str, variable: &EnvVar, checks: &mut Checks<'_>) {
    let Some(from) = &variable.value_from else {
        return;
    };
    if variable.value.is_some() {
        checks.wrong(at, "has both `value` and `valueFrom`; keep one of them");
    }
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = from;
    let given = [
        config_map_key_ref.is_some(),
        field_ref.is_some(),
        file_key_ref.is_some(),
        resource_field_ref.is_some(),
        secret_key_ref.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        checks.wrong(
            &field(at, "valueFrom"),
            "must name one source, such as `secretKeyRef: {name: SECRET, key: KEY}`",
        );
    }
}

fn is_variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}
