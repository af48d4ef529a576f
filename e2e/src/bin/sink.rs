//! A receiver of webhooks that runs as a pod. It checks each signature with an implementation
//! other than the sender's, keeps a receipt of each request, and tells the tests all of them.
//!
//! A webhook is a POST to any path but those of the tests:
//! `GET /received?since=N` gives the receipts from number N on, `DELETE /received` forgets them,
//! `POST /behave` sets how webhooks are answered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use observer_e2e::{BEHAVE, Behaviour, PAGE, PORT, RECEIVED, Receipt, SECRETS};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::signal::unix::{SignalKind, signal};

/// Most receipts kept; a test that makes more than this is wrong.
const MOST: usize = 2_000_000;

#[derive(Default)]
struct Kept {
    receipts: Vec<Receipt>,
    attempts: HashMap<String, u32>,
    behaviour: Behaviour,
}

/// What is known of a webhook besides its contents.
struct Arrived {
    from: String,
    /// In microseconds since 1970.
    at: i64,
    status: u16,
}

struct Sink {
    secrets: Vec<Webhook>,
    kept: Mutex<Kept>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let secrets = std::env::var(SECRETS).unwrap_or_default();
    let secrets: Result<Vec<Webhook>, _> = secrets
        .split(',')
        .filter(|secret| !secret.is_empty())
        .map(Webhook::new)
        .collect();
    let sink = Sink {
        secrets: secrets.with_context(|| format!("{SECRETS} holds what is not a secret"))?,
        kept: Mutex::default(),
    };
    let mut term = signal(SignalKind::terminate())?;
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", PORT)).await?;
    println!("receiving on port {PORT}");
    let app = Router::new().fallback(answer).with_state(Arc::new(sink));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::select! {
        ended = axum::serve(listener, app) => ended?,
        _ = term.recv() => {}
    }
    Ok(())
}

async fn answer(
    State(sink): State<Arc<Sink>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match (method.as_str(), uri.path()) {
        ("GET", "/healthz") => StatusCode::OK.into_response(),
        ("GET", RECEIVED) => sink.page(uri.query().unwrap_or_default()),
        ("DELETE", RECEIVED) => {
            let mut kept = sink.kept();
            kept.receipts.clear();
            kept.attempts.clear();
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", BEHAVE) => match serde_json::from_slice(&body) {
            Ok(behaviour) => {
                sink.kept().behaviour = behaviour;
                StatusCode::NO_CONTENT.into_response()
            }
            Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
        },
        _ => {
            let arrived_at = Utc::now().timestamp_micros();
            let behaviour = sink.kept().behaviour;
            if behaviour.delay_ms > 0 {
                tokio::time::sleep(Duration::from_millis(behaviour.delay_ms)).await;
            }
            let from = from.ip().to_string();
            let arrived = Arrived {
                from,
                at: arrived_at,
                status: behaviour.status,
            };
            sink.keep(uri.path(), &headers, &body, arrived)
                .into_response()
        }
    }
}

impl Sink {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, query: &str) -> Response {
        let since = query.strip_prefix("since=").and_then(|n| n.parse().ok());
        let kept = self.kept();
        let from = since.unwrap_or(0).min(kept.receipts.len());
        let to = kept.receipts.len().min(from + PAGE);
        match serde_json::to_string(&kept.receipts[from..to]) {
            Ok(page) => page.into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    fn keep(&self, path: &str, headers: &HeaderMap, body: &[u8], arrived: Arrived) -> StatusCode {
        let id = headers.get("webhook-id").and_then(|id| id.to_str().ok());
        let id = id.unwrap_or_default().to_owned();
        let secret = self
            .secrets
            .iter()
            .position(|secret| secret.verify(body, headers).is_ok());
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        let occurred_at = event["occurredAt"]
            .as_str()
            .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
            .map(|time| time.timestamp_micros());
        let mut kept = self.kept();
        if kept.receipts.len() >= MOST {
            return StatusCode::INSUFFICIENT_STORAGE;
        }
        let attempts = kept.attempts.entry(id.clone()).or_default();
        *attempts += 1;
        let attempt = *attempts;
        kept.receipts.push(Receipt {
            id,
            from: arrived.from,
            path: path.to_owned(),
            key: event["key"].as_str().map(str::to_owned),
            sequence: event["new"]["v"].as_i64(),
            occurred_at,
            arrived_at: arrived.at,
            attempt,
            status: arrived.status,
            secret,
        });
        StatusCode::from_u16(arrived.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}
