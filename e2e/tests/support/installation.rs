//! The operator, installed by its chart.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, CustomResourceExt};

use super::figures::folder;
use super::room::{MANAGER, is_ready, make_namespace};
use super::wait::{self, until};
use super::{Cluster, REPOSITORY, TAG, repository};

/// Namespace of the operator, as the docs print it.
pub(crate) const NAMESPACE: &str = "observers";

/// Name of the release, as the docs print it.
pub(crate) const RELEASE: &str = "observers";

/// Name of the Deployment that this release has.
pub(crate) const DEPLOYMENT: &str = "observers-observer-operator";

/// Installs the operator unless it is there, and waits until it is ready.
pub(crate) async fn installed(cluster: &Cluster) -> Result<()> {
    let _turn = turn().await?;
    if deployments(cluster).get_opt(DEPLOYMENT).await?.is_some() {
        ready(cluster).await.map(drop)
    } else {
        upgrade(cluster).await.map(drop)
    }
}

/// Installs or upgrades the chart and gives the time until it was ready.
pub(crate) async fn install(cluster: &Cluster) -> Result<Duration> {
    let _turn = turn().await?;
    upgrade(cluster).await
}

/// Scenarios that run at once install one after the other, as Helm refuses to work on a release twice
/// at the same time. The turn ends with the file.
pub(crate) async fn turn() -> Result<File> {
    let file = File::create(folder().join("install.lock"))?;
    Ok(tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??)
}

async fn upgrade(cluster: &Cluster) -> Result<Duration> {
    make_namespace(cluster, NAMESPACE).await?;
    let start = Instant::now();
    let [chart, set, image] = chart();
    cluster
        .helm(&[
            "upgrade",
            "--install",
            RELEASE,
            &chart,
            "--namespace",
            NAMESPACE,
            &set,
            &image,
            "--set",
            "watch.allNamespaces=true",
            "--wait",
            "--timeout",
            "3m",
        ])
        .await?;
    ready(cluster).await?;
    Ok(start.elapsed())
}

/// The chart of this repository with the image under test, as arguments of helm.
pub(crate) fn chart() -> [String; 3] {
    let chart = repository("charts/observer-operator");
    let image = format!("image.repository={REPOSITORY},image.tag={TAG}");
    [
        chart.to_string_lossy().into_owned(),
        "--set".to_owned(),
        image,
    ]
}

/// Waits until a pod of the operator is ready.
pub(crate) async fn ready(cluster: &Cluster) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let labels = ListParams::default().labels("app.kubernetes.io/name=observer-operator");
    let (pod, _) = until("the operator is ready", wait::LATE, async || {
        let pods = pods.list(&labels).await?.items;
        let ready = pods.into_iter().find(is_ready);
        ready.context("no pod of it is ready")
    })
    .await?;
    Ok(pod)
}

/// The operator's Deployment.
pub(crate) fn deployments(cluster: &Cluster) -> Api<Deployment> {
    Api::namespaced(cluster.client.clone(), NAMESPACE)
}

/// Sees to it that the resources are defined, for scenarios without an operator.
pub(crate) async fn defined(cluster: &Cluster) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    for definition in [ObserverListener::crd(), Observer::crd()] {
        let name = definition.metadata.name.clone().context("no name")?;
        if definitions.get_opt(&name).await?.is_none() {
            definitions
                .patch(
                    &name,
                    &PatchParams::apply(MANAGER),
                    &Patch::Apply(definition),
                )
                .await?;
        }
        until("the resources are served", wait::SOON, async || {
            let definition = definitions.get(&name).await?;
            let conditions = definition.status.and_then(|status| status.conditions);
            let established = conditions.is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|one| one.type_ == "Established" && one.status == "True")
            });
            ensure!(established, "{name} is not established");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
