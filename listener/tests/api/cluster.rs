//! Users and service accounts of a real control plane, whose rights decide.

use std::path::{Path, PathBuf};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config as ClientConfig};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::servers::control_plane::ControlPlane;

use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, ready};
use crate::support::{database, eventually_or};

const NAMESPACE: &str = "api-users";

/// A control plane whose users call the API.
pub(crate) struct Plane(ControlPlane);

impl Plane {
    pub(crate) fn start() -> Self {
        Self(ControlPlane::start())
    }

    pub(crate) async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.0.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = ClientConfig::from_custom_kubeconfig(kubeconfig, &options).await;
        Client::try_from(config.unwrap()).unwrap()
    }

    /// Returns the path of a kubeconfig that may do anything.
    pub(crate) fn kubeconfig(&self) -> &Path {
        self.0.kubeconfig()
    }

    /// Writes a kubeconfig that logs in with a token, as a pod does.
    pub(crate) fn kubeconfig_of(&self, token: &str, folder: &Path) -> PathBuf {
        let config = Kubeconfig::read_from(self.0.kubeconfig()).unwrap();
        let mut config = serde_json::to_value(config).unwrap();
        for user in config["users"].as_array_mut().unwrap() {
            user["user"] = json!({"token": token});
        }
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

/// Applies an object of any kind.
pub(crate) async fn apply(client: &Client, resource: &str, object: Value) {
    let (api_version, kind) = (&object["apiVersion"], &object["kind"]);
    let (api_version, kind) = (api_version.as_str().unwrap(), kind.as_str().unwrap());
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: resource.to_owned(),
    };
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let parameters = PatchParams::apply("test").force();
    api.patch(&name, &parameters, &Patch::Apply(&object))
        .await
        .unwrap();
}

/// Makes a service account of the namespace of these tests.
async fn account(client: &Client, name: &str, rules: Value) -> String {
    account_in(client, NAMESPACE, name, rules).await
}

/// Makes a service account that may do this in the namespace, and returns a token of it.
pub(crate) async fn account_in(
    client: &Client,
    namespace: &str,
    name: &str,
    rules: Value,
) -> String {
    let meta = json!({"name": name, "namespace": namespace});
    let rbac = "rbac.authorization.k8s.io/v1";
    for (resource, object) in [
        (
            "serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
        ),
        (
            "roles",
            json!({"apiVersion": rbac, "kind": "Role", "metadata": meta, "rules": rules}),
        ),
        (
            "rolebindings",
            json!({
                "apiVersion": rbac, "kind": "RoleBinding", "metadata": meta,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            }),
        ),
    ] {
        apply(client, resource, object).await;
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec::default(),
        ..TokenRequest::default()
    };
    let parameters = PostParams::default();
    let token = accounts.create_token_request(name, &parameters, &request);
    token.await.unwrap().status.unwrap().token
}

fn on_events(verbs: &[&str], listener: &str) -> Value {
    json!([{
        "apiGroups": ["observers.fraiseql.dev"], "resources": ["observerlisteners/events"],
        "resourceNames": [listener], "verbs": verbs,
    }])
}

/// Status of an answer and what it says.
async fn ask(address: &str, token: &str, method: Method) -> (u16, String) {
    let client = reqwest::Client::new();
    let request = match method {
        Method::GET => client.get(format!("http://{address}/api/observers/status")),
        _ => client
            .post(format!("http://{address}/api/observers/jobs/retry"))
            .json(&json!({"all": true})),
    };
    let answer = request.bearer_auth(token).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.text().await.unwrap())
}

/// Status of the answer of a path of the port for health checks, and what it says.
async fn scrape(address: &str, path: &str, token: Option<&str>) -> (u16, String) {
    let mut request = reqwest::Client::new().get(format!("http://{address}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.text().await.unwrap())
}

/// Gives an account of the namespace a role in the whole cluster, as the chart gives `system:auth-delegator` to pods.
fn cluster_binding(account: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": format!("{NAMESPACE}-{account}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    })
}

/// Lets an account read metrics, as the chart's role for Prometheus does.
async fn let_scrape(client: &Client, account: &str) {
    let name = format!("{NAMESPACE}-metrics-reader");
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
    });
    apply(client, "clusterroles", role).await;
    apply(
        client,
        "clusterrolebindings",
        cluster_binding(account, &name),
    )
    .await;
}

