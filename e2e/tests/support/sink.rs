//! The receiver of webhooks in a scenario's namespace.

use anyhow::{Context, Result};
use http::Request;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use observer_e2e::{BEHAVE, Behaviour, PAGE, PORT, RECEIVED, Receipt, SECRETS};
use serde_json::{Value, json};

use super::reach::Way;
use super::room::Room;
use super::{SINK_IMAGE, resources};

/// Name of its pod and its Service.
const NAME: &str = "sink";

/// The secrets that it knows: the one to begin with, and the one that takes its place.
pub(crate) const SIGNING: [&str; 2] = [
    "whsec_dGhlIGZpcnN0IHNlY3JldCBvZiB0aGUgdGVzdHM=",
    "whsec_dGhlIHNlY29uZCBzZWNyZXQgb2YgdGhlIHRlc3RzLg==",
];

/// A receiver of webhooks.
pub(crate) struct Sink {
    client: Client,
    namespace: String,
    way: Way,
}

impl Sink {
    /// Starts it and waits until it receives.
    pub(crate) async fn start(room: &Room) -> Result<Self> {
        let container = json!({
            "name": NAME,
            "image": SINK_IMAGE,
            "command": ["/usr/local/bin/sink"],
            "env": [{"name": SECRETS, "value": SIGNING.join(",")}],
            "ports": [{"containerPort": PORT}],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": PORT}, "periodSeconds": 1},
        });
        room.apply::<Pod>(&resources::pod(NAME, &container, &json!([])))
            .await?;
        room.apply::<Service>(&resources::service(NAME, PORT))
            .await?;
        room.pod_ready(NAME).await?;
        let way = Way::to(room, NAME, PORT).await?;
        Ok(Self {
            client: way.http()?,
            namespace: room.namespace.clone(),
            way,
        })
    }

    /// The URL of a path on it, for those in the cluster.
    pub(crate) fn url(&self, path: &str) -> String {
        format!(
            "http://{NAME}.{}.svc.cluster.local:{PORT}/{path}",
            self.namespace
        )
    }

    /// Whether it is reached without the API server.
    pub(crate) fn is_straight(&self) -> bool {
        self.way.is_straight()
    }

    /// The receipts from number `since` on.
    pub(crate) async fn since(&self, since: usize) -> Result<Vec<Receipt>> {
        let mut all = Vec::new();
        loop {
            let path = format!("{RECEIVED}?since={}", since + all.len());
            let text = self.ask("GET", &path, Vec::new()).await?;
            let page: Vec<Receipt> = serde_json::from_str(&text)?;
            let last = page.len() < PAGE;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    /// Says how webhooks are answered from now on.
    pub(crate) async fn behave(&self, behaviour: Behaviour) -> Result<()> {
        let body = serde_json::to_vec(&behaviour)?;
        self.ask("POST", BEHAVE, body).await.map(drop)
    }

    async fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<String> {
        let request = Request::builder().method(method).uri(path).body(body)?;
        self.client
            .request_text(request)
            .await
            .with_context(|| format!("the sink does not answer {method} {path}"))
    }
}

/// The secrets of an example: where webhooks go, and what signs them.
pub(crate) fn hooks(sink: &Sink) -> Value {
    json!({
        "url": sink.url("main"),
        "orders-url": sink.url("main"),
        "signing-secret": SIGNING[0],
    })
}
