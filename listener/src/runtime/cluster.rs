//! A listener's pod in a cluster: runs what its bundle says, and shares the shards with the other pods
//! by Leases.
//!
//! Nothing that can be repaired from outside ends the process: not a database outage, not a missing
//! schema, not an invalid bundle. It is reported on `/status` with its remedy and retried. Meanwhile the
//! pod takes no part, so that other pods may do the work if they can.
//!
//! The Leases keep pods from working on the same shard in the ordinary course. That none of them can do
//! harm when that fails, such as a pod that was paused, is what the epochs of the checkpoints are for.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Config};
use server::metrics_access::{self, MetricsAccess};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::bundle_source::BundleSource;
pub use super::drop_listener::{
    RemovalLimits, RemoveDocumentsError, drop_listener, remove_documents,
};
use super::error::RunError;
use super::stored_bundle;
use super::supervisor::{self, ProcessOptions};
use crate::coordination::membership::MemberIdentity;

/// How long the API server may take to send a bundle.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// What lets a pod ask whose a token is.
const ASKING: &str = "an administrator binds system:auth-delegator to the service account of the listener's pods, \
                      with rbac.tokenReviews of the chart, as docs/how-to/kubernetes.md says";

/// Identity of a pod, and what it is to run.
#[derive(Clone, Debug)]
pub struct PodOptions {
    /// Namespace of the pod, its bundle and the Leases; that of the client if absent.
    pub namespace: Option<String>,
    /// Name of the Secret with the bundle.
    pub bundle: String,
    /// Name of the listener.
    pub listener: String,
    /// The pod.
    pub member: MemberIdentity,
    /// Whether it works on jobs only, and on no shard.
    pub dedicated_worker: bool,
    /// Address of `/healthz`, `/readyz`, `/status` and `/metrics`; none is served if absent.
    pub listen: Option<SocketAddr>,
    /// Address of the HTTP API; it is not served if absent.
    pub api_listen: Option<SocketAddr>,
    /// Whether metrics need the token of a user who may read them.
    pub authorize_metrics: bool,
}

/// Why the process ended other than by a stop.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no API server to reach.
    #[error(
        "cannot tell how to reach the cluster: {0}. Run it in a pod, name a cluster with KUBECONFIG, or run files with -f FILE"
    )]
    NoCluster(#[source] kube::Error),
    /// The supervisor failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Creates a client that does not retry by itself: its user retries, with what was learned meanwhile.
async fn client() -> Result<Client, kube::Error> {
    let mut config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    config.default_retry = false;
    Client::try_from(config)
}

/// Why the bundle of a listener cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadBundleError {
    /// There is no API server to reach.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The API server rejects the request, or cannot be reached.
    #[error("cannot read the Secret {name} of namespace {namespace}: {}", api_error(.source))]
    Api {
        /// Name of the Secret.
        name: String,
        /// Its namespace.
        namespace: String,
        /// What the client says.
        source: Box<kube::Error>,
    },
    /// The API server does not answer in time.
    #[error(
        "cannot read the Secret {name} of namespace {namespace}: the API server has not answered within {} s",
        READ_TIMEOUT.as_secs()
    )]
    TimedOut {
        /// Name of the Secret.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// It is not there, or holds no bundle.
    #[error("{0}")]
    Missing(String),
}

/// Describes an error of the API server. An error of decoding would repeat what it could not decode.
pub(super) fn api_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::SerdeError(_) => "its content is no Secret".to_owned(),
        error => error.to_string(),
    }
}

/// Reads the bundle of a listener once, with the rights of whoever asks.
pub async fn read_bundle(namespace: Option<&str>, name: &str) -> Result<String, ReadBundleError> {
    let client = client().await.map_err(ClusterError::NoCluster)?;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace());
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = timeout(READ_TIMEOUT, secrets.get_opt(name))
        .await
        .map_err(|_| ReadBundleError::TimedOut {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        })?
        .map_err(|source| ReadBundleError::Api {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            source: Box::new(source),
        })?;
    let bytes = stored_bundle::read(&secrets, secret.as_ref(), name)
        .await
        .map_err(|error| ReadBundleError::Missing(error.to_string()))?;
    String::from_utf8(bytes)
        .map_err(|_| ReadBundleError::Missing(format!("the bundle in {name} is not UTF-8 text")))
}

/// Runs until `stop`.
pub async fn run(options: PodOptions, stop: CancellationToken) -> Result<(), ClusterError> {
    let client = client().await.map_err(ClusterError::NoCluster)?;
    let namespace = options
        .namespace
        .unwrap_or_else(|| client.default_namespace().to_owned());
    // The bundle may come late, and what is measured has a name from the start.
    let process = ProcessOptions {
        listener: format!("{namespace}/{}", options.listener),
        member: options.member,
        listen: options.listen,
        api_listen: options.api_listen,
        console: false,
        metrics: None,
        metrics_access: if options.authorize_metrics {
            MetricsAccess::authorized(&client, metrics_access::MAX_AGE, ASKING)
        } else {
            MetricsAccess::default()
        },
    };
    let source = BundleSource::new(client, &namespace, options.bundle, options.dedicated_worker);
    Ok(supervisor::run(source, process, stop).await?)
}
