//! Nothing is written while nothing changes.

use std::time::Duration;

use crds::v1alpha1::{Observer, ObserverListener};
use serde_json::json;
use testkit::wait::Patience;

use super::plane::Operator;
use super::pods::{Told, run_pod};
use super::room::{PAUSE, Room, until};
use super::scenarios::plain;

/// How long is watched; longer than between two looks at pods.
const QUIET: Duration = Duration::from_secs(13);

pub(super) async fn nothing_is_written_at_rest(
    room: Room,
    operator: &Operator,
) -> Result<(), String> {
    room.database().await;
    let told = Told::at("127.0.0.3").await;
    room.listener("shop", json!({ "deletionPolicy": "Retain" }))
        .await;
    room.observer("orders", plain()).await;
    // From here on the bundle has it.
    room.observer_says("orders", ["Programmed", "False", "Pending"])
        .await;
    run_pod(&room, "shop", "127.0.0.3").await;
    room.listener_says("shop", ["Ready", "False", "Starting"])
        .await;
    let listener: ObserverListener = room.get("shop").await.unwrap();
    told.works(&listener.status.unwrap().config_hash.unwrap());
    room.listener_says("shop", ["Progressing", "False", "UpToDate"])
        .await;
    room.observer_says("orders", ["Programmed", "True", "Programmed"])
        .await;
    let written = async || {
        let mut counts = Vec::new();
        for method in ["PATCH", "POST", "DELETE"] {
            let name = format!("observer_operator_api_requests_total{{method=\"{method}\"}}");
            counts.push(operator.metric(&name).await);
        }
        let listener: ObserverListener = room.get("shop").await.unwrap();
        let observer: Observer = room.get("orders").await.unwrap();
        let versions = (
            listener.metadata.resource_version,
            observer.metadata.resource_version,
        );
        (counts, versions)
    };
    let reconciles = async || operator.metric("observer_operator_reconciles_total").await;
    // Events come after the status, and the Deployment's own status may still move: all is at rest
    // once what was looked at anew twice has led to nothing.
    let (mut before, mut looks) = (written().await, reconciles().await);
    let mut patience = Patience::default();
    while reconciles().await < looks.map(|looks| looks + 2.0) {
        let now = written().await;
        if now != before {
            (before, looks) = (now, reconciles().await);
        }
        if !patience.lasts() {
            return Err(format!("it does not come to rest: {before:?}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let looks = reconciles().await;
    tokio::time::sleep(QUIET).await;
    // What was not looked at shows nothing.
    until("it is looked at", async || reconciles().await > looks).await;
    let after = written().await;
    if before != after {
        return Err(format!(
            "something was written at rest: {before:?}, then {after:?}"
        ));
    }
    let memory = std::fs::read_to_string(format!("/proc/{}/status", operator.process()));
    let memory = memory.unwrap_or_default();
    let resident = memory.lines().find(|line| line.starts_with("VmRSS"));
    println!(
        "the operator's memory at rest: {}",
        resident.unwrap_or("unknown")
    );
    Ok(())
}
