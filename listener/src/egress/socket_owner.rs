//! Owner of a connection on the loopback address.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncBufReadExt, BufReader};

/// Returns whether this process holds the socket at `from` of a connection to `to`.
///
/// Linux lists all connections with the numbers of their sockets, and the sockets that a process has open
/// by these numbers. Elsewhere there is no such list, and the answer is yes: a listener in a cluster runs on
/// Linux, and what else runs on a laptop may connect by itself.
pub(crate) async fn is_this_process(from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
    if !cfg!(target_os = "linux") {
        return Ok(true);
    }
    let (Some(from), Some(to)) = (written(from), written(to)) else {
        return Ok(false);
    };
    let list = tokio::fs::File::open("/proc/self/net/tcp").await?;
    let mut list = BufReader::new(list).lines();
    let socket = loop {
        match list.next_line().await? {
            Some(line) => {
                if let Some(socket) = socket_of(&line, &from, &to) {
                    break socket.to_owned();
                }
            }
            None => return Ok(false),
        }
    };
    let socket = format!("socket:[{socket}]");
    let mut open = tokio::fs::read_dir("/proc/self/fd").await?;
    while let Some(descriptor) = open.next_entry().await? {
        // It may have been closed since.
        let target = tokio::fs::read_link(descriptor.path()).await;
        if target.is_ok_and(|target| target.as_os_str() == socket.as_str()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the inode of the socket at one end of a connection, where a line of the list is about that.
fn socket_of<'a>(line: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let mut fields = line.split_ascii_whitespace();
    let (local, remote) = (fields.nth(1)?, fields.next()?);
    let number = fields.nth(6)?;
    // A socket that no process holds has none.
    (local == from && remote == to && number != "0").then_some(number)
}

/// Formats an address as that list does: its bytes as a number in native byte order.
fn written(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    let number = u32::from_ne_bytes(ip.octets());
    Some(format!("{number:08X}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::{Command, Stdio};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_its_maker_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let client = TcpStream::connect(to).await.unwrap();
        let (_server, from) = listener.accept().await.unwrap();
        assert!(is_this_process(from, to).await.unwrap());
        drop(client);
        assert!(!is_this_process(from, to).await.unwrap(), "it is closed");
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn another_process_s_connection_is_not_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; read -r _", to.port());
        let mut other = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (_server, from) = listener.accept().await.unwrap();
        assert!(!is_this_process(from, to).await.unwrap());
        drop(other.stdin.take());
        other.wait().unwrap();
    }
}
