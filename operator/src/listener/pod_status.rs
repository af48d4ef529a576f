//! Asks the pods of a listener how they are.
//!
//! A pod that does not answer once is taken at its last word for a while.

use std::collections::HashMap;
use std::time::Duration;

use crds::report::{PodReport, STATUS_PATH, STATUS_PORT};
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use crate::cache::projection::PodSeen;
use crate::listener::status::Pod;

/// How long a pod may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Largest report that is read.
const MAX_BYTES: usize = 256 << 10;

/// Pods of one listener that are asked at once.
const AT_ONCE: usize = 16;

/// How long a pod that does not answer any more is taken at its last word.
const LAST_WORD: Duration = Duration::from_secs(12);

/// What the pods of a listener said last, by their names.
pub type Reports = HashMap<String, (Instant, PodReport)>;

/// Why a pod has no report.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    /// It does not answer.
    #[error("does not answer: {0}")]
    Away(#[from] reqwest::Error),
    /// It answers at length.
    #[error("answers with more than {MAX_BYTES} bytes")]
    TooLong,
    /// It answers something else.
    #[error("answers something that is no report: {0}")]
    Odd(#[from] serde_json::Error),
}

/// Asks pods.
#[derive(Clone, Debug)]
pub struct Reporter(reqwest::Client);

impl Reporter {
    /// A client that goes to the pods only: by no proxy, and nowhere that an answer points to. It
    /// keeps no connections, because thousands of pods are asked once in a while.
    pub fn new() -> Result<Self, reqwest::Error> {
        reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map(Self)
    }

    /// Asks all pods that have an address, and gives each with what it said.
    pub async fn ask(&self, pods: Vec<(String, PodSeen)>, reports: &mut Reports) -> Vec<Pod> {
        let with_address: Vec<(String, String)> = pods
            .iter()
            .filter_map(|(name, seen)| Some((name.clone(), seen.ip.clone()?)))
            .collect();
        let asked = with_address.into_iter().map(|(name, ip)| async move {
            let answer = self.one(&ip, &name).await;
            (name, answer)
        });
        let answers: Vec<_> = stream::iter(asked)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let now = Instant::now();
        for (name, answer) in answers {
            match answer {
                Ok(report) => {
                    reports.insert(name, (now, report));
                }
                Err(error) => tracing::debug!(pod = name, %error, "a pod has no report"),
            }
        }
        reports.retain(|name, (at, _)| {
            now.duration_since(*at) < LAST_WORD && pods.iter().any(|(pod, _)| pod == name)
        });
        pods.into_iter()
            .map(|(name, seen)| Pod {
                report: reports.get(&name).map(|(_, report)| report.clone()),
                name,
                seen,
            })
            .collect()
    }

    async fn one(&self, ip: &str, name: &str) -> Result<PodReport, ReportError> {
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
                return Err(ReportError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        let mut report: PodReport = serde_json::from_slice(&body)?;
        // Addresses change hands; the name is the one that was asked for.
        name.clone_into(&mut report.pod);
        Ok(report)
    }
}
