//! What the scenarios stand on: the cluster, a namespace with a database and a receiver, a writer,
//! and the count of what arrived.

pub(crate) mod commands;
pub(crate) mod database;
pub(crate) mod figures;
pub(crate) mod fleet;
pub(crate) mod forward;
pub(crate) mod installation;
pub(crate) mod node;
pub(crate) mod reach;
pub(crate) mod resources;
pub(crate) mod room;
pub(crate) mod samples;
pub(crate) mod sink;
pub(crate) mod tally;
pub(crate) mod wait;
pub(crate) mod writer;

use std::path::PathBuf;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Image of operator and listener, without its tag.
pub(crate) const REPOSITORY: &str = "ghcr.io/fraiseql/observers";

/// Tag of the image under test.
pub(crate) const TAG: &str = "e2e";

/// Another tag of the same image.
pub(crate) const NEXT_TAG: &str = "e2e-next";

/// Image with a Postgres.
pub(crate) const POSTGRES_IMAGE: &str = "observers-postgres:e2e";

/// Image with the receiver of webhooks.
pub(crate) const SINK_IMAGE: &str = "observers-sink:e2e";

/// A cluster, and how to reach it.
#[derive(Clone)]
pub(crate) struct Cluster {
    /// A client of the administrator's. It belongs to the runtime of the test that made it.
    pub(crate) client: Client,
    /// For child processes.
    pub(crate) kubeconfig: PathBuf,
}

impl Cluster {
    /// The cluster that the environment names.
    pub(crate) async fn connect() -> Result<Self> {
        let kubeconfig = std::env::var_os("OBSERVER_E2E_KUBECONFIG")
            .context("OBSERVER_E2E_KUBECONFIG is not set; `make e2e` sets it")?;
        let kubeconfig = PathBuf::from(kubeconfig);
        let read = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self {
            client: Client::try_from(config)?,
            kubeconfig,
        })
    }
}

/// The image under test.
pub(crate) fn image() -> String {
    format!("{REPOSITORY}:{TAG}")
}

/// A folder of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// Whether what a run made is to be left as it is.
pub(crate) fn keep() -> bool {
    std::env::var_os("OBSERVER_E2E_KEEP").is_some_and(|value| !value.is_empty())
}
