//! A receiver of webhooks that runs as a pod. It checks each signature with an implementation
//! other than the sender's, keeps a receipt of each request, and tells the tests all of them.
//!
//! A webhook is a POST to any path but those of the tests:
//! `GET /received?since=N` gives the receipts from number N on, `POST /behave` sets how webhooks are
//! answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use observer_e2e::{BEHAVE, Behaviour, PAGE, PORT, RECEIVED, Receipt, SECRETS};
use serde_json::Value;
use testkit::http_sink::{self, Handler, Options, Request, Response, Sink};
use tokio::signal::unix::{SignalKind, signal};

/// Most receipts kept; a test that makes more than this is wrong.
const MOST: usize = 2_000_000;

/// Most seconds that the timestamp of a signature may be off.
const TOLERANCE: u64 = 300;

/// The receipts so far.
#[derive(Default)]
struct Receipts(Mutex<Vec<Receipt>>);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let secrets = std::env::var(SECRETS).unwrap_or_default();
    let secrets = secrets.split(',').filter(|secret| !secret.is_empty());
    let mut term = signal(SignalKind::terminate())?;
    let _sink = Sink::start_with(Options {
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
        behaviour: behaviour(Behaviour::default()),
        keep: false,
        signing_secrets: secrets.map(str::to_owned).collect(),
        handler: Some(Arc::new(Receipts::default())),
    })
    .await
    .with_context(|| format!("port {PORT} is taken, or {SECRETS} holds what is not a secret"))?;
    println!("receiving on port {PORT}");
    let _stopped = term.recv().await;
    Ok(())
}

/// What the tests ask for, as the sink does it.
fn behaviour(told: Behaviour) -> http_sink::Behaviour {
    http_sink::Behaviour::Steady {
        status: told.status,
        pause: Duration::from_millis(told.delay_ms),
        fail_one_in: 0,
    }
}

impl Handler for Receipts {
    fn control(&self, request: &Request) -> Option<Response> {
        let responds = |status, body| Response {
            status,
            body,
            behaviour: None,
        };
        Some(match (request.method(), request.path()) {
            ("GET", "/healthz") => responds(200, Vec::new()),
            ("GET", RECEIVED) => match self.page(request.query()) {
                Ok(page) => responds(200, page),
                Err(error) => responds(500, error.to_string().into_bytes()),
            },
            ("POST", BEHAVE) => match serde_json::from_slice(&request.body) {
                Ok(told) => Response {
                    behaviour: Some(behaviour(told)),
                    ..responds(204, Vec::new())
                },
                Err(error) => responds(400, error.to_string().into_bytes()),
            },
            _ => return None,
        })
    }

    fn delivered(&self, request: &Request, status: u16) {
        let event: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let occurred_at = event["occurredAt"]
            .as_str()
            .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
            .map(|time| time.timestamp_micros());
        let receipt = Receipt {
            id: request.webhook_id().to_owned(),
            from: request.from.ip().to_string(),
            path: request.path().to_owned(),
            key: event["key"].as_str().map(str::to_owned),
            sequence: event["new"]["v"].as_i64(),
            occurred_at,
            arrived_at: (Utc::now() - request.at.elapsed()).timestamp_micros(),
            status,
            secret: request.signed_by.filter(|_| is_recent(request)),
        };
        let mut kept = self.kept();
        if kept.len() < MOST {
            kept.push(receipt);
        }
    }
}

/// Whether a signature's timestamp is as near this clock as Standard Webhooks asks for.
fn is_recent(request: &Request) -> bool {
    let timestamp = request.header("webhook-timestamp").map(str::parse);
    let Some(Ok(timestamp)) = timestamp else {
        return false;
    };
    let now: i64 = Utc::now().timestamp();
    now.abs_diff(timestamp) <= TOLERANCE
}

impl Receipts {
    fn kept(&self) -> MutexGuard<'_, Vec<Receipt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn page(&self, query: &str) -> serde_json::Result<Vec<u8>> {
        let since = query.strip_prefix("since=").and_then(|n| n.parse().ok());
        let kept = self.kept();
        let from = since.unwrap_or(0).min(kept.len());
        let to = kept.len().min(from + PAGE);
        serde_json::to_vec(&kept[from..to])
    }
}
