//! Who may read the operator's metrics, by rights in a control plane.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};
use observer_operator::http::{AppState, serve};
use observer_operator::telemetry::metrics::Metrics;
use serde_json::{Value, json};
use server::metrics_access::MetricsAccess;
use testkit::cut_proxy::Link;
use testkit::wait::eventually;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::chart::{Release, apply, delete};
use crate::control_plane::plane::{Operator, Plane};
use crate::control_plane::room::until;

const RELEASE: Release<'_> = Release {
    name: "shop",
    namespace: "metrics-rights",
};

/// The operator's account.
const ACCOUNT: (&str, &str) = (RELEASE.namespace, "shop-observer-operator");

/// Where the chart keeps the token of who reads metrics.
const READER: &str = "shop-observer-operator-metrics-reader";

/// How long answers count where the test waits for their end.
const MAX_AGE: Duration = Duration::from_millis(500);

/// Status of an answer and what it says.
async fn ask(url: &str, token: Option<&str>) -> Option<(u16, String)> {
    let mut request = reqwest::Client::new().get(format!("{url}/metrics"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

/// Waits for a status, and returns what the answer says.
async fn answers(url: &str, token: &str, status: u16) -> String {
    eventually(&format!("it answers {status}"), async || {
        let (now, said) = ask(url, Some(token)).await?;
        (now == status).then_some(said)
    })
    .await
}

/// The token that the control plane writes into the chart's Secret.
async fn reader(client: &Client) -> String {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), RELEASE.namespace);
    eventually("the Secret has a token", async || {
        let data = secrets.get(READER).await.unwrap().data?;
        Some(String::from_utf8(data.get("token")?.0.clone()).unwrap())
    })
    .await
}

/// A token of an account that may do nothing.
async fn stranger(client: &Client) -> String {
    let meta = json!({ "name": "stranger", "namespace": RELEASE.namespace });
    let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta });
    apply(client, &object).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), RELEASE.namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec::default(),
        ..TokenRequest::default()
    };
    let parameters = PostParams::default();
    let token = accounts.create_token_request("stranger", &parameters, &request);
    token.await.unwrap().status.unwrap().token
}

fn binding<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    let of = |one: &&Value| one["kind"] == "ClusterRoleBinding" && one["metadata"]["name"] == name;
    objects.iter().find(of).unwrap()
}

/// The program itself, with the rights that the chart gives.
async fn program_admits_who_may(plane: &Plane, reader: &str, stranger: &str) {
    let mut operator = Operator::spawn(plane, Some(RELEASE.namespace), Some(ACCOUNT), true);
    let url = operator.url.clone();
    until("it is ready, without a token", async || {
        let ready = reqwest::get(format!("{url}/readyz")).await;
        ready.is_ok_and(|ready| ready.status().is_success())
    })
    .await;
    let metrics = answers(&url, reader, 200).await;
    assert!(metrics.contains("\nobserver_operator_leader "), "{metrics}");
    let name = format!("user system:serviceaccount:{}:stranger", RELEASE.namespace);
    for (token, status, words) in [
        (None, 401, "Bearer TOKEN"),
        (Some("a.made.up-token-of-nobody"), 401, "Bearer TOKEN"),
        (Some(stranger), 403, &*name),
    ] {
        let (now, said) = ask(&url, token).await.unwrap();
        assert_eq!(now, status, "{said}");
        assert!(said.contains(words), "{said}");
    }
    let health = reqwest::get(format!("{url}/healthz")).await.unwrap();
    assert!(health.status().is_success());
    operator.stop();
}

/// What the API server said before counts for a time only.
async fn answers_end(plane: &Plane, objects: &[Value], reader: &str) {
    let admin = plane.client().await;
    let mut config = plane.config_of(ACCOUNT).await;
    let server = config.cluster_url.to_string();
    let link = Link::to(&server).await;
    config.cluster_url = link.url(&server).parse().unwrap();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let sources = AppState {
        metrics: Metrics::new().unwrap(),
        metrics_access: MetricsAccess::authorized(&client, MAX_AGE, "the remedy"),
        ready: Arc::new(AtomicBool::new(true)),
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(socket, sources, stop.clone()));
    answers(&url, reader, 200).await;
    for (name, status, words) in [
        ("metrics-reader", 403, "may not get the path /metrics"),
        ("metrics-reviews", 503, "the remedy"),
    ] {
        let name = format!("{}-{}-{name}", RELEASE.namespace, ACCOUNT.1);
        let binding = binding(objects, &name);
        delete(&admin, binding).await;
        let said = answers(&url, reader, status).await;
        assert!(said.contains(words), "{said}");
        apply(&admin, binding).await;
        answers(&url, reader, 200).await;
    }
    drop(link);
    let said = answers(&url, reader, 503).await;
    assert!(said.contains("cannot be asked"), "{said}");
    let (status, said) = ask(&url, Some(reader)).await.unwrap();
    assert_eq!(status, 503, "{said}");
    stop.cancel();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn rights_in_a_control_plane_decide_who_reads_metrics() {
    let plane = Plane::start();
    let admin = plane.client().await;
    plane.define(&admin).await;
    let meta = json!({ "name": RELEASE.namespace });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": meta });
    apply(&admin, &namespace).await;
    let templates = ["rbac.yaml", "serviceaccount.yaml", "rbac-metrics.yaml"];
    let options = [
        "metrics.authorize=true",
        "monitoring.podMonitor.enabled=true",
    ];
    let options: Vec<&str> = options.iter().flat_map(|one| ["--set", *one]).collect();
    let objects = RELEASE.render(&templates, &options);
    for object in &objects {
        apply(&admin, object).await;
    }
    let (reader, stranger) = (reader(&admin).await, stranger(&admin).await);
    program_admits_who_may(&plane, &reader, &stranger).await;
    answers_end(&plane, &objects, &reader).await;
}
