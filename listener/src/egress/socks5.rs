//! SOCKS5 proxy in front of Kafka brokers: for any address that a cluster advertises for them, the egress
//! policy checks it before it is dialled.
//!
//! The client of Kafka resolves and dials by itself, but asks a SOCKS5 proxy to do so where it is told
//! of one. This is that proxy, on the loopback address and for as long as its owner lives. It counts bytes
//! and does not look at them, so that TLS is between client and broker.
//!
//! That client cannot log in to a proxy, so a connection is authenticated by its owner: the system lists
//! the sockets of each process, and one that is not this process's own is closed. Otherwise all that
//! share the loopback address, as the containers of a pod do, could reach what the egress rules allow.
//!
//! Source: RFC 1928, of which only what that client uses is implemented.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::bounded::{BoundedStream, ConnectionFault, ReadLimit};
use super::policy::{DialError, EgressPolicy};
use super::response::DeliveryError;
use super::socket_owner;

/// Most connections at once; others wait to be accepted.
const MAX_CONNECTIONS: usize = 512;

/// Longest response, with its frame and TLS overhead; several may arrive together.
const READ_LIMIT: ReadLimit = ReadLimit::alone(8 << 20);

/// Timeout of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const NAME: u8 = 3;

/// Proxy that dials what the egress policy allows; it and its connections end when this is dropped.
pub(crate) struct Socks5Proxy {
    address: SocketAddr,
    fault: ConnectionFault,
    _serving: JoinSet<()>,
}

/// State of a proxied connection.
#[derive(Clone)]
struct ProxyConnection {
    egress: EgressPolicy,
    fault: ConnectionFault,
}

impl Socks5Proxy {
    pub(crate) async fn open(egress: &EgressPolicy) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connection = ProxyConnection {
            egress: egress.clone(),
            fault: ConnectionFault::default(),
        };
        let fault = connection.fault.clone();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, connection));
        Ok(Self {
            address,
            fault,
            _serving: serving,
        })
    }

    /// Returns its address, as `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns why the last connection failed, unless one succeeded since.
    pub(crate) fn last_error(&self) -> Option<DeliveryError> {
        self.fault.last()
    }
}

async fn serve(listener: TcpListener, connection: ProxyConnection) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, from)) => {
                let connection = connection.clone();
                connections.spawn(async move {
                    if connection.is_own_process(&client, from).await {
                        connection.forward(client).await;
                    }
                    drop(place);
                });
            }
            // For example too many open files: some may be closed soon.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl ProxyConnection {
    /// Returns whether this process opened the connection.
    async fn is_own_process(&self, client: &TcpStream, from: SocketAddr) -> bool {
        let owned = match client.local_addr() {
            Ok(to) => socket_owner::is_this_process(from, to).await,
            Err(error) => Err(error),
        };
        match owned {
            Ok(owned) => owned,
            Err(error) => {
                let why = format!("cannot tell whose connections are this process's own: {error}");
                self.fault.record(DeliveryError::Misconfigured(why));
                false
            }
        }
    }

    /// Forwards one connection to its destination. The client sees how it ends.
    async fn forward(&self, mut client: TcpStream) {
        let asked = timeout(HANDSHAKE_TIMEOUT, read_request(&mut client)).await;
        let Ok(Ok((host, port))) = asked else { return };
        let dialled = self.dial(&host, port).await;
        let code = u8::from(dialled.is_err());
        match &dialled {
            Ok(_) => self.fault.clear(),
            Err(why) => self.fault.record(why.clone()),
        }
        let reply = [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0];
        if client.write_all(&reply).await.is_ok()
            && let Ok(broker) = dialled
        {
            let mut broker = BoundedStream::new(broker, READ_LIMIT, &self.fault);
            let _ended = copy_bidirectional(&mut client, &mut broker).await;
        }
    }

    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DeliveryError> {
        let dialled = self.egress.dial(host, port).await;
        dialled.map_err(|why| match why {
            DialError::Denied(_) => why.into(),
            DialError::Resolve(_) | DialError::Connect(_) => {
                DeliveryError::Unreachable(format!("the broker {host}:{port}: {why}"))
            }
        })
    }
}

