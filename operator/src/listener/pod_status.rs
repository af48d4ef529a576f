//! Polls the status of a listener's pods over HTTP.
//!
//! The last status of a pod that does not answer stays valid for a while.

use std::collections::HashMap;
use std::time::Duration;

use crds::pod_status::{PodReport, STATUS_PATH, STATUS_PORT};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::cache::projection::PodInfo;
use crate::listener::status::PodView;

/// Longest wait for a pod's answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Largest status that is read.
const MAX_BYTES: usize = 256 << 10;

/// Pods of one listener that are polled at once.
const CONCURRENT_REQUESTS: usize = 16;

/// How long a status stays valid once the pod does not answer.
const STATUS_TTL: Duration = Duration::from_secs(12);

/// Last status of each pod of a listener, by name.
pub type PodStatuses = HashMap<String, (Instant, PodReport)>;

/// Why a pod has no status.
#[derive(Debug, thiserror::Error)]
enum PodStatusError {
    /// The request failed.
    #[error("does not answer: {0}")]
    Unreachable(#[from] reqwest::Error),
    /// The answer is too large.
    #[error("answers with more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The answer does not parse.
    #[error("answers with something other than a report: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// HTTP client for the pods' status.
#[derive(Clone, Debug)]
pub struct PodStatusClient(reqwest::Client);

impl PodStatusClient {
    /// Creates a client that reaches pods only: it uses no proxy and follows no redirects. It keeps no
    /// connections, because thousands of pods are polled every few seconds.
    pub fn new() -> Result<Self, reqwest::Error> {
        reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map(Self)
    }

    /// Polls all pods that have an address, and returns each with its last valid status.
    pub async fn poll(
        &self,
        pods: Vec<(String, PodInfo)>,
        reports: &mut PodStatuses,
    ) -> Vec<PodView> {
        let with_address: Vec<(String, String)> = pods
            .iter()
            .filter_map(|(name, seen)| Some((name.clone(), seen.ip.clone()?)))
            .collect();
        let asked = with_address.into_iter().map(|(name, ip)| async move {
            let answer = self.fetch(&ip, &name).await;
            (name, answer)
        });
        let answers: Vec<_> = stream::iter(asked)
            .buffer_unordered(CONCURRENT_REQUESTS)
            .collect()
            .await;
        let now = Instant::now();
        for (name, answer) in answers {
            match answer {
                Ok(report) => {
                    reports.insert(name, (now, report));
                }
                Err(error) => {
                    tracing::debug!(pod = name, %error, "cannot read the status of a pod");
                }
            }
        }
        reports.retain(|name, (at, _)| {
            now.duration_since(*at) < STATUS_TTL && pods.iter().any(|(pod, _)| pod == name)
        });
        pods.into_iter()
            .map(|(name, seen)| PodView {
                report: reports.get(&name).map(|(_, report)| report.clone()),
                name,
                seen,
            })
            .collect()
    }

    async fn fetch(&self, ip: &str, name: &str) -> Result<PodReport, PodStatusError> {
        let host = if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip.to_owned()
        };
        let url = format!("http://{host}:{STATUS_PORT}{STATUS_PATH}");
        let mut answer = self.0.get(url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(PodStatusError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let mut report: PodReport = serde_json::from_slice(&body)?;
        // Addresses change owners; the name is the one that was asked for.
        name.clone_into(&mut report.pod);
        Ok(report)
    }
}
