//! What a running process answers over HTTP.

use serde_json::Value;

use super::eventually_or;

/// An address that nobody listens on.
pub(crate) fn free_address() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().to_string()
}

/// Status and text of an answer; `None` where there is none.
pub(crate) async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let response = reqwest::get(format!("http://{address}{path}")).await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

/// Waits for a status of `/readyz`, and returns its text.
pub(crate) async fn ready(address: &str, status: u16) -> String {
    ready_with(address, status, "").await
}

/// Waits for a status of `/readyz` with a text that holds `reason`, and returns the text. On a busy
/// machine others than that one may come before it.
pub(crate) async fn ready_with(address: &str, status: u16, reason: &str) -> String {
    let look = async || {
        let (now, text) = get(address, "/readyz").await?;
        (now == status && text.contains(reason)).then_some(text)
    };
    eventually_or(look, async || {
        let found = get(address, "/readyz").await;
        format!("/readyz answers {status} with {reason:?}, and it answers {found:?}")
    })
    .await
}

/// Waits until these lines, or beginnings of some, stand among the metrics, and returns all.
pub(crate) async fn measures(address: &str, lines: &[&str]) -> String {
    let look = async || {
        let (_, text) = get(address, "/metrics").await?;
        lines.iter().all(|line| text.contains(line)).then_some(text)
    };
    eventually_or(look, async || {
        format!("{lines:?} among: {:?}", get(address, "/metrics").await)
    })
    .await
}

/// The value of a metric that stands once; `None` where there is no answer.
pub(crate) async fn metric(address: &str, name: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics").await?;
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(&format!("{name}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Asks the API of a Prometheus; `None` where there is no answer.
pub(crate) async fn ask_prometheus(
    address: &str,
    path: &str,
    parameters: &[(&str, &str)],
) -> Option<Value> {
    let url = format!("http://{address}/api/v1/{path}");
    let url = url::Url::parse_with_params(&url, parameters).unwrap();
    let answer = reqwest::get(url).await.ok()?.text().await.ok()?;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        answer["status"], "success",
        "{path} {parameters:?}: {answer}"
    );
    Some(answer["data"].clone())
}
