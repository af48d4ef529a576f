//! How tools judge the resources that wait for what they applied: by kstatus itself, in each state that the operator
//! writes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crds::pod_status::{ENDPOINT_FAILING, ObserverError, PodProblem};
use crds::v1alpha1::{Observer, ObserverListener};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use testkit::wait::eventually_or;

use super::pods::{Told, run_pod};
use super::room::{PAUSE, Room};
use super::scenarios::plain;

/// The program of e2e/kstatus, built once.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/kstatus/build");
    let output = Command::new(build)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "kstatus is not built");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
});

/// What kstatus says of an object: its status and message.
fn judged(object: &impl Serialize) -> String {
    let mut child = Command::new(&*PROGRAM)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{}", serde_json::to_string(object).unwrap()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Room {
    /// Waits until kstatus judges an object so.
    async fn is_judged<K>(&self, name: &str, status: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let look = async || {
            let object: K = self.get(name).await.unwrap();
            let judged = judged(&object);
            if judged.split(' ').next() == Some(status) {
                return Some(());
            }
            tokio::time::sleep(PAUSE).await;
            None
        };
        eventually_or(look, async || {
            let object: K = self.get(name).await.unwrap();
            let (judged, name) = (judged(&object), object.name_any());
            format!("{name} is {status}, not {judged}: {object:#?}")
        })
        .await;
    }

    async fn listener_is(&self, status: &str) {
        self.is_judged::<ObserverListener>("shop", status).await;
    }

    async fn observer_is(&self, name: &str, status: &str) {
        self.is_judged::<Observer>(name, status).await;
    }

    async fn config_hash(&self) -> String {
        let listener: ObserverListener = self.get("shop").await.unwrap();
        listener.status.unwrap().config_hash.unwrap()
    }
}

pub(super) async fn kstatus_judges_each_state(room: Room) {
    let told = Told::at("127.0.0.6").await;
    // In the order of a repository: the Secret comes last.
    room.observer("orders", plain()).await;
    room.observer_says("orders", ["Accepted", "Unknown", "NotSelected"])
        .await;
    room.observer_is("orders", "InProgress").await;
    room.listener("shop", json!({ "deletionPolicy": "Retain" }))
        .await;
    room.listener_says("shop", ["Ready", "False", "SecretMissing"])
        .await;
    room.listener_is("InProgress").await;
    room.database().await;
    room.listener_says("shop", ["Progressing", "True", "RollingOut"])
        .await;
    room.listener_is("InProgress").await;
    room.observer_is("orders", "InProgress").await;

    let pod = run_pod(&room, "shop", "127.0.0.6").await;
    told.works(&room.config_hash().await);
    room.listener_is("Current").await;
    room.observer_is("orders", "Current").await;

    // A receiver that is down is no fault of what was applied.
    told.stalls();
    room.listener_says("shop", ["DeliveryStalled", "True", ENDPOINT_FAILING])
        .await;
    room.listener_is("Current").await;
    room.observer_is("orders", "Current").await;
    told.change(|report| {
        report.problem = Some(PodProblem {
            reason: "DatabaseUnreachable".to_owned(),
            message: format!("{pod} cannot reach it"),
        });
    });
    room.listener_says("shop", ["Ready", "False", "DatabaseUnreachable"])
        .await;
    room.listener_is("InProgress").await;
    told.works(&room.config_hash().await);

    a_change_is_judged(&room, &told).await;
    what_is_wrong_is_judged(&room).await;
}

/// An observer that comes, which the pods find wrong.
async fn a_change_is_judged(room: &Room, told: &Told) {
    room.listener_is("Current").await;
    room.observer("more", plain()).await;
    room.listener_says("shop", ["Progressing", "True", "LoadingBundle"])
        .await;
    room.listener_is("InProgress").await;
    room.observer_is("more", "InProgress").await;
    room.observer_is("orders", "Current").await;
    told.works(&room.config_hash().await);
    let refused = ObserverError {
        observer: format!("{}/more", room.namespace),
        path: "spec.when".to_owned(),
        message: "has no such field".to_owned(),
    };
    told.change(|report| report.refused = vec![refused]);
    room.observer_is("more", "Failed").await;
    room.listener_is("Current").await;
    room.edit::<Observer>("orders", json!({ "spec": { "suspend": true } }))
        .await;
    room.observer_says("orders", ["Programmed", "False", "Suspended"])
        .await;
    room.observer_is("orders", "Current").await;
}

async fn what_is_wrong_is_judged(room: &Room) {
    let wrong = json!({ "deletionPolicy": "Retain", "queue": { "backend": "Redis" },
        "redis": { "url": { "value": "http://redis" } } });
    room.listener("shop", wrong).await;
    room.listener_says("shop", ["Ready", "False", "Invalid"])
        .await;
    room.listener_is("Failed").await;
    let stopped = json!({ "deletionPolicy": "Retain", "replicas": 0 });
    room.listener("shop", stopped).await;
    room.listener_says("shop", ["Ready", "False", "ScaledToZero"])
        .await;
    // It delivers nothing, so it is not ready, and kstatus goes on waiting for it.
    room.listener_is("InProgress").await;
    room.observer_is("orders", "Current").await;
}
