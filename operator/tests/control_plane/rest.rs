//! Nothing is written while nothing changes.

use std::time::Duration;

use crds::resources::{Observer, ObserverListener};
use serde_json::json;

use super::plane::Operator;
use super::pods::{Told, run_pod};
use super::room::Room;
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
    told.works(&listener.status.unwrap().bundle.unwrap());
    room.listener_says("shop", ["Progressing", "False", "UpToDate"])
        .await;
    room.observer_says("orders", ["Programmed", "True", "Programmed"])
        .await;
    // Events come after the status, and the Deployment's own status may still move.
    tokio::time::sleep(Duration::from_secs(2)).await;
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
    let (before, looks) = (written().await, reconciles().await);
    tokio::time::sleep(QUIET).await;
    let after = written().await;
    if before != after {
        return Err(format!(
            "something was written at rest: {before:?}, then {after:?}"
        ));
    }
    if looks == reconciles().await {
        return Err("nothing was looked at meanwhile, so this shows nothing".to_owned());
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
