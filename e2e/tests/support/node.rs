//! Faults of the node: processes of pods that are killed or paused, an API server that is away, a
//! kubelet that does not look.
//!
//! In the cluster of our own making containers are processes of this machine, and components are
//! in the hands of `e2e/cluster/component`. With kind, all of it is done in the node's container;
//! its pods run under systemd's kubelet and the API server is a pod of a manifest.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use tokio::process::Command;

use super::room::Room;
use super::wait::{LATE, until};
use super::{Cluster, repository};

/// Longest that a command may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// The container of kind's only node.
const KIND: &str = "observers-e2e-control-plane";

/// Where kind's kubelet looks for the API server's pod, and where it does not.
const MANIFEST: [&str; 2] = [
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/kube-apiserver.yaml",
];

/// What a process is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ends it at once.
    Kill,
    /// Pauses it.
    Stop,
    /// Lets it go on.
    Continue,
    /// To Postgres: ends, after its clients have been told to go.
    Interrupt,
    /// To Postgres: ends at once, to recover at the next start.
    Quit,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Continue => "CONT",
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
        }
    }
}

/// The only node of the cluster.
pub(crate) enum Node {
    /// Of the cluster in this folder.
    Own(PathBuf),
    /// A container.
    Kind,
}

impl Node {
    /// The node of a cluster.
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let folder = cluster.kubeconfig.parent().context("no folder")?;
        if folder.join("settings").is_file() {
            return Ok(Self::Own(folder.to_owned()));
        }
        Ok(Self::Kind)
    }

    /// The process that a pod's only container began with, by its number on the node.
    pub(crate) async fn process(&self, room: &Room, pod: &str) -> Result<u32> {
        let found = room.api::<Pod>().get(pod).await?;
        let containers = found.status.and_then(|status| status.container_statuses);
        let id = containers
            .into_iter()
            .flatten()
            .filter(|container| {
                let state = container.state.as_ref();
                state.is_some_and(|state| state.running.is_some())
            })
            .find_map(|container| container.container_id)
            .with_context(|| format!("{pod} has no container that runs"))?;
        let id = id.rsplit('/').next().unwrap_or_default();
        ensure!(id.len() >= 32, "{id:?} is not the id of a container");
        // Of all processes in the container's cgroup, the one that is the first in its namespace.
        let find = format!(
            "for process in /proc/[0-9]*; do \
                 grep -qs {id} $process/cgroup || continue; \
                 grep -qs '^NSpid:.*[[:space:]]1$' $process/status && echo ${{process#/proc/}}; \
             done; true"
        );
        let found = self.shell(&find).await?;
        let numbers: Vec<&str> = found.split_whitespace().collect();
        match numbers[..] {
            [number] => Ok(number.parse()?),
            _ => bail!("the processes that {pod} began with: {numbers:?}"),
        }
    }

    /// Sends a signal to a process.
    pub(crate) async fn signal(&self, process: u32, signal: Signal) -> Result<()> {
        ensure!(process > 1, "{process} is no process of a pod");
        let command = format!("kill -{} {process}", signal.name());
        self.shell(&command).await.map(drop)
    }

    /// Ends a pod's process at once and gives its number.
    pub(crate) async fn kill(&self, room: &Room, pod: &str) -> Result<u32> {
        let process = self.process(room, pod).await?;
        self.signal(process, Signal::Kill).await?;
        Ok(process)
    }

    /// Takes the API server away, with no farewell to those that watch.
    pub(crate) async fn stop_api_server(&self) -> Result<()> {
        match self {
            Self::Own(_) => self.component("kill", "kube-apiserver").await,
            Self::Kind => self.move_manifest(MANIFEST[0], MANIFEST[1]).await,
        }
    }

    /// Gives it back, and waits until it answers. Does nothing when it is there.
    pub(crate) async fn start_api_server(&self, cluster: &Cluster) -> Result<()> {
        match self {
            Self::Own(_) => self.component("start", "kube-apiserver").await?,
            Self::Kind => self.move_manifest(MANIFEST[1], MANIFEST[0]).await?,
        }
        until("the API server is ready", LATE, async || {
            let ready = http::Request::get("/readyz").body(Vec::new())?;
            Ok(cluster.client.request_text(ready).await?)
        })
        .await
        .map(drop)
    }

    /// Keeps the kubelet from looking after its pods.
    pub(crate) async fn pause_kubelet(&self) -> Result<()> {
        match self {
            Self::Own(_) => self.component("pause", "kubelet").await,
            Self::Kind => self.shell("systemctl kill -s STOP kubelet").await.map(drop),
        }
    }

    /// Lets the kubelet look again.
    pub(crate) async fn resume_kubelet(&self) -> Result<()> {
        match self {
            Self::Own(_) => self.component("resume", "kubelet").await,
            Self::Kind => self.shell("systemctl kill -s CONT kubelet").await.map(drop),
        }
    }

    async fn move_manifest(&self, from: &str, to: &str) -> Result<()> {
        let command = format!("[ ! -f {from} ] || mv {from} {to}");
        self.shell(&command).await.map(drop)
    }

    async fn component(&self, action: &str, name: &str) -> Result<()> {
        let Self::Own(folder) = self else {
            bail!("kind has no component {name}");
        };
        let script = repository("e2e/cluster/component");
        let mut command = Command::new(script);
        command.arg(folder).args([action, name]);
        run(command).await.map(drop)
    }

    /// Runs a command where the node's processes are seen.
    async fn shell(&self, script: &str) -> Result<String> {
        let mut command = match self {
            Self::Own(_) => Command::new("sh"),
            Self::Kind => {
                let mut command = Command::new("docker");
                command.args(["exec", KIND, "sh"]);
                command
            }
        };
        command.args(["-c", script]);
        run(command).await
    }
}

async fn run(mut command: Command) -> Result<String> {
    let said = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{said} took more than {PATIENCE:?}"))?
        .with_context(|| format!("{said} cannot be started"))?;
    if !output.status.success() {
        bail!("{said}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
