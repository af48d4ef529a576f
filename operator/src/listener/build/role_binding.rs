//! That a listener's pods have their role.

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use super::Fleet;

/// The account of the same name has the role of the same name.
#[must_use]
pub fn build(fleet: &Fleet) -> RoleBinding {
    RoleBinding {
        metadata: fleet.metadata(fleet.object_name()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: fleet.object_name(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: fleet.object_name(),
            namespace: Some(fleet.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
