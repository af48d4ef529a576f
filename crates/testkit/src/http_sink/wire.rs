//! The sink's side of an HTTP/1.1 connection: just what the client of webhooks sends.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::request::Request;
use super::state::{Reaction, State};

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Time between two pieces of an endless body.
const DRIP: Duration = Duration::from_millis(20);

/// Serves one connection until either side ends it.
pub(super) async fn serve(
    mut stream: TcpStream,
    from: SocketAddr,
    state: &State,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    while let Some(mut request) = read(&mut stream, &mut buffer, from).await? {
        match state.take(&mut request) {
            Reaction::Control(response) => {
                let bytes = answer(response.status, "", &response.body);
                stream.write_all(&bytes).await?;
            }
            Reaction::Answer {
                pause,
                status,
                header,
                body,
            } => {
                if !pause.is_zero() && !is_still_there(&stream, pause).await {
                    return Ok(());
                }
                state.answers(&request, status);
                stream.write_all(&answer(status, &header, &body)).await?;
            }
            Reaction::Hold(mut told) => {
                // Where nobody can tell it any more, the sink is gone.
                let _ = told.changed().await;
                stream.write_all(&answer(200, "", &[])).await?;
            }
            Reaction::Hang => std::future::pending().await,
            Reaction::Reset => return stream.set_zero_linger(),
            Reaction::ShortBody(status) => {
                let head = format!("HTTP/1.1 {status} -\r\ncontent-length: 1000\r\n\r\nshort");
                return stream.write_all(head.as_bytes()).await;
            }
            Reaction::HugeBody(bytes) => flood(&mut stream, bytes).await?,
            Reaction::EndlessBody(status) => return drip(&mut stream, status).await,
            Reaction::Garbage => {
                return stream
                    .write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                    .await;
            }
        }
    }
    Ok(())
}

/// Waits; false where the client goes meanwhile.
async fn is_still_there(stream: &TcpStream, pause: Duration) -> bool {
    let gone = async {
        // A client that sends more does not go.
        if let Ok(1..) = stream.peek(&mut [0]).await {
            std::future::pending::<()>().await;
        }
    };
    tokio::time::timeout(pause, gone).await.is_err()
}

async fn flood(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    let head = format!("HTTP/1.1 200 -\r\ncontent-length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut left = bytes;
    while left > 0 {
        let piece = usize::try_from(left).map_or(PIECE.len(), |left| left.min(PIECE.len()));
        stream.write_all(&PIECE[..piece]).await?;
        left -= piece as u64;
    }
    Ok(())
}

async fn drip(stream: &mut TcpStream, status: u16) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} -\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(b"1\r\nx\r\n").await?;
        tokio::time::sleep(DRIP).await;
    }
}

fn answer(status: u16, header: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut bytes = format!("HTTP/1.1 {status} -\r\n{header}").into_bytes();
    // These statuses have no body, and say so by themselves.
    if status != 204 && status != 304 {
        bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
        bytes.extend_from_slice(body);
    } else {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The next request; `None` where the client is done.
async fn read(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    from: SocketAddr,
) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at;
        }
        if buffer.len() > MAX_HEAD {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let mut request = Request::parse(&buffer.split_to(end), from)?;
    buffer.advance(4);
    let length: usize = match request.header("content-length") {
        Some(text) => text
            .parse()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?,
        None if request.header("transfer-encoding").is_some() => {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        None => 0,
    };
    if length > MAX_BODY {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    while buffer.len() < length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    request.body = buffer.split_to(length).freeze();
    request.at = Instant::now();
    Ok(Some(request))
}