/// Reads the destination that a client asks for.
async fn read_request(client: &mut TcpStream) -> io::Result<(String, u16)> {
    let strange = || io::Error::from(io::ErrorKind::InvalidData);
    let [version, methods] = read::<2>(client).await?;
    if version != VERSION {
        return Err(strange());
    }
    let mut offered = vec![0; usize::from(methods)];
    client.read_exact(&mut offered).await?;
    client.write_all(&[VERSION, 0]).await?;
    let [version, command, _, kind, length] = read::<5>(client).await?;
    if (version, command, kind) != (VERSION, CONNECT, NAME) {
        return Err(strange());
    }
    let mut name = vec![0; usize::from(length)];
    client.read_exact(&mut name).await?;
    let name = String::from_utf8(name).map_err(|_| strange())?;
    Ok((name, client.read_u16().await?))
}

async fn read<const N: usize>(client: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use crds::config::Egress;

    use super::*;

    fn egress(allow: &[&str]) -> EgressPolicy {
        EgressPolicy::new(&Egress {
            cidrs: allow.iter().map(|net| net.parse().unwrap()).collect(),
            ..Egress::default()
        })
    }

    /// Asks for a connection; gives it, and the code of the reply.
    async fn ask(proxy: &Socks5Proxy, host: &str, port: u16) -> (TcpStream, u8) {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(&[5, 1, 0]).await.unwrap();
        assert_eq!(read::<2>(&mut client).await.unwrap(), [5, 0]);
        let length = u8::try_from(host.len()).unwrap();
        let request = [&[5, 1, 0, 3, length], host.as_bytes(), &port.to_be_bytes()].concat();
        client.write_all(&request).await.unwrap();
        let [_, code, ..] = read::<10>(&mut client).await.unwrap();
        (client, code)
    }

    #[tokio::test]
    async fn allowed_destination_is_reached() {
        let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = broker.local_addr().unwrap().port();
        let proxy = Socks5Proxy::open(&egress(&["127.0.0.0/8"])).await.unwrap();
        let ((mut client, code), (mut server, _)) =
            tokio::join!(ask(&proxy, "localhost", port), async {
                broker.accept().await.unwrap()
            });
        assert_eq!(code, 0);
        assert_eq!(proxy.last_error(), None);
        client.write_all(b"ping").await.unwrap();
        assert_eq!(&read::<4>(&mut server).await.unwrap(), b"ping");
        server.write_all(b"pong").await.unwrap();
        assert_eq!(&read::<4>(&mut client).await.unwrap(), b"pong");
        drop(proxy);
        assert_eq!(server.read(&mut [0]).await.unwrap_or(0), 0, "it has ended");
    }

    #[tokio::test]
    async fn denied_destination_is_refused_and_recorded() {
        let proxy = Socks5Proxy::open(&egress(&[])).await.unwrap();
        for host in ["localhost", "127.0.0.1", "169.254.169.254"] {
            let (_, code) = ask(&proxy, host, 9092).await;
            assert_eq!(code, 1, "{host}");
            let refusal = proxy.last_error();
            assert!(
                matches!(&refusal, Some(DeliveryError::EgressDenied(why)) if why.contains("spec.egress.allow")),
                "{refusal:?}"
            );
        }
    }

    #[tokio::test]
    async fn unreachable_destination_is_recorded() {
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = gone.local_addr().unwrap().port();
        drop(gone);
        let proxy = Socks5Proxy::open(&egress(&["127.0.0.0/8"])).await.unwrap();
        let (_, code) = ask(&proxy, "127.0.0.1", port).await;
        assert_eq!(code, 1);
        let refusal = proxy.last_error();
        assert!(
            matches!(&refusal, Some(DeliveryError::Unreachable(why)) if why.contains("the broker 127.0.0.1")),
            "{refusal:?}"
        );
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn another_process_is_shown_out() {
        let proxy = Socks5Proxy::open(&egress(&["127.0.0.0/8"])).await.unwrap();
        let (host, port) = proxy
            .address()
            .split_once(':')
            .map(|(h, p)| (h.to_owned(), p.to_owned()))
            .unwrap();
        // What it is told, if anything, is written out.
        let script =
            format!("exec 3<>/dev/tcp/{host}/{port}; printf '\\005\\001\\000' >&3; cat <&3");
        let told = tokio::process::Command::new("bash")
            .args(["-c", &script])
            .output()
            .await;
        assert_eq!(told.unwrap().stdout, b"");
        assert_eq!(proxy.last_error(), None);
    }

    #[tokio::test]
    async fn other_protocols_are_disconnected() {
        let proxy = Socks5Proxy::open(&egress(&["127.0.0.0/8"])).await.unwrap();
        for said in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\x05\x01\x00\x05\x02\x00\x01",
            b"\x04",
        ] {
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            client.write_all(said).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _reset = client.read_to_end(&mut answer).await;
            assert!(answer.len() <= 2, "{answer:?}");
        }
    }
}
