//! The `ServiceAccount` of a listener's pods.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::ListenerResources;

/// Builds the account. It mounts no token by default: the pods ask for theirs, so that no other pod of
/// this account gets one.
#[must_use]
pub fn build(resources: &ListenerResources) -> ServiceAccount {
    ServiceAccount {
        metadata: resources.metadata(resources.object_name()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
