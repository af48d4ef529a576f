//! HTTP server with bounded resources: a limited number of connections, and timeouts for idle ones and
//! for slow requests. So clients cannot use up the file descriptors that the program needs itself.

pub mod exemplars;
pub mod format;
pub mod limiter;
mod memory_limit;
pub mod metrics_access;
mod open_metrics;
pub mod registry;
pub mod reviews;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::format::Format;

/// Most connections at once. For one more, the oldest is closed of which no request is being answered.
pub const MOST_CONNECTIONS: usize = 64;

/// Longest wait for all of a request's head, also of the next one on a connection.
const HEAD: Duration = Duration::from_secs(20);

/// How long a connection may stand still.
const STILL: Duration = Duration::from_secs(30);

/// How long a request may take, with its body.
const REQUEST: Duration = Duration::from_secs(30);

/// How long connections may take to end once a stop was asked for.
const END: Duration = Duration::from_secs(5);

/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// What a connection does.
#[derive(Debug, Default)]
struct Activity {
    /// Bytes that went either way.
    moved: AtomicU64,
    /// Requests that are being answered.
    answering: AtomicU64,
}

/// Responds with metrics in a format, or with the error that they could not be rendered for.
pub fn metrics<E: Display>(format: Format, rendered: Result<Vec<u8>, E>) -> Response {
    let (status, format, body) = match rendered {
        Ok(text) => (StatusCode::OK, format.media_type(), text),
        Err(error) => {
            let text = error.to_string().into_bytes();
            (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text)
        }
    };
    (status, [(CONTENT_TYPE, format)], body).into_response()
}

/// Serves until cancelled.
pub async fn serve(socket: TcpListener, router: Router, stop: CancellationToken) {
    let mut serving = JoinSet::new();
    let mut open: BTreeMap<u64, (Arc<Activity>, AbortHandle)> = BTreeMap::new();
    for number in 0.. {
        let room = async {
            while serving.len() >= MOST_CONNECTIONS {
                let _ended = serving.join_next().await;
            }
            socket.accept().await
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = room => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // As when there are too many open files: some may be closed soon.
            sleep(PAUSE).await;
            continue;
        };
        let activity = Arc::new(Activity::default());
        let task = connection(stream, router.clone(), Arc::clone(&activity), stop.clone());
        open.insert(number, (activity, serving.spawn(task)));
        while serving.try_join_next().is_some() {}
        open.retain(|_, (_, task)| !task.is_finished());
        if open.len() >= MOST_CONNECTIONS {
            let mut quiet = open
                .iter()
                .filter(|(_, (activity, _))| !activity.is_answering());
            if let Some((oldest, (_, task))) = quiet.next() {
                task.abort();
                let oldest = *oldest;
                open.remove(&oldest);
            }
        }
    }
    drop(socket);
    let ending = async { while serving.join_next().await.is_some() {} };
    let _late = timeout(END, ending).await;
}

/// Serves one connection until it ends, or stands still for too long.
async fn connection(
    stream: TcpStream,
    router: Router,
    activity: Arc<Activity>,
    stop: CancellationToken,
) {
    let stream = TokioIo::new(Noted {
        stream,
        activity: Arc::clone(&activity),
    });
    let answering = service_fn(|request| answer(router.clone(), Arc::clone(&activity), request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(stream, answering);
    let mut serving = pin!(serving);
    let mut stopping = false;
    loop {
        let before = activity.moved.load(Ordering::Relaxed);
        tokio::select! {
            // How it ends is for the client to see.
            _ = serving.as_mut() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = sleep(STILL) => {
                if activity.moved.load(Ordering::Relaxed) == before && !activity.is_answering() {
                    return;
                }
            }
        }
    }
}

async fn answer(
    router: Router,
    activity: Arc<Activity>,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let _answering = Answering::begin(&activity);
    let answering = TowerToHyperService::new(router).call(request);
    match timeout(REQUEST, answering).await {
        Ok(answered) => answered,
        Err(_) => Ok(StatusCode::REQUEST_TIMEOUT.into_response()),
    }
}

impl Activity {
    fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }
}

/// While it lives, a request is being answered.
struct Answering<'a>(&'a Activity);

impl<'a> Answering<'a> {
    fn begin(activity: &'a Activity) -> Self {
        activity.answering.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that notes what moves.
struct Noted {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl Noted {
    fn note(&self, bytes: usize) {
        self.activity
            .moved
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.note(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &written {
            this.note(*written);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
