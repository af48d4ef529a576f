//! The way to a port of a pod: straight to its address where this machine has a route to pods, as
//! it has to those of the cluster of our own making, and else by the API server. Only the straight
//! way is there when the API server is not.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, Uri};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config};
use tokio::net::TcpStream;

use super::forward::Forward;
use super::room::Room;

/// How long a pod may take to answer on the straight way.
const PATIENCE: Duration = Duration::from_secs(1);

/// A way to a port of a pod, as long as the value lives.
pub(crate) struct Way {
    /// `host:port` to connect to.
    pub(crate) at: String,
    forward: Option<Forward>,
}

impl Way {
    /// Finds a way; the pod must have an address already.
    pub(crate) async fn to(room: &Room, pod: &str, port: u16) -> Result<Self> {
        let found = room.api::<Pod>().get(pod).await?;
        let address = found.status.and_then(|status| status.pod_ip);
        let at = format!("{}:{port}", address.context("the pod has no address yet")?);
        let straight = tokio::time::timeout(PATIENCE, TcpStream::connect(&at)).await;
        if matches!(straight, Ok(Ok(_))) {
            return Ok(Self { at, forward: None });
        }
        let forward = Forward::open(room.api(), pod, port).await?;
        Ok(Self {
            at: format!("127.0.0.1:{}", forward.port),
            forward: Some(forward),
        })
    }

    /// Whether it needs no API server.
    pub(crate) fn is_straight(&self) -> bool {
        self.forward.is_none()
    }

    /// A client of what speaks HTTP at its end.
    pub(crate) fn http(&self) -> Result<Client> {
        let uri: Uri = format!("http://{}", self.at).parse()?;
        let mut config = Config::new(uri);
        config.default_retry = false;
        Ok(Client::try_from(config)?)
    }
}

/// What a pod says on a path of a port.
pub(crate) async fn ask(room: &Room, pod: &str, port: u16, path: &str) -> Result<String> {
    let way = Way::to(room, pod, port).await?;
    let request = Request::get(path).body(Vec::new())?;
    way.http()?
        .request_text(request)
        .await
        .with_context(|| format!("{pod} does not answer on {path}"))
}
