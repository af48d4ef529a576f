//! Relay to a NATS server: the client dials it instead of the server, so that what the server sends is
//! bounded. TLS is between client and server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::egress::bounded::{BoundedStream, ConnectionFault, SHARED};

/// Relay of one connection, which ends when this is dropped.
pub(super) struct NatsRelay {
    /// Address that the client dials.
    pub(super) address: SocketAddr,
    /// Cancelled once the connection is closed.
    pub(super) closed: CancellationToken,
    _end: DropGuard,
}

impl NatsRelay {
    /// Relays the first connection to `server`.
    pub(super) async fn open(server: TcpStream, fault: &ConnectionFault) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let closed = CancellationToken::new();
        let mut server = BoundedStream::new(server, SHARED, fault);
        let passing = async move {
            let (mut client, _) = listener.accept().await?;
            // No other connection is accepted.
            drop(listener);
            client.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await
        };
        let ends = closed.clone();
        tokio::spawn(async move {
            // The client sees how it ended.
            let _ended = ends.run_until_cancelled(passing).await;
            ends.cancel();
        });
        Ok(Self {
            address,
            _end: closed.clone().drop_guard(),
            closed,
        })
    }
}
