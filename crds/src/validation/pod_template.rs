//! The rules for `spec.podTemplate` that its schema cannot say.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource};

use crate::manifest::diagnostics::field;
use crate::v1alpha1::{OWN_NAMES, OWN_PREFIX, PodTemplate};
use crate::validation::context::ValidationContext;
use crate::validation::names::is_domain;

const AT: &str = "/spec/podTemplate";

pub(crate) fn check(template: &PodTemplate, context: &mut ValidationContext<'_>) {
    let class = template.priority_class_name.as_deref();
    if class.is_some_and(|class| !is_domain(class)) {
        context.error(
            &field(AT, "priorityClassName"),
            "is not the name of a priority class; see `kubectl get priorityclasses`",
        );
    }
    let mut names = BTreeSet::new();
    for (index, variable) in template.env.iter().enumerate() {
        let at = format!("{AT}/env/{index}");
        let EnvVar { name, .. } = variable;
        if !is_variable(name) {
            context.error(
                &field(&at, "name"),
                "is no name of a variable; use letters, digits, `-`, `_` and `.`, not a digit first",
            );
        } else if name.starts_with(OWN_PREFIX) || OWN_NAMES.contains(&&**name) {
            context.error(
                &field(&at, "name"),
                "is the operator's to set; leave it out",
            );
        } else if !names.insert(name) {
            context.error(&field(&at, "name"), "is there already; keep one of them");
        }
        check_value(&at, variable, context);
    }
}

fn check_value(at: &str, variable: &EnvVar, context: &mut ValidationContext<'_>) {
    let Some(from) = &variable.value_from else {
        return;
    };
    if variable.value.is_some() {
        context.error(at, "has both `value` and `valueFrom`; keep one of them");
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
        context.error(
            &field(at, "valueFrom"),
            "must name one source, such as `secretKeyRef: {name: SECRET, key: KEY}`",
        );
    }
}

fn is_variable(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.chars().all(fits) && !name.starts_with(|c: char| c.is_ascii_digit())
}
