//! The `RoleBinding` of a listener's pods.

use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use super::ListenerResources;

/// Binds the Role to the `ServiceAccount` of the same name.
#[must_use]
pub fn build(resources: &ListenerResources) -> RoleBinding {
    RoleBinding {
        metadata: resources.metadata(resources.object_name()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: resources.object_name(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: resources.object_name(),
            namespace: Some(resources.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
