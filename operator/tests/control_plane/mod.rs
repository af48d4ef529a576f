//! What the operator does in a real control plane.
//!
//! There is one control plane and one operator for all scenarios, each of which has a namespace of
//! its own. No pod really runs: pods are given addresses of this machine, and what they would
//! report is told there.

mod borders;
mod ends;
mod kstatus;
mod plane;
mod pods;
mod rest;
mod room;
mod scenarios;
mod tables;
mod workers;

use plane::{Operator, Plane};
use room::Room;
use tokio::task::LocalSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn in_a_control_plane() {
    let plane = Plane::start();
    let client = plane.client().await;
    plane.define(&client).await;
    let mut operator = Operator::start(&plane).await;
    let room = async |name: &str| Room::new(client.clone(), name).await;
    let playing = scenarios::all(room, &operator);
    let failures = Box::pin(LocalSet::new().run_until(playing)).await;
    operator.stop();
    plane.lease_is_free(&client).await;
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
