//! The cluster that the plugin works in, with the rights of whoever runs it.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use crds::manifest::closest;
use crds::v1alpha1::ObserverListener;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource, ResourceExt};

use crate::cli::CliError;

/// How long the API server may take to accept a connection, and to answer.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// Most objects of a kind that are listed.
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
        let listed = answer(api.list(&ListParams::default().limit(MAX_LISTED))).await?;
        Ok(listed.items)
    }

    /// Returns the pod of a listener that a command runs in: one that is ready, or where that does not matter
    /// one that runs. Without a name, of the only listener.
    pub(super) async fn pod(
        &self,
        named: Option<&str>,
        must_be_ready: bool,
    ) -> Result<Pod, CliError> {
        let name = match named {
            Some(name) => name.to_owned(),
            None => self.only_listener().await?,
        };
        let labels = format!("app.kubernetes.io/name=observer-listener,{INSTANCE}={name}");
        let chosen = ListParams::default().labels(&labels).limit(MAX_LISTED);
        let pods = answer(self.api::<Pod>().list(&chosen)).await?.items;
        let (count, mut pods): (usize, Vec<Pod>) = (pods.len(), alive(pods));
        // Always the same one, so that what is said of a process can be found again.
        pods.sort_by_key(|pod| (!is_ready(pod), pod.name_any()));
        match pods.into_iter().next() {
            Some(pod) if is_ready(&pod) || !must_be_ready => return Ok(pod),
            _ if count == 0 => {}
            _ => {
                return Err(anyhow::anyhow!(
                    "none of the {count} pods of listener {name} is ready; `kubectl observers status` and \
                     `kubectl describe observerlistener {name} --namespace {}` say why",
                    self.namespace
                )
                .into());
            }
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
        let near = closest(&name, known.iter().map(String::as_str));
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
        let there = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        Err(anyhow::anyhow!(
            "there is no listener {name} in namespace {}; {there}{near}",
            self.namespace
        )
        .into())
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

/// Returns the pods that run and are not about to end.
fn alive(pods: Vec<Pod>) -> Vec<Pod> {
    let runs = |pod: &Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
    };
    pods.into_iter().filter(runs).collect()
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
