//! The way to a server: its client dials by itself, and is led by here so that what the server sends is
//! counted. TLS is between client and server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::egress::bounded::{Bounded, SHARED, Trouble};

/// One connection; it ends with this.
pub(super) struct Relay {
    /// Where the client finds it.
    pub(super) address: SocketAddr,
    /// Cancelled once the connection is over.
    pub(super) over: CancellationToken,
    _end: DropGuard,
}

impl Relay {
    /// Leads the one who comes first to `server`.
    pub(super) async fn open(server: TcpStream, trouble: &Trouble) -> io::Result<Self> {
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = door.local_addr()?;
        let over = CancellationToken::new();
        let mut server = Bounded::new(server, SHARED, trouble);
        let passing = async move {
            let (mut client, _) = door.accept().await?;
            // Nobody else is let in.
            drop(door);
            client.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut server).await
        };
        let ends = over.clone();
        tokio::spawn(async move {
            // How it ended is for the client to see.
            let _ended = ends.run_until_cancelled(passing).await;
            ends.cancel();
        });
        Ok(Self {
            address,
            _end: over.clone().drop_guard(),
            over,
        })
    }
}
