//! What the listener answers over HTTP: `/healthz`, `/readyz`, `/metrics`.

pub mod health;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Metrics;
use health::Health;

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Metrics.
    pub metrics: Metrics,
    /// Health.
    pub health: Arc<Health>,
}

/// Answers until cancelled.
pub async fn serve(
    socket: TcpListener,
    sources: Sources,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(sources);
    axum::serve(socket, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn ready(State(sources): State<Sources>) -> impl IntoResponse {
    match sources.health.not_ready(Instant::now()) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
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
