//! The network policy of a listener follows its observers.

use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::bundles::bundle_text;
use super::room::{Room, until};

const NAME: &str = "shop-listener";

/// Returns the rules of egress, if there are any.
async fn egress(room: &Room) -> Option<Value> {
    let policy: NetworkPolicy = room.get(NAME).await?;
    let rules = policy.spec?.egress?;
    Some(serde_json::to_value(rules).unwrap())
}

async fn admits(room: &Room, port: u16) -> bool {
    let port = json!({ "port": port, "protocol": "TCP" });
    let rules = egress(room).await.unwrap_or_default();
    let has_port = |rule: &Value| {
        rule["ports"]
            .as_array()
            .is_some_and(|all| all.contains(&port))
    };
    rules.as_array().is_some_and(|all| all.iter().any(has_port))
}

pub(super) async fn derived_policy_follows_observers(room: Room) {
    let url = "postgres://u:s3cret@db.data.svc.cluster.local/shop";
    room.secret("db", "url", url).await;
    let derived = json!({
        "networkPolicy": { "egress": "Derived" },
        "egress": { "allow": ["10.0.0.0/8", "fd00::/8"] },
    });
    room.listener("shop", derived).await;
    until("egress is restricted", async || {
        egress(&room).await.is_some()
    })
    .await;
    let rules = egress(&room).await.unwrap().to_string();
    assert!(
        rules.contains("\"data\"") && !rules.contains("s3cret"),
        "{rules}"
    );

    room.observer(
        "orders",
        json!({ "value": "https://hooks.example.com:8443/a" }),
    )
    .await;
    until("its endpoint is admitted", async || {
        admits(&room, 8443).await
    })
    .await;
    until("it is in the bundle", async || {
        bundle_text(&room, "shop").await.contains("\"orders\"")
    })
    .await;
    // All versions are of one sequence: what is admitted was written first.
    let policy: NetworkPolicy = room.get(NAME).await.unwrap();
    let bundle: Secret = room.get("shop-listener-bundle").await.unwrap();
    let version = |text: Option<String>| text.unwrap().parse::<u64>().unwrap();
    assert!(version(policy.resource_version()) < version(bundle.resource_version()));

    // Addresses of both families, each with a port of its own.
    let literal = |host: &str| json!({ "value": format!("http://{host}/a") });
    room.observer("v4", literal("10.1.2.3:8004")).await;
    room.observer("v6", literal("[fd00::3]:8006")).await;
    until("literal addresses are admitted", async || {
        admits(&room, 8004).await && admits(&room, 8006).await
    })
    .await;
    room.delete::<Observer>("orders").await;
    until("it is admitted no longer", async || {
        !admits(&room, 8443).await
    })
    .await;

    let open = json!({ "spec": { "networkPolicy": { "egress": "Open" } } });
    room.edit::<ObserverListener>("shop", open).await;
    until("egress is not restricted", async || {
        egress(&room).await.is_none()
    })
    .await;
    let policy: NetworkPolicy = room.get(NAME).await.unwrap();
    let types = policy.spec.unwrap().policy_types.unwrap();
    assert_eq!(types, ["Ingress"]);
}
