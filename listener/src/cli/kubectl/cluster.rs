//! The cluster that the plugin works in, with the rights of whoever runs it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource, ResourceExt};

use crate::cli::{CliError, did_you_mean};

/// How long the API server may take to accept a connection, and to answer.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// Most objects of a kind that are listed at once.
const MAX_LISTED: u32 = 1000;

/// Label with the name of a listener.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Where the listener is, as for kubectl.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// Namespace; default: that of the context
    #[arg(long, short, global = true, value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// Listener; default: the only one of the namespace
    #[arg(long, short, global = true, value_name = "NAME")]
    pub(super) listener: Option<String>,
    /// Context of the kubeconfig; default: its current one
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// File with contexts; default: `KUBECONFIG`, or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A namespace of a cluster.
pub(super) struct Cluster {
    client: Client,
    pub(super) namespace: String,
}

impl ClusterArgs {
    /// Prepares to talk to the API server.
    pub(super) async fn open(&self) -> Result<Cluster, CliError> {
        let cannot = |error: &dyn std::fmt::Display| {
            CliError::Config(format!("cannot tell how to reach the cluster: {error}"))
        };
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match &self.kubeconfig {
            Some(file) => {
                let file = Kubeconfig::read_from(file).map_err(|error| cannot(&error))?;
                let config = Config::from_custom_kubeconfig(file, &options).await;
                config.map_err(|error| cannot(&error))?
            }
            None if self.context.is_some() => {
                let config = Config::from_kubeconfig(&options).await;
                config.map_err(|error| cannot(&error))?
            }
            None => Config::infer().await.map_err(|error| cannot(&error))?,
        };
        config.connect_timeout = Some(TIMEOUTS.0);
        config.default_retry = false;
        let namespace = self.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| cannot(&error))?;
        Ok(Cluster { client, namespace })
    }
}

impl Cluster {
    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Lists the listeners of the namespace, or of all.
    pub(super) async fn listeners(&self, all: bool) -> Result<Vec<ObserverListener>, CliError> {
        let api = if all {
            Api::all(self.client.clone())
        } else {
            self.api()
        };
        let (mut listed, mut part) = (Vec::new(), ListParams::default().limit(MAX_LISTED));
        loop {
            let page = answer(api.list(&part)).await?;
            listed.extend(page.items);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => part = part.continue_token(&next),
                _ => return Ok(listed),
            }
        }
    }

    /// Returns the pod of a listener that a command runs in, which is ready. Without a name, of the only
    /// listener.
    pub(super) async fn pod(&self, named: Option<&str>) -> Result<Pod, CliError> {
        let name = match named {
            Some(name) => name.to_owned(),
            None => self.only_listener().await?,
        };
        let labels = format!("app.kubernetes.io/name=observer-listener,{INSTANCE}={name}");
        let chosen = ListParams::default().labels(&labels).limit(MAX_LISTED);
        let mut pods = answer(self.api::<Pod>().list(&chosen)).await?.items;
        pods.retain(|pod| is_of_deployment(pod, &name));
        let count = pods.len();
        // Always the same one, so that what is said of a process can be found again.
        let ready = pods
            .into_iter()
            .filter(|pod| is_alive(pod) && is_ready(pod));
        if let Some(pod) = ready.min_by_key(ResourceExt::name_any) {
            return Ok(pod);
        }
        if count > 0 {
            return Err(anyhow::anyhow!(
                "none of the {count} pods of listener {name} is ready; `kubectl observers status` and \
                 `kubectl describe observerlistener {name} --namespace {}` say why",
                self.namespace
            )
            .into());
        }
        let known: Vec<String> = self
            .listeners(false)
            .await?
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        if known.contains(&name) {
            return Err(anyhow::anyhow!(
                "listener {name} has no pods: it may have replicas: 0, or the operator does not run"
            )
            .into());
        }
        Err(self.absent("listener", &name, &known))
    }

    /// Says that the namespace has no object of this name, and which one may be meant.
    pub(super) fn absent(&self, kind: &str, name: &str, known: &[String]) -> CliError {
        let there = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        let (namespace, hint) = (&self.namespace, did_you_mean(name, known));
        anyhow::anyhow!("there is no {kind} {name} in namespace {namespace}; it has {there}{hint}")
            .into()
    }

    async fn only_listener(&self) -> Result<String, CliError> {
        let known = self.listeners(false).await?;
        let names: Vec<String> = known.iter().map(ResourceExt::name_any).collect();
        match &names[..] {
            [one] => Ok(one.clone()),
            [] => Err(anyhow::anyhow!(
                "there is no listener in namespace {}; name another one with --namespace",
                self.namespace
            )
            .into()),
            _ => Err(CliError::Config(format!(
                "namespace {} has several listeners: name one with --listener: {}",
                self.namespace,
                names.join(", ")
            ))),
        }
    }
}

/// Returns whether a pod says that it belongs to the Deployment of a listener. That is no proof, as whoever creates
/// a pod may write that too; it only keeps out pods that have the labels and nothing else.
fn is_of_deployment(pod: &Pod, listener: &str) -> bool {
    let deployment = format!("{listener}-listener-");
    pod.owner_references().iter().any(|owner| {
        let is_controller = owner.controller == Some(true) && owner.kind == "ReplicaSet";
        // What follows is a hash, and no more of the name of another Deployment.
        let hash = owner.name.strip_prefix(&deployment);
        is_controller && hash.is_some_and(|hash| !hash.is_empty() && !hash.contains('-'))
    })
}

/// Returns whether a pod runs and is not about to end.
fn is_alive(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Waits for an answer of the API server. What it forbids it names, with the verb and the resource.
pub(super) async fn answer<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(TIMEOUTS.1, request).await {
        Ok(answered) => answered.map_err(|error| failure(&error)),
        Err(_) => Err(anyhow::anyhow!("the API server does not answer").into()),
    }
}

/// Describes an error of a request.
pub(super) fn failure(error: &kube::Error) -> CliError {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => {
            anyhow::anyhow!("you may not do this: {}", status.message)
        }
        kube::Error::Api(status) => anyhow::anyhow!("{}", status.message),
        error => {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !why.contains(&cause_text) {
                    why = format!("{why}: {cause_text}");
                }
                source = cause.source();
            }
            anyhow::anyhow!("cannot reach the API server: {why}")
        }
    }
    .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_belongs_to_the_deployment_of_its_listener() {
        let owned = |owner: serde_json::Value| {
            let pod = json!({"metadata": {"name": "a", "ownerReferences": [owner]}});
            is_of_deployment(&serde_json::from_value(pod).unwrap(), "shop")
        };
        let by = |kind: &str, name: &str, controller: bool| {
            owned(
                json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": controller}),
            )
        };
        assert!(by("ReplicaSet", "shop-listener-5d9c7b", true));
        for (kind, name, controller) in [
            ("ReplicaSet", "shop-listener-5d9c7b", false),
            ("Job", "shop-listener-5d9c7b", true),
            ("ReplicaSet", "shop-listener-", true),
            ("ReplicaSet", "shop-listener", true),
            ("ReplicaSet", "shop-listener-listener-5d9c7b", true),
            ("ReplicaSet", "shopping-listener-5d9c7b", true),
        ] {
            assert!(!by(kind, name, controller), "{kind} {name} {controller}");
        }
        assert!(!is_of_deployment(&Pod::default(), "shop"));
    }
}
