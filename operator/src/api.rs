//! What the operator answers over HTTP: `/healthz`, `/readyz`, `/metrics`.
//!
//! One that stands by is ready: it can take over. One that works is ready once it has seen
//! everything that it watches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Metrics.
    pub metrics: Metrics,
    /// Whether work can be expected.
    pub ready: Arc<AtomicBool>,
}

/// Answers until the stop.
pub async fn serve(
    listener: TcpListener,
    sources: Sources,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(sources);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn readyz(State(sources): State<Sources>) -> impl IntoResponse {
    if sources.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        let text = "not everything that is watched has been seen yet; the log says what fails\n";
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn metrics(State(sources): State<Sources>) -> impl IntoResponse {
    match sources.metrics.render() {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string().into_bytes(),
        ),
    }
}
