//! What the operator does in a real control plane.
//!
//! There is one control plane and one operator for all scenarios, each of which has a namespace of
//! its own. No pod really runs: pods are given addresses of this machine, and what they would
//! report is told there.

mod borders;
pub(crate) mod bundles;
mod ends;
mod kstatus;
mod network_policies;
pub(crate) mod plane;
mod pods;
mod rest;
pub(crate) mod room;
mod scenarios;
mod tables;
mod workers;

use plane::{Operator, Plane};
use rest::nothing_is_written_at_rest;
use room::Room;
use tokio::task::LocalSet;

use crate::chart::{Release, apply};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn in_a_control_plane() {
    let plane = Plane::start();
    let client = plane.client().await;
    plane.define(&client).await;
    let mut operator = Operator::start(&plane, None, None).await;
    let room = async |name: &str| Room::new(client.clone(), name).await;
    let playing = scenarios::all(room);
    let mut failures = Box::pin(LocalSet::new().run_until(playing)).await;
    operator.stop();
    // What others have left changes for some time yet, so this one works for itself: as the chart has it by default, with
    // rights in its own namespace alone.
    let resting = room("rest").await;
    let release = Release {
        name: "rest",
        namespace: &resting.namespace,
    };
    for object in release.render(&["rbac.yaml", "serviceaccount.yaml"], &[]) {
        apply(&client, &object).await;
    }
    let account = (release.namespace, "rest-observer-operator");
    let mut operator = Operator::start(&plane, Some(&resting.namespace), Some(account)).await;
    let quiet = nothing_is_written_at_rest(resting.clone(), &operator).await;
    failures.extend(quiet.err());
    operator.stop();
    for namespace in ["default", account.0] {
        plane.lease_is_free(&client, namespace).await;
    }
    assert!(failures.is_empty(), "{}", failures.join("; "));
}
