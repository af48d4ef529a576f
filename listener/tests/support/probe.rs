//! What a running process answers over HTTP.

use super::eventually;

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

pub(crate) async fn ready(address: &str, status: u16) -> String {
    eventually(&format!("/readyz answers {status}"), async || {
        let (now, text) = get(address, "/readyz").await?;
        (now == status).then_some(text)
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
