//! Who a listener's pods are.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::ListenerResources;

/// The pods ask for their token themselves, so that nothing else that runs by this account has one.
#[must_use]
pub fn build(resources: &ListenerResources) -> ServiceAccount {
    ServiceAccount {
        metadata: resources.metadata(resources.object_name()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
