//! Bounded streams: limits of what a server may send.
//!
//! The clients of the protocols read all that a server sends, and some allocate memory for a message as
//! soon as its length is announced. So what they read is counted here, and a connection on which more
//! comes than a response may hold is closed, before the client has seen it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::response::DeliveryError;
use crate::sync::lock;

/// Limit of what a server may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimit {
    /// Most bytes in response to what was sent.
    most: u64,
    /// How many more each write allows: all of them where a connection is used by one attempt at a time,
    /// and few where attempts share it, so that what some leave unused is not hoarded for one answer.
    refill: u64,
}

/// Limit of a connection that one attempt uses at a time.
pub(crate) const EXCLUSIVE: ReadLimit = ReadLimit::alone(1 << 20);

/// Limit of a connection that attempts share.
pub(crate) const SHARED: ReadLimit = ReadLimit {
    most: 256 << 10,
    refill: 16 << 10,
};

/// Connection of a client.
pub(crate) trait Stream:
    AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug
{
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug> Stream for S {}

/// Record of why a connection failed, from where that is known to where a client only finds it closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionFault(Arc<Mutex<Option<(Instant, DeliveryError)>>>);

/// The server sent more than the limit, or announced that it will.
#[derive(Debug, thiserror::Error)]
#[error("the server's answer is larger than {} KiB, which is the most that is read of one", .0 >> 10)]
struct ResponseTooLarge(u64);

/// Stream that fails when its server sends too much.
#[derive(Debug)]
pub(crate) struct BoundedStream<S> {
    inner: S,
    limit: ReadLimit,
    left: u64,
    frames: Option<MessageFrames>,
    fault: ConnectionFault,
}

/// Parser of the frames of Postgres messages: each begins with a byte for its type and four for its
/// length.
#[derive(Debug, Default)]
struct MessageFrames {
    header: Vec<u8>,
    /// Bytes left of the message after its header.
    body: u64,
}

impl ReadLimit {
    pub(crate) const fn alone(most: u64) -> Self {
        Self { most, refill: most }
    }
}

impl ConnectionFault {
    pub(crate) fn record(&self, error: DeliveryError) {
        *lock(&self.0) = Some((Instant::now(), error));
    }

    pub(crate) fn clear(&self) {
        *lock(&self.0) = None;
    }

    pub(crate) fn last(&self) -> Option<DeliveryError> {
        lock(&self.0).as_ref().map(|(_, error)| error.clone())
    }

    /// Returns what was recorded last, if that was at this time or later.
    pub(crate) fn since(&self, begun: Instant) -> Option<DeliveryError> {
        let kept = lock(&self.0);
        let (at, error) = kept.as_ref()?;
        (*at >= begun).then(|| error.clone())
    }

    /// Returns why the connection failed by which an attempt that began at a time failed, if it did.
    pub(crate) fn explain(&self, error: DeliveryError, begun: Instant) -> DeliveryError {
        use DeliveryError::{ConnectionFailed, Misconfigured, Timeout, Unreachable};
        match error {
            ConnectionFailed(_) | Misconfigured(_) | Timeout(_) | Unreachable(_) => {
                self.since(begun).unwrap_or(error)
            }
            error => error,
        }
    }
}

impl<S> BoundedStream<S> {
    pub(crate) fn new(inner: S, limit: ReadLimit, fault: &ConnectionFault) -> Self {
        Self {
            inner,
            limit,
            left: limit.most,
            frames: None,
            fault: fault.clone(),
        }
    }

    /// Creates one for messages of Postgres, none of which may announce more than the limit.
    pub(crate) fn of_postgres(inner: S, limit: ReadLimit, fault: &ConnectionFault) -> Self {
        Self {
            frames: Some(MessageFrames::default()),
            ..Self::new(inner, limit, fault)
        }
    }

    pub(crate) const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Counts what was read.
    fn count_read(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        let most = self.limit.most;
        let fits = |frames: &mut MessageFrames| frames.pass(bytes, most);
        match left {
            Some(left) if self.frames.as_mut().is_none_or(fits) => {
                self.left = left;
                Ok(())
            }
            _ => {
                let why = ResponseTooLarge(most);
                self.fault
                    .record(DeliveryError::ResponseTooLarge(why.to_string()));
                Err(io::Error::other(why))
            }
        }
    }
}

impl MessageFrames {
    /// Skips these bytes; false where a message among them is longer than the limit.
    fn pass(&mut self, mut bytes: &[u8], most: u64) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.body > 0 {
                let skipped = self.body.min(bytes.len() as u64);
                self.body -= skipped;
                bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                continue;
            }
            self.header.push(*first);
            bytes = rest;
            if let [_, a, b, c, d] = *self.header {
                self.header.clear();
                // The length counts itself.
                let length = u64::from(u32::from_be_bytes([a, b, c, d]));
                if length > most {
                    return false;
                }
                self.body = length.saturating_sub(4);
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let counted = this.count_read(&buf.filled()[before..]);
        if counted.is_err() {
            buf.set_filled(before);
        }
        Poll::Ready(counted)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, bytes))?;
        this.left = this
            .left
            .saturating_add(this.limit.refill)
            .min(this.limit.most);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: ReadLimit = ReadLimit {
        most: 100,
        refill: 10,
    };

    #[tokio::test]
    async fn response_ends_at_the_limit_and_a_write_refills_it() {
        let (client, mut server) = duplex(1000);
        let fault = ConnectionFault::default();
        let mut client = BoundedStream::new(client, LIMIT, &fault);
        server.write_all(&[0; 100]).await.unwrap();
        client.read_exact(&mut [0; 100]).await.unwrap();
        client.write_all(b"?").await.unwrap();
        server.write_all(&[0; 10]).await.unwrap();
        client.read_exact(&mut [0; 10]).await.unwrap();
        assert!(fault.last().is_none());
        server.write_all(&[0]).await.unwrap();
        let error = client.read(&mut [0]).await.unwrap_err();
        assert!(
            error.to_string().contains("answer is larger than"),
            "{error}"
        );
        assert!(matches!(
            fault.last(),
            Some(DeliveryError::ResponseTooLarge(_))
        ));
    }

    #[tokio::test]
    async fn announced_oversized_message_is_not_forwarded() {
        for pieces in [1, 2, 7, 50] {
            let (client, mut server) = duplex(1000);
            let fault = ConnectionFault::default();
            let mut client = BoundedStream::of_postgres(client, LIMIT, &fault);
            let mut said = b"S\0\0\0\x06abZ\0\0\0\x05I".to_vec();
            let fine = said.len();
            said.extend(b"D\x7f\xff\xff\xff");
            for piece in said.chunks(pieces) {
                server.write_all(piece).await.unwrap();
            }
            drop(server);
            let mut seen = Vec::new();
            let error = client.read_to_end(&mut seen).await.unwrap_err();
            assert!(
                error.to_string().contains("answer is larger than"),
                "{error}"
            );
            assert!(seen.len() < fine + 5, "{seen:?}");
        }
    }
}
