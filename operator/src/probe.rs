//! Asks an address until it answers well: the chart's test, in an image that has no shell.

use std::time::Duration;

use reqwest::StatusCode;
use tokio::time::{Instant, sleep};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an address is not well.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be asked, or does not answer.
    #[error("does not answer")]
    Away(#[from] reqwest::Error),
    /// It answers something else.
    #[error("answers {0}")]
    Unwell(StatusCode),
}

/// Asks `url` until it answers 200, for as long as `patience` lasts; at least once.
pub async fn probe(url: &str, patience: Duration) -> Result<(), ProbeError> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()?;
    let end = Instant::now() + patience;
    loop {
        let answer = ask(&client, url).await;
        if answer.is_ok() || Instant::now() + PAUSE > end {
            return answer;
        }
        sleep(PAUSE).await;
    }
}

async fn ask(client: &reqwest::Client, url: &str) -> Result<(), ProbeError> {
    match client.get(url).send().await?.status() {
        StatusCode::OK => Ok(()),
        other => Err(ProbeError::Unwell(other)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Router;
    use axum::routing::get;
    use testkit::wait::eventually;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that is well from its nth answer on.
    async fn server(well_from: u32) -> String {
        let asked = Arc::new(AtomicU32::new(0));
        let answer = move || {
            let well = asked.fetch_add(1, Ordering::Relaxed) + 1 >= well_from;
            async move {
                if well {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            }
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            axum::serve(socket, Router::new().route("/readyz", get(answer)))
                .await
                .unwrap();
        });
        format!("http://{at}/readyz")
    }

    #[tokio::test]
    async fn probe_waits_for_a_healthy_server() {
        let url = server(2).await;
        probe(&url, Duration::from_hours(1)).await.unwrap();
    }

    #[tokio::test]
    async fn probe_gives_up_and_reports_the_answer() {
        let url = server(u32::MAX).await;
        // On a machine that is busy for long it may not answer in time.
        let answer = eventually("an answer", async || {
            match probe(&url, Duration::ZERO).await {
                Err(ProbeError::Away(_)) => None,
                answer => Some(answer),
            }
        });
        let error = answer.await.unwrap_err();
        assert_eq!(error.to_string(), "answers 503 Service Unavailable");
    }

    #[tokio::test]
    async fn unreachable_server_is_unhealthy() {
        let error = probe("http://127.0.0.1:1/readyz", Duration::ZERO).await;
        assert!(matches!(error, Err(ProbeError::Away(_))));
    }
}
