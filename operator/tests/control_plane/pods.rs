//! Pods that do not run: they are given an address of this machine, where their report is told.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use crds::pod_status::{
    ENDPOINT_FAILING, OpenCircuitBreakers, OwnedShard, PodReport, Role, STATUS_PATH, STATUS_PORT,
    StalledShard, TrackingReport,
};
use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use super::room::{Room, until};

/// As many as a listener has that names no number.
pub(super) const SHARDS: u16 = 8;

fn owned(shard: u16) -> OwnedShard {
    OwnedShard {
        shard,
        epoch: 3,
        since: "2026-01-01T00:00:00Z".to_owned(),
        lag_seconds: 0,
    }
}

/// A pod's report, as it would tell it.
#[derive(Clone)]
pub(super) struct Told(Arc<Mutex<PodReport>>);

impl Told {
    /// Tells a report at an address of this machine.
    pub(super) async fn at(ip: &str) -> Self {
        let told = Self(Arc::new(Mutex::new(PodReport {
            pod: String::new(),
            role: Role::Starting,
            bundle: None,
            refused: Vec::new(),
            problem: None,
            shards: Vec::new(),
            stalled: Vec::new(),
            tracking: None,
            open_circuit_breakers: OpenCircuitBreakers::default(),
            members: 1,
            lag_seconds: 0,
            backlog: 0,
            pending: 0,
            search: None,
            source: None,
        })));
        let listener = tokio::net::TcpListener::bind((ip, STATUS_PORT)).await;
        let report = told.clone();
        let answer = move || async move {
            let report = report.0.lock().unwrap().clone();
            serde_json::to_string(&report).unwrap()
        };
        let app = Router::new().route(STATUS_PATH, get(answer));
        let listener = listener.unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        told
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut PodReport)) {
        change(&mut self.0.lock().unwrap());
    }

    /// A shard of it is stalled, as its endpoint fails.
    pub(super) fn stalls(&self) {
        self.change(|report| {
            report.stalled = vec![StalledShard {
                shard: 3,
                reason: ENDPOINT_FAILING.to_owned(),
                message: "hooks.example.com answers 500".to_owned(),
                since: "2026-01-01T00:00:00Z".to_owned(),
            }];
        });
    }

    /// It works on all shards, with this bundle; all of it is told at once, so that nothing between
    /// is heard.
    pub(super) fn works(&self, bundle: &str) {
        self.change(|report| {
            report.role = Role::Active;
            report.bundle = Some(bundle.to_owned());
            report.problem = None;
            report.stalled.clear();
            report.tracking = Some(TrackingReport::default());
            report.shards = (0..SHARDS).map(owned).collect();
        });
    }
}

/// Gives the one pod of a listener that is not for jobs an address and says that it is ready.
pub(super) async fn run_pod(room: &Room, listener: &str, ip: &str) -> String {
    let api: Api<Pod> = room.api();
    let selector =
        format!("app.kubernetes.io/instance={listener},app.kubernetes.io/name=observer-listener");
    let list = async || {
        let parameters = ListParams::default().labels(&selector);
        api.list(&parameters).await.unwrap().items
    };
    until("there is a pod", async || !list().await.is_empty()).await;
    let name = list().await.remove(0).metadata.name.unwrap();
    run(&api, &name, ip).await;
    name
}

/// Says that a pod runs at an address and is ready.
pub(super) async fn run(api: &Api<Pod>, name: &str, ip: &str) {
    let now = "2026-01-01T00:00:00Z";
    let condition = |type_| json!({ "type": type_, "status": "True", "lastTransitionTime": now });
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [condition("Ready"), condition("ContainersReady")],
    } });
    let patch = Patch::Merge(&status);
    api.patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

impl Room {
    /// Waits until a deleted listener is gone, whose Job's pods end so as soon as they are there.
    pub(super) async fn gone_by_its_job(&self, listener: &str, phase: &str, said: &str) {
        let api: Api<Pod> = self.api();
        let selector = format!("batch.kubernetes.io/job-name={listener}-listener-drop");
        let parameters = ListParams::default().labels(&selector);
        until("the listener is gone", async || {
            for pod in api.list(&parameters).await.unwrap().items {
                let status = pod.status.unwrap_or_default();
                if status.phase.as_deref() == Some("Pending") {
                    let name = pod.metadata.name.unwrap();
                    end(&api, &name, phase, said).await;
                }
            }
            self.get::<ObserverListener>(listener).await.is_none()
        })
        .await;
    }
}

/// Says that a pod has ended, and what it said last.
async fn end(api: &Api<Pod>, name: &str, phase: &str, said: &str) {
    let code = i32::from(phase != "Succeeded");
    let ended = json!({ "terminated": { "exitCode": code, "message": said } });
    let container = json!({
        "name": "drop-listener", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": ended,
    });
    let status = json!({ "status": { "phase": phase, "containerStatuses": [container] } });
    let (patch, parameters) = (Patch::Merge(&status), PatchParams::default());
    // It may be gone by now.
    drop(api.patch_status(name, &parameters, &patch).await);
}
