//! A namespace for one scenario. When the scenario fails, what is in it is written down; then it
//! is deleted.

use std::fmt::Debug;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::wait::until;
use super::{Cluster, database, figures, keep, wait};

/// Who the tests are to the API server.
pub(crate) const MANAGER: &str = "e2e";

/// Shows what the schema `observer` holds, where the scenario has a database.
const SCHEMA: [&str; 8] = [
    "exec",
    database::NAME,
    "--",
    "/usr/lib/postgresql/15/bin/psql",
    "--username=postgres",
    "--host=/var/lib/postgresql",
    "--command",
    "table observer.checkpoint; table observer.job_partition_state; table observer.job_worker; \
     table observer.job; table observer.dead_letter; table observer.log_partition_state; \
     select * from observer.change_log order by id desc limit 2000",
];

/// The namespace of a scenario.
pub(crate) struct Room {
    /// Where it is.
    pub(crate) cluster: Cluster,
    /// Its name.
    pub(crate) namespace: String,
    passed: bool,
}

/// Plays a scenario in a namespace of its own.
pub(crate) async fn scenario(name: &str, play: impl AsyncFnOnce(&Room) -> Result<()>) {
    let cluster = Cluster::connect().await.unwrap();
    let mut room = Room::make(cluster, name).await.unwrap();
    let result = play(&room).await;
    room.passed = result.is_ok();
    drop(room);
    if let Err(error) = result {
        panic!("{name}: {error:#}");
    }
}

impl Room {
    /// Makes a namespace that takes restricted pods only.
    pub(crate) async fn make(cluster: Cluster, name: &str) -> Result<Self> {
        let suffix: u32 = rand::random();
        let namespace = format!("{name}-{:06x}", suffix & 0xff_ffff);
        make_namespace(&cluster, &namespace).await?;
        Ok(Self {
            cluster,
            namespace,
            passed: false,
        })
    }

    /// The resources of a kind in this namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    /// Makes a resource what the value says.
    pub(crate) async fn apply<K>(&self, value: &Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let name = value["metadata"]["name"].as_str().context("no name")?;
        let mut value = value.clone();
        value["apiVersion"] = K::api_version(&()).into();
        value["kind"] = K::kind(&()).into();
        let how = PatchParams::apply(MANAGER).force();
        self.api::<K>()
            .patch(name, &how, &Patch::Apply(value))
            .await
            .with_context(|| format!("{} {name} cannot be applied", K::kind(&())))
    }

    /// Changes some fields of a resource.
    pub(crate) async fn merge<K>(&self, name: &str, value: Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        self.api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(value))
            .await
            .with_context(|| format!("{} {name} cannot be changed", K::kind(&())))
    }

    /// Deletes a resource; it may be there for a while.
    pub(crate) async fn delete<K>(&self, name: &str) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api::<K>()
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("{} {name} cannot be deleted", K::kind(&())))?;
        Ok(())
    }

    /// A Secret with these keys.
    pub(crate) async fn secret(&self, name: &str, keys: Value) -> Result<()> {
        let secret = json!({"metadata": {"name": name}, "stringData": keys});
        self.apply::<k8s_openapi::api::core::v1::Secret>(&secret)
            .await
            .map(drop)
    }

    /// Pods with these labels that are not on their way out.
    pub(crate) async fn pods(&self, labels: &str) -> Result<Vec<Pod>> {
        let pods = self
            .api::<Pod>()
            .list(&ListParams::default().labels(labels))
            .await?
            .items;
        let stays = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(pods.into_iter().filter(stays).collect())
    }

    /// Waits until a pod is ready.
    pub(crate) async fn pod_ready(&self, name: &str) -> Result<()> {
        let what = format!("pod {name} is ready");
        until(&what, wait::LATE, async || {
            let pod = self.api::<Pod>().get(name).await?;
            anyhow::ensure!(is_ready(&pod), "its status: {}", brief(&pod));
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Writes down everything that may say why a scenario failed.
    fn dump(&self) {
        let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let run = |arguments: &[&str]| {
            let output = Command::new(&kubectl)
                .args(["--namespace", &self.namespace, "--request-timeout", "10s"])
                .args(arguments)
                .env("KUBECONFIG", &self.cluster.kubeconfig)
                .output();
            match output {
                Ok(output) => {
                    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
                }
                Err(error) => error.to_string(),
            }
        };
        let mut text = String::new();
        for arguments in [
            &["get", "all,observers,pdb,leases,events", "-o", "wide"][..],
            &["get", "observerlisteners,observers", "-o", "yaml"],
            &["describe", "pods"],
        ] {
            let _ = writeln!(text, "# kubectl {arguments:?}\n{}", run(arguments));
        }
        for pod in run(&["get", "pods", "-o", "name"]).lines() {
            for which in ["--previous=true", "--previous=false"] {
                let logs = run(&["logs", pod, "--all-containers", "--tail=400", which]);
                let _ = writeln!(text, "# logs of {pod} {which}\n{logs}");
            }
        }
        let _ = writeln!(text, "# the schema observer\n{}", run(&SCHEMA));
        let operator = [
            "logs",
            "--namespace",
            super::installation::NAMESPACE,
            "--selector=app.kubernetes.io/name=observer-operator",
            "--tail=400",
        ];
        let _ = writeln!(text, "# the operator\n{}", run(&operator));
        let file = figures::folder().join(format!("{}.txt", self.namespace));
        eprintln!("what there was is in {}", file.display());
        let _ = std::fs::write(file, text);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.passed {
            self.dump();
        }
        if keep() {
            return;
        }
        let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        let _ = Command::new(kubectl)
            .args(["delete", "namespace", "--wait=false", "--ignore-not-found"])
            .arg(&self.namespace)
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .output();
    }
}

/// Makes a namespace that takes restricted pods only, if it is not there.
pub(crate) async fn make_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    Api::<Namespace>::all(cluster.client.clone())
        .patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(namespace))
        .await
        .with_context(|| format!("namespace {name} cannot be made"))?;
    // Pods are refused before it has its service account.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(cluster.client.clone(), name);
    until(
        "the service account of the namespace",
        wait::SOON,
        async || Ok(accounts.get("default").await?),
    )
    .await
    .map(drop)
}

/// Whether a pod is ready and stays.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
}

/// A pod's phase and what its containers wait for.
pub(crate) fn brief(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let containers: Vec<String> = status
        .container_statuses
        .unwrap_or_default()
        .into_iter()
        .filter_map(|container| container.state)
        .map(|state| serde_json::to_string(&state).unwrap_or_default())
        .collect();
    format!("{} {containers:?}", status.phase.unwrap_or_default())
}
