//! The way to a server: its client dials by itself, and is led by here so that what the server sends is
//! counted. TLS is between client and server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::egress::bounded::{BoundedStream, ConnectionFault, SHARED};

/// One connection; it ends with this.
pub(super) struct NatsRelay {
    /// Where the client finds it.
    pub(super) address: SocketAddr,
    /// Cancelled once the connection is closed.
    pub(super) closed: CancellationToken,
    _end: DropGuard,
}

impl NatsRelay {
    /// Leads the one who comes first to `server`.
    pub(super) async fn open(server: TcpStream, fault: &ConnectionFault) -> io::Result<Self> {
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = door.local_addr()?;
        let closed = CancellationToken::new();
        let mut server = BoundedStream::new(server, SHARED, fault);
        let passing = async move {
            let (mut client, _) = door.accept().await?;
            // Nobody else is let in.
            drop(door);
            client.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await
        };
        let ends = closed.clone();
        tokio::spawn(async move {
            // How it ended is for the client to see.
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