/// Without the right to ask, metrics are nobody's. The status, which the operator polls, needs no token.
async fn metrics_need_the_right_to_ask(health: &str, scraper: &str) {
    assert_eq!(scrape(health, "/metrics", None).await.0, 401);
    let (status, said) = scrape(health, "/metrics", Some(scraper)).await;
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("rbac.tokenReviews"), "{said}");
    assert_eq!(scrape(health, "/status", None).await.0, 200);
}

async fn metrics_are_for_scrapers(health: &str, scraper: &str, other: &str) {
    let look = async || {
        let (status, said) = scrape(health, "/metrics", Some(scraper)).await;
        (status == 200).then_some(said)
    };
    let metrics = eventually_or(look, async || {
        let found = scrape(health, "/metrics", Some(scraper)).await;
        format!("a scraper reads metrics: {found:?}")
    })
    .await;
    assert!(metrics.contains("\nobserver_ready{"), "{metrics}");
    for (token, status) in [(other, 403), ("a.made.up-token-of-nobody", 401)] {
        let (now, said) = scrape(health, "/metrics", Some(token)).await;
        assert_eq!(now, status, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn rights_in_a_control_plane_decide() {
    let plane = Plane::start();
    let client = plane.client().await;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(&client, "namespaces", namespace).await;
    // As the operator lets pods: their own bundle and Leases, and nothing of all the cluster.
    let pod = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
    ]);
    let pod = account(&client, "pod", pod).await;
    let reader = account(&client, "reader", on_events(&["get"], "shop")).await;
    let changer = account(&client, "changer", on_events(&["get", "update"], "shop")).await;
    let scraper = account(&client, "scraper", json!([])).await;
    let_scrape(&client, "scraper").await;
    let others = account(&client, "others", on_events(&["get", "update"], "other")).await;

    let db = database().await;
    let spec = "  api: {kubernetes: {}, tokens: [{name: own, token: {value: one-of-its-own-tokens}, role: Read}]}\n";
    let config = Config::new(
        &db.url,
        spec,
        &observer("orders", "public.orders", "http://127.0.0.1:9/", ""),
    );
    let bundle = std::fs::read_to_string(config.path()).unwrap();
    let bundle = bundle
        .replace(
            "{name: test}",
            &format!("{{name: shop, namespace: {NAMESPACE}}}"),
        )
        .replace(
            "{name: orders}",
            &format!("{{name: orders, namespace: {NAMESPACE}}}"),
        );
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": {"bundle.yaml": bundle},
        "metadata": {"name": "shop-bundle", "namespace": NAMESPACE},
    });
    apply(&client, "secrets", secret).await;
    let kubeconfig = plane.kubeconfig_of(&pod, config.dir.path());
    let (health, address) = (free_address(), free_address());
    let mut process = Process::start_in(
        (&kubeconfig, NAMESPACE),
        &["--listen", &health, "--api-listen", &address],
        &[("OBSERVER_AUTHORIZE_METRICS", "true")],
    );
    ready(&health, 200).await;

    // Without the right to ask, it says so, and its own tokens go on.
    let (status, said) = ask(&address, &reader, Method::GET).await;
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("rbac.tokenReviews"), "{said}");
    process.says("bind system:auth-delegator to it").await;
    assert_eq!(
        ask(&address, "one-of-its-own-tokens", Method::GET).await.0,
        200
    );

    metrics_need_the_right_to_ask(&health, &scraper).await;
    process.says("metrics refused: the API server").await;

    let delegation = cluster_binding("pod", "system:auth-delegator");
    apply(&client, "clusterrolebindings", delegation).await;
    let look = async || (ask(&address, &reader, Method::GET).await.0 == 200).then_some(());
    eventually_or(look, async || {
        format!(
            "a reader reads: {:?}",
            ask(&address, &reader, Method::GET).await
        )
    })
    .await;
    for (token, get, post) in [
        (&reader, 200, 403),
        (&changer, 200, 200),
        (&others, 403, 403),
        (&"a.made.up-token-of-nobody".to_owned(), 401, 401),
    ] {
        let (status, said) = ask(&address, token, Method::GET).await;
        assert_eq!(status, get, "{said}");
        let (status, said) = ask(&address, token, Method::POST).await;
        assert_eq!(status, post, "{said}");
        if status == 403 {
            assert!(said.contains("may not update observerlisteners"), "{said}");
        }
    }
    metrics_are_for_scrapers(&health, &scraper, &changer).await;
    let said = process.stop().await;
    assert!(
        said.contains("caller=\"system:serviceaccount:api-users:changer\""),
        "{said}"
    );
    assert!(
        !said.contains(&reader) && !said.contains("a.made.up-token"),
        "no token is logged"
    );
}
