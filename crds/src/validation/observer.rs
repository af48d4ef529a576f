//! Validation of an `Observer`: the rules that its schema cannot say.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::{action, enrich};
use crate::config::{ObserverConfig, Operation};
use crate::manifest::diagnostics::field;
use crate::manifest::document::Metadata;
use crate::v1alpha1::{EventSelector, ObserverSpec};
use crate::validation::context::ValidationContext;
use crate::validation::names::{LABEL_RULE, is_label};

/// Validates an observer and returns its configuration, with placeholders for what it reports.
/// Actions keep their places.
pub(crate) fn check(
    spec: &ObserverSpec,
    meta: &Metadata,
    context: &mut ValidationContext<'_>,
) -> ObserverConfig {
    check_events(&spec.events, context);
    let enrich = enrich::check(&spec.enrich, context);
    let mut names = BTreeSet::new();
    let mut actions = Vec::with_capacity(spec.actions.len());
    for (index, one) in spec.actions.iter().enumerate() {
        let at = format!("/spec/actions/{index}");
        if !is_label(&one.name) {
            context.error(&field(&at, "name"), LABEL_RULE);
        } else if !names.insert(&one.name) {
            context.error(
                &field(&at, "name"),
                format!(
                    "an action named `{}` is there already; names are unique within an observer",
                    one.name
                ),
            );
        }
        actions.push(action::check(&at, one, context));
    }
    ObserverConfig {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        entity: spec.events.entity.clone(),
        operations: spec.events.operations.clone(),
        tenant: spec.tenant.clone(),
        when: spec.when.clone(),
        on_failure: spec.on_failure,
        enrich,
        actions,
        digest: digest(spec),
    }
}

/// Digest of a spec. The order of its fields, explicit defaults and comments do not change it.
fn digest(spec: &ObserverSpec) -> [u8; 32] {
    // What was read from JSON can be written as JSON.
    let text = serde_json::to_vec(spec).unwrap_or_default();
    Sha256::digest(text).into()
}

fn check_events(events: &EventSelector, context: &mut ValidationContext<'_>) {
    let entity = &events.entity;
    if entity.trim() != entity || entity.chars().any(char::is_control) {
        context.error(
            "/spec/events/entity",
            "has white space around it or control characters in it; write schema.table",
        );
    } else if !entity.contains('.') && !events.operations.contains(&Operation::Custom) {
        context.error(
            "/spec/events/entity",
            "names no schema, so no table matches; write schema.table such as `public.orders`, or \
             add `Custom` to `operations` for events of `observer.emit`",
        );
    }
    let mut seen = BTreeSet::new();
    for (index, operation) in events.operations.iter().enumerate() {
        if !seen.insert(operation) {
            context.error(
                &format!("/spec/events/operations/{index}"),
                format!("`{}` is listed already", operation.as_str()),
            );
        }
    }
}
