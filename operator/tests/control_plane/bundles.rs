//! Bundles of many observers: divided over Secrets, and as large as there is room for.

use std::collections::BTreeSet;

use crds::bundle::{BUNDLE_KEY, HASH_ANNOTATION, PARTS_ANNOTATION, part_name, unpack};
use crds::v1alpha1::Observer;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::Role;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use testkit::wait::eventually;

use super::room::{Room, until};
use crate::golden::large_spec;

/// Names of the Secrets of a listener's bundle, the first of which is there.
async fn parts(room: &Room, listener: &str) -> Vec<String> {
    let name = format!("{listener}-listener-bundle");
    let first: Secret = room.get(&name).await.unwrap();
    let annotations = first.metadata.annotations.unwrap();
    let count: usize = annotations[PARTS_ANNOTATION].parse().unwrap();
    (1..=count).map(|part| part_name(&name, part)).collect()
}

/// The text of a listener's bundle, from all of its Secrets; nothing while these are of different ones.
async fn read(room: &Room, listener: &str) -> Option<String> {
    let (mut pieces, mut hashes) = (Vec::new(), BTreeSet::new());
    for name in parts(room, listener).await {
        let secret: Secret = room.get(&name).await?;
        hashes.insert(secret.metadata.annotations?.remove(HASH_ANNOTATION)?);
        pieces.push(secret.data?.remove(BUNDLE_KEY)?.0);
    }
    let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
    let text = unpack(&pieces).ok().filter(|_| hashes.len() == 1)?;
    Some(String::from_utf8(text).unwrap())
}

/// The text of a listener's bundle.
pub(crate) async fn bundle_text(room: &Room, listener: &str) -> String {
    eventually("the parts of a bundle belong together", async || {
        read(room, listener).await
    })
    .await
}

async fn large_observer(room: &Room, name: &str, bytes: usize, random: &mut StdRng) {
    let spec = json!({ "spec": large_spec(bytes, random) });
    room.apply::<Observer>(name, spec).await;
}

/// Waits until the bundle has these observers and no others.
async fn has_all(room: &Room, names: &[String]) {
    until("the bundle has all observers", async || {
        let Some(text) = read(room, "shop").await else {
            return false;
        };
        let count = text.matches("\"kind\":\"Observer\"").count();
        count == names.len()
            && names
                .iter()
                .all(|name| text.contains(&format!("\"{name}\"")))
    })
    .await;
}

pub(super) async fn bundle_grows_beyond_one_secret_and_shrinks_again(room: Room) {
    let random = &mut StdRng::seed_from_u64(7);
    room.database().await;
    room.listener("shop", json!({})).await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    let mut names: Vec<String> = (0..4).map(|n| format!("large-{n}")).collect();
    for name in &names {
        large_observer(&room, name, 900_000, random).await;
    }
    has_all(&room, &names).await;
    let all_parts = parts(&room, "shop").await;
    assert_eq!(all_parts.len(), 3);
    let may_read = async || {
        let role: Role = room.get("shop-listener").await.unwrap();
        role.rules.unwrap().remove(1).resource_names.unwrap()
    };
    assert_eq!(may_read().await, all_parts);

    // A part that somebody deletes comes back.
    room.delete::<Secret>(&all_parts[1]).await;
    has_all(&room, &names).await;

    for name in names.drain(1..) {
        room.delete::<Observer>(&name).await;
    }
    has_all(&room, &names).await;
    assert_eq!(parts(&room, "shop").await.len(), 1);
    for part in &all_parts[1..] {
        room.gone::<Secret>(part).await;
    }
    assert_eq!(may_read().await, all_parts[..1]);
}
