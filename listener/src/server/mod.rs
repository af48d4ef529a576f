//! HTTP servers of the listener: `/healthz`, `/readyz`, `/metrics` and `/status` on one port, and the HTTP API
//! under `/api/observers` on another, or on the same one if that is asked for.

pub(crate) mod api;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use crds::pod_status::STATUS_PATH;
use server::format::Format;
use server::metrics_access::METRICS_PATH;
pub use server::metrics_access::MetricsAccess;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backfill::PageArrivals;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::status::StatusReporter;
use crate::trace::spans::Spans;
pub(crate) use api::ConsoleLink;
pub use api::HttpApi;

/// State that the handlers share, and that the rest of the process updates.
#[derive(Clone, Debug)]
pub struct AppState {
    /// Metrics.
    pub metrics: Metrics,
    /// Who may read them.
    pub metrics_access: MetricsAccess,
    /// Health.
    pub health: Arc<Health>,
    /// Status of this process.
    pub reporter: Arc<StatusReporter>,
    /// HTTP API.
    pub api: HttpApi,
    /// Where spans go.
    pub(crate) spans: Spans,
    /// How far rows of backfills are delivered.
    pub(crate) arrivals: Arc<PageArrivals>,
}

impl AppState {
    /// Creates the state of a process that has just started.
    #[must_use]
    pub fn new(metrics: Metrics, pod: impl Into<String>) -> Self {
        Self {
            metrics,
            metrics_access: MetricsAccess::default(),
            health: Arc::default(),
            reporter: Arc::new(StatusReporter::new(pod)),
            api: HttpApi::default(),
            spans: Spans::default(),
            arrivals: Arc::default(),
        }
    }

    /// Updates the metric of readiness, before metrics are read.
    pub(crate) fn note_readiness(&self) {
        let is_ready = self.health.not_ready(Instant::now()).is_none();
        self.metrics.process.ready.set(i64::from(is_ready));
    }

    /// Updates metrics and readiness with the stalled shards of the reporter.
    pub(crate) fn publish_stalls(&self) {
        let stalled = self.reporter.stalled();
        let number = i64::try_from(stalled.len()).unwrap_or(i64::MAX);
        self.metrics.shards_stalled.set(number);
        let message = stalled.first().map(|first| {
            let more = match stalled.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            format!(
                "shard {}: {}: {}{more}",
                first.shard, first.reason, first.message
            )
        });
        self.health.stalled(message);
    }
}

/// Serves health checks, metrics and the status until `stop`, and the HTTP API too if asked for.
pub async fn serve(
    socket: TcpListener,
    state: AppState,
    with_api: bool,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let api = with_api.then(|| api::routes(state.api.clone()));
    let metrics = state.metrics_access.guard(get(metrics));
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(METRICS_PATH, metrics)
        .route(STATUS_PATH, get(status))
        .with_state(state)
        .merge(api.unwrap_or_default());
    server::serve(socket, router, stop).await;
    Ok(())
}

/// Serves the HTTP API alone until `stop`.
pub(crate) async fn serve_api(socket: TcpListener, api: HttpApi, stop: CancellationToken) {
    server::serve(socket, api::routes_alone(api), stop).await;
}

async fn ready(State(state): State<AppState>) -> impl IntoResponse {
    match state.health.not_ready(Instant::now()) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(trouble) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {}\n", trouble.message),
        ),
    }
}

async fn metrics(State(state): State<AppState>, headers: HeaderMap) -> impl IntoResponse {
    state.note_readiness();
    let format = Format::preferred(&headers);
    server::metrics(format, state.metrics.render(format))
}

async fn status(State(state): State<AppState>) -> impl IntoResponse {
    let health = state.health.not_ready(Instant::now());
    let report = state.reporter.report(&state.metrics, health);
    match serde_json::to_vec(&report) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/json")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string().into_bytes(),
        ),
    }
}
