//! What a listener's pods may do: hold their one Lease, read their one bundle.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use super::Fleet;

/// `delete` is what some clusters ask of whoever names the Lease's owner. `create` cannot be bound
/// to a name, because the name is not known yet when it is judged.
#[must_use]
pub fn build(fleet: &Fleet) -> Role {
    let leases = "coordination.k8s.io";
    let lease = fleet.object_name();
    Role {
        metadata: fleet.metadata(fleet.object_name()),
        rules: Some(vec![
            rule(leases, "leases", &["create"], None),
            rule(
                leases,
                "leases",
                &["delete", "get", "update", "watch"],
                Some(lease),
            ),
            rule(
                "",
                "secrets",
                &["get", "list", "watch"],
                Some(fleet.bundle_name()),
            ),
        ]),
    }
}

fn rule(group: &str, resource: &str, verbs: &[&str], name: Option<String>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: name.map(|name| vec![name]),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    }
}
