//! Relay to a remote server.
//!
//! The driver dials by itself, and allocates memory for a message as soon as a server announces its length:
//! with TLS it even fills that memory. So it connects to this relay, which checks messages before it
//! passes them on; and as only plain text can be checked, TLS is between the relay and the server.
//!
//! The driver connects by an abstract socket, on which the relay accepts this process alone.

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

/// Timeout of the TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Message that asks for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Encryption of connections.
#[derive(Clone)]
pub(super) struct RelayTls {
    pub(super) config: Arc<ClientConfig>,
    /// Whether a server without TLS is rejected.
    pub(super) required: bool,
}

/// Address of the server, and encryption.
#[derive(Clone)]
pub(super) struct RelayTarget {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<RelayTls>,
}

/// Relay to a server; it and its connections end when this is dropped.
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
        let listener = UnixListener::bind(path)?;
        let fault = ConnectionFault::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, target, egress.clone(), fault.clone()));
        Ok(Self {
            folder,
            fault,
            _serving: serving,
        })
    }

    /// Returns the folder of the socket, as the driver expects it.
    pub(super) fn folder(&self) -> &PathBuf {
        &self.folder
    }
}

/// Returns the prefix of a socket's name: of an abstract one, since there may be no writable folder.
fn folder(name: &str) -> PathBuf {
    if cfg!(target_os = "linux") {
        format!("\0{name}").into()
    } else {
        std::env::temp_dir().join(name)
    }
}

async fn serve(
    listener: UnixListener,
    target: RelayTarget,
    egress: EgressPolicy,
    fault: ConnectionFault,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) if is_own(&client) => {
                let (target, egress, fault) = (target.clone(), egress.clone(), fault.clone());
                connections.spawn(async move { target.relay(client, &egress, &fault).await });
            }
            Ok(_) => {}
            // For example too many open files: some may be closed soon.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Returns whether this process opened the connection.
fn is_own(client: &UnixStream) -> bool {
    let pid = client.peer_cred().ok().and_then(|of| of.pid());
    pid.and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id())
}

impl RelayTarget {
    /// Relays one connection. The client sees how it ends.
    async fn relay(&self, mut client: UnixStream, egress: &EgressPolicy, fault: &ConnectionFault) {
        match self.connect(egress).await {
            Ok(server) => {
                let mut server = BoundedStream::of_postgres(server, EXCLUSIVE, fault);
                let _ended = copy_bidirectional(&mut client, &mut server).await;
            }
            Err(why) => fault.record(why),
        }
    }

    async fn connect(&self, egress: &EgressPolicy) -> Result<Box<dyn Stream>, DeliveryError> {
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
        timeout(TLS_TIMEOUT, encrypting).await.unwrap_or_else(|_| {
            Err(connection_failed(format!(
                "not encrypted within {TLS_TIMEOUT:?}"
            )))
        })
    }
}
