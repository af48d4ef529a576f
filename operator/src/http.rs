//! HTTP server of the operator: `/healthz`, `/readyz`, `/metrics`.
//!
//! A standby is ready, as it can take over. The leader is ready once every watch has listed its
//! objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use server::format::Format;
use server::metrics_access::{METRICS_PATH, MetricsAccess};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;

/// State of the server.
#[derive(Clone, Debug)]
pub struct AppState {
    /// Metrics.
    pub metrics: Metrics,
    /// Who may read them.
    pub metrics_access: MetricsAccess,
    /// Whether the operator is ready.
    pub ready: Arc<AtomicBool>,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, sources: AppState, stop: CancellationToken) {
    let metrics = sources.metrics_access.guard(get(metrics));
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route(METRICS_PATH, metrics)
        .with_state(sources);
    server::serve(listener, app, stop).await;
}

async fn readyz(State(sources): State<AppState>) -> impl IntoResponse {
    if sources.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        let text = "caches are not synced yet; the log says which watch fails\n";
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn metrics(State(sources): State<AppState>, headers: HeaderMap) -> impl IntoResponse {
    let format = Format::preferred(&headers);
    server::metrics(format, sources.metrics.render(format))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use testkit::wait::eventually;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;

    /// Requests that never come to an end of their head.
    const CROWD: usize = 300;

    #[tokio::test]
    async fn metrics_come_in_the_format_that_is_preferred() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/metrics", socket.local_addr().unwrap());
        let sources = AppState {
            metrics: Metrics::new().unwrap(),
            metrics_access: MetricsAccess::default(),
            ready: Arc::new(AtomicBool::new(true)),
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(socket, sources, stop.clone()));
        for (accepted, format, end) in [
            ("*/*", Format::Text, "\n"),
            (
                Format::OpenMetrics.media_type(),
                Format::OpenMetrics,
                "\n# EOF\n",
            ),
        ] {
            let request = reqwest::Client::new().get(&url).header("accept", accepted);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["content-type"], format.media_type());
            let text = answer.text().await.unwrap();
            assert!(
                text.contains("\nobserver_operator_leader 0\n") && text.ends_with(end),
                "{text}"
            );
        }
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn half_requests_are_bounded_and_block_no_probe() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        let sources = AppState {
            metrics: Metrics::new().unwrap(),
            metrics_access: MetricsAccess::default(),
            ready: Arc::new(AtomicBool::new(true)),
        };
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(socket, sources, stop.clone()));
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            let mut one = TcpStream::connect(at).await.unwrap();
            // Some are closed before they have said so much.
            let _closed = one.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n").await;
            crowd.push(one);
        }
        let url = format!("http://{at}/readyz");
        let answer = reqwest::get(&url).await.unwrap().text().await.unwrap();
        assert_eq!(answer, "ready\n");
        let open = || {
            let open = |one: &&TcpStream| {
                let read = one.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
            };
            crowd.iter().filter(open).count()
        };
        eventually("most of the crowd is turned out", async || {
            tokio::task::yield_now().await;
            (open() < server::MOST_CONNECTIONS).then_some(())
        })
        .await;
        // Those that are left do not hold up the end.
        drop(crowd);
        stop.cancel();
        serving.await.unwrap();
    }
}
