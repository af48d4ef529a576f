//! The Secrets with the bundle that a listener's pods run.

use std::collections::BTreeMap;

use crds::bundle::{BUNDLE_KEY, HASH_ANNOTATION, LISTENER_KEY, PARTS_ANNOTATION};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::ListenerResources;
use crate::listener::validate::Bundle;

/// Builds the Secrets, the first one first. They are annotated with the hash that the pods report once they run the
/// bundle.
#[must_use]
pub fn build(resources: &ListenerResources, bundle: &Bundle) -> Vec<Secret> {
    let parts = bundle.packed.parts().iter().enumerate();
    parts
        .map(|(n, part)| {
            let mut metadata = resources.metadata(resources.bundle_part_name(n + 1));
            let mut annotations =
                BTreeMap::from([(HASH_ANNOTATION.to_owned(), bundle.id.hash.clone())]);
            let mut data = BTreeMap::from([(BUNDLE_KEY.to_owned(), ByteString(part.clone()))]);
            if n == 0 {
                annotations.insert(PARTS_ANNOTATION.to_owned(), bundle.id.parts.to_string());
                let listener = bundle.listener.reveal().as_bytes().to_vec();
                data.insert(LISTENER_KEY.to_owned(), ByteString(listener));
            }
            metadata.annotations = Some(annotations);
            Secret {
                metadata,
                data: Some(data),
                type_: Some("Opaque".to_owned()),
                ..Secret::default()
            }
        })
        .collect()
}
