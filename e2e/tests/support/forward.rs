//! A port of a pod on a port of this machine, by the API server.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Ends with its value.
pub(crate) struct Forward {
    /// The port here.
    pub(crate) port: u16,
    _accept: AbortOnDropHandle<()>,
}

impl Forward {
    /// Forwards to a port of a pod; each connection is a stream of its own.
    pub(crate) async fn open(pods: Api<Pod>, pod: &str, to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let pod = pod.to_owned();
        let accept = async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (pods, pod) = (pods.clone(), pod.clone());
                open.spawn(async move {
                    if let Err(error) = carry(&pods, &pod, to, stream).await {
                        eprintln!("port {to} of {pod}: {error:#}");
                    }
                });
                while open.try_join_next().is_some() {}
            }
        };
        Ok(Self {
            port,
            _accept: AbortOnDropHandle::new(tokio::spawn(accept)),
        })
    }
}

async fn carry(pods: &Api<Pod>, pod: &str, to: u16, mut here: TcpStream) -> Result<()> {
    here.set_nodelay(true)?;
    let mut forwarder = pods.portforward(pod, &[to]).await?;
    let mut there = forwarder.take_stream(to).context("no stream")?;
    // That either side ends is how a connection ends.
    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
    drop(there);
    forwarder.abort();
    Ok(())
}
