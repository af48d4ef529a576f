//! The Secret with the bundle that a listener's pods run.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::{BUNDLE_HASH, ListenerResources};

/// Key of the bundle within its Secret.
pub const KEY: &str = "bundle.yaml";

/// Builds the Secret, annotated with the hash that the pods report once they run the bundle.
#[must_use]
pub fn build(resources: &ListenerResources, text: &str, hash: &str) -> Secret {
    let mut metadata = resources.metadata(resources.bundle_name());
    metadata.annotations = Some(BTreeMap::from([(BUNDLE_HASH.to_owned(), hash.to_owned())]));
    Secret {
        metadata,
        data: Some(BTreeMap::from([(
            KEY.to_owned(),
            ByteString(text.as_bytes().to_vec()),
        )])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}
