//! The sink's side of an HTTP/1.1 connection: just what the client of webhooks sends.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::state::{Reaction, State};

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Largest body of a request, in bytes.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// Time between two pieces of an endless body.
const DRIP: Duration = Duration::from_millis(20);

/// One complete request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) line: String,
    pub(super) webhook_id: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The target's path, without its query.
    pub(super) fn path(&self) -> &str {
        let target = self.line.split(' ').nth(1).unwrap_or_default();
        target.split('?').next().unwrap_or_default()
    }

    /// The head as it came.
    pub(super) fn head(&self) -> String {
        self.headers
            .iter()
            .fold(format!("{}\n", self.line), |head, (name, value)| {
                head + name + ": " + value + "\n"
            })
    }

    /// Whether one of the signatures is by one of the secrets. The age of the timestamp does not
    /// matter.
    pub(super) fn is_signed(&self, secrets: &[Webhook]) -> bool {
        let timestamp = self.header("webhook-timestamp");
        let signatures = self.header("webhook-signature");
        let (Some(Ok(timestamp)), Some(signatures)) = (timestamp.map(str::parse), signatures)
        else {
            return false;
        };
        secrets.iter().any(|secret| {
            let signed = secret.sign(&self.webhook_id, timestamp, &self.body);
            signed.is_ok_and(|signed| signatures.split(' ').any(|one| one == signed))
        })
    }
}

/// Serves one connection until either side ends it.
pub(super) async fn serve(mut stream: TcpStream, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(8 * 1024);
    while let Some(request) = read(&mut stream, &mut buffer).await? {
        match state.take(request) {
            Reaction::Answer {
                pause,
                status,
                header,
                body,
            } => {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
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
async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<Request>> {
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
    let mut request = parse(&buffer.split_to(end))?;
    buffer.advance(4);
    let length: usize = match request.header("content-length") {
        Some(text) => text
            .parse()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?,
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
    Ok(Some(request))
}

fn parse(head: &[u8]) -> io::Result<Request> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<Option<_>>()
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut request = Request {
        line,
        webhook_id: String::new(),
        headers,
        body: Bytes::new(),
    };
    request.webhook_id = request.header("webhook-id").unwrap_or_default().to_owned();
    Ok(request)
}
