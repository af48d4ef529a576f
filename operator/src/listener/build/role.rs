//! The Role of a listener's pods: hold Leases, and read the Secrets of their one bundle. Workers have the same account
//! and hold no Leases.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use super::ListenerResources;

/// Leases cannot be bound to names: those of the members are named by their pods, and those of the
/// shards change with the number of shards. Some clusters also require `delete` to name a Lease's
/// owner.
#[must_use]
pub fn build(resources: &ListenerResources) -> Role {
    let leases = ["create", "delete", "get", "list", "update", "watch"];
    let parts = 1..=resources.bundle_parts.max(1);
    let bundle: Vec<String> = parts.map(|part| resources.bundle_part_name(part)).collect();
    Role {
        metadata: resources.metadata(resources.object_name()),
        rules: Some(vec![
            rule("coordination.k8s.io", "leases", &leases, None),
            rule("", "secrets", &["get", "list", "watch"], Some(bundle)),
        ]),
    }
}

fn rule(group: &str, resource: &str, verbs: &[&str], names: Option<Vec<String>>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: names,
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
