//! The way to a server remote.
//!
//! The driver dials by itself, and makes room for a message as soon as a server announces its length:
//! with TLS it even fills that room. So it is led by here, where messages are looked at before they are
//! passed on; and as only what is not encrypted can be looked at, TLS is between here and the server.
//!
//! The driver's part of the way is a socket that has a name in the kernel only, and leads nobody on who
//! is not of this process.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::egress::bounded::{BoundedStream, ConnectionFault, EXCLUSIVE, Stream};
use crate::egress::policy::EgressPolicy;
use crate::egress::response::{DeliveryError, connection_failed};

/// Longest wait for a connection to be encrypted.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks whether the server speaks TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How a connection is encrypted.
#[derive(Clone)]
pub(super) struct RelayTls {
    pub(super) config: Arc<ClientConfig>,
    /// Whether there is none where the server does not speak TLS.
    pub(super) required: bool,
}

/// Where the server is, and how it is reached.
#[derive(Clone)]
pub(super) struct RelayTarget {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<RelayTls>,
}

/// Leads to a server; it and all that goes through end with this.
pub(super) struct PostgresRelay {
    folder: PathBuf,
    /// Why the last connection failed.
    pub(super) fault: ConnectionFault,
    _serving: JoinSet<()>,
}

impl PostgresRelay {
    pub(super) fn open(target: RelayTarget, egress: &EgressPolicy) -> io::Result<Self> {
        let name = format!(
            "observer-{}-{:032x}",
            std::process::id(),
            rand::random::<u128>()
        );
        let folder = folder(&name);
        if !cfg!(target_os = "linux") {
            std::fs::create_dir(&folder)?;
        }
        // As the driver names it.
        let path = format!("{}/.s.PGSQL.{}", folder.display(), target.port);
        let door = UnixListener::bind(path)?;
        let fault = ConnectionFault::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(door, target, egress.clone(), fault.clone()));
        Ok(Self {
            folder,
            fault,
            _serving: serving,
        })
    }

    /// What the driver takes for the folder of a server's socket.
    pub(super) fn folder(&self) -> &PathBuf {
        &self.folder
    }
}

/// The beginning of a socket's name: of one in the kernel, since there may be no folder to write to.
fn folder(name: &str) -> PathBuf {
    if cfg!(target_os = "linux") {
        format!("\0{name}").into()
    } else {
        std::env::temp_dir().join(name)
    }
}

async fn serve(
    door: UnixListener,
    target: RelayTarget,
    egress: EgressPolicy,
    fault: ConnectionFault,
) {
    let mut through = JoinSet::new();
    loop {
        while through.try_join_next().is_some() {}
        match door.accept().await {
            Ok((client, _)) if is_own(&client) => {
                let (target, egress, fault) = (target.clone(), egress.clone(), fault.clone());
                through.spawn(async move { target.pass(client, &egress, &fault).await });
            }
            Ok(_) => {}
            // As when there are too many open files: some may be closed soon.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Whether it is this process that came.
fn is_own(client: &UnixStream) -> bool {
    let pid = client.peer_cred().ok().and_then(|of| of.pid());
    pid.and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id())
}

impl RelayTarget {
    /// Lets one connection through. How it ends is for the client to see.
    async fn pass(&self, mut client: UnixStream, egress: &EgressPolicy, fault: &ConnectionFault) {
        match self.reach(egress).await {
            Ok(server) => {
                let mut server = BoundedStream::of_postgres(server, EXCLUSIVE, fault);
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            }
            Err(why) => fault.record(why),
        }
    }

    async fn reach(&self, egress: &EgressPolicy) -> Result<Box<dyn Stream>, DeliveryError> {
        let mut stream = egress.dial(&self.host, self.port).await?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let encrypting = async {
            stream
                .write_all(&SSL_REQUEST)
                .await
                .map_err(connection_failed)?;
            match stream.read_u8().await.map_err(connection_failed)? {
                b'S' => {}
                b'N' if !tls.required => return Ok(Box::new(stream) as Box<dyn Stream>),
                b'N' => {
                    return Err(DeliveryError::Misconfigured(
                        "the server does not speak TLS".to_owned(),
                    ));
                }
                _ => {
                    return Err(connection_failed(
                        "the server does not speak as Postgres does",
                    ));
                }
            }
            let host = self.host.trim_start_matches('[').trim_end_matches(']');
            let host = ServerName::try_from(host.to_owned())
                .map_err(|error| DeliveryError::Misconfigured(error.to_string()))?;
            let connector = TlsConnector::from(Arc::clone(&tls.config));
            let encrypted = connector.connect(host, stream).await;
            let encrypted =
                encrypted.map_err(|error| DeliveryError::Misconfigured(error.to_string()))?;
            Ok(Box::new(encrypted) as Box<dyn Stream>)
        };
        timeout(PATIENCE, encrypting).await.unwrap_or_else(|_| {
            Err(connection_failed(format!(
                "not encrypted within {PATIENCE:?}"
            )))
        })
    }
}
