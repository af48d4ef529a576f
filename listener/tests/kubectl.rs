//! The plugin `kubectl observers` in a real control plane, where no pod runs.

use std::path::{Path, PathBuf};

use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::wait::{STALLED, eventually};
use tokio::process::Command;

use crate::api::cluster::{Plane, account_in, apply};
use crate::support::database;
use crate::support::listener::{Config, Process, observer, program};
use crate::support::program::{Ended, command_by, ended};

const NAMESPACE: &str = "plugin-users";

/// The plugin, as a link to the program, and who uses it.
struct Plugin {
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl Plugin {
    fn of(kubeconfig: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        std::os::unix::fs::symlink(program(), folder.path().join("kubectl-observers")).unwrap();
        Self {
            folder,
            kubeconfig: kubeconfig.to_owned(),
        }
    }

    async fn run(&self, args: &[&str]) -> Ended {
        let child = Command::new(self.folder.path().join("kubectl-observers"))
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("OBSERVER_BUNDLE")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        ended(args, child).await
    }

    /// Runs it in the namespace; it has to fail with this code and say all of this.
    async fn fails(&self, args: &[&str], code: i32, told: &[&str]) {
        let ended = self.run(&[args, &["-n", NAMESPACE]].concat()).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.said());
        for text in told {
            assert!(
                ended.err.contains(text),
                "{args:?}, {text}: {}",
                ended.said()
            );
        }
    }

    async fn ok(&self, args: &[&str]) -> String {
        self.run(&[args, &["-n", NAMESPACE]].concat()).await.ok()
    }
}

/// Makes the custom resources known.
pub(crate) async fn define(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in [ObserverListener::crd(), Observer::crd()] {
        let name = definition.metadata.name.clone().unwrap();
        let parameters = PatchParams::apply("test").force();
        api.patch(&name, &parameters, &Patch::Apply(&definition))
            .await
            .unwrap();
        let waiting = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(STALLED, waiting)
            .await
            .unwrap()
            .unwrap();
    }
}

/// Makes a listener with this status.
async fn listener(client: &Client, name: &str, status: Option<Value>) {
    let api_version = "observers.fraiseql.dev/v1alpha1";
    let meta = json!({"name": name, "namespace": NAMESPACE});
    let spec = json!({"replicas": 2, "database": {"url": {"value": "postgres://db/shop"}}});
    let object = json!({"apiVersion": api_version, "kind": "ObserverListener", "metadata": meta, "spec": spec});
    apply(client, "observerlisteners", object).await;
    if let Some(status) = status {
        let api: Api<ObserverListener> = Api::namespaced(client.clone(), NAMESPACE);
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
}

/// Makes a `ReplicaSet` whose one pod has the labels of a listener, and says of that pod that it runs, and is ready
/// or not. The `ReplicaSet` is a real one, as pods without their owner are collected.
async fn pod(client: &Client, listener: &str, replica_set: &str, is_ready: bool) {
    let labels = json!({"app.kubernetes.io/name": "observer-listener", "app.kubernetes.io/instance": listener});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": replica_set, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "listener", "image": "none"}]},
            },
        },
    });
    apply(client, "replicasets", object).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let of_listener =
        ListParams::default().labels(&format!("app.kubernetes.io/instance={listener}"));
    let name = eventually("the ReplicaSet has its pod", async || {
        let listed = pods.list(&of_listener).await.unwrap().items;
        let mut names = listed.iter().map(ResourceExt::name_any);
        names.find(|name| {
            name.rsplit_once('-')
                .is_some_and(|(owner, _)| owner == replica_set)
        })
    })
    .await;
    let ready = if is_ready { "True" } else { "False" };
    let status =
        json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    let patch = Patch::Merge(status);
    pods.patch_status(&name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

async fn statuses_are_shown(plugin: &Plugin, client: &Client) {
    assert_eq!(
        plugin.ok(&["status"]).await.trim(),
        format!("no listeners in namespace {NAMESPACE}")
    );
    plugin
        .fails(&["tail"], 1, &["there is no listener in namespace"])
        .await;
    listener(client, "billing", None).await;
    plugin
        .fails(&["tail"], 1, &["listener billing has no pods"])
        .await;
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastTransitionTime": "2026-03-01T12:00:00Z"})
    };
    let status = json!({
        "readyReplicas": 2, "lag": "2m", "backlog": 17, "observers": {"selected": 3, "programmed": 2},
        "openCircuitBreakers": ["https://a.example:443"],
        "conditions": [
            condition("Ready", "True", "Ready", "events are delivered"),
            condition("Degraded", "True", "ObserversRejected", "observer broken is rejected"),
        ],
    });
    listener(client, "shop", Some(status)).await;

    let table = plugin.ok(&["status"]).await;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let head = [
        "NAME",
        "READY",
        "REASON",
        "PODS",
        "OBSERVERS",
        "LAG",
        "BACKLOG",
        "BREAKERS",
        "AGE",
    ];
    assert_eq!(lines[0], head, "{table}");
    assert_eq!(lines[1][..4], ["billing", "Unknown", "-", "0/2"], "{table}");
    let shop = [
        "shop",
        "True",
        "ObserversRejected",
        "2/2",
        "2/3",
        "2m",
        "17",
        "1",
    ];
    assert_eq!(lines[2][..8], shop, "{table}");
    assert_eq!(lines.len(), 3, "{table}");
    let wide = plugin.ok(&["status", "-o", "wide"]).await;
    assert!(wide.contains("observer broken is rejected"), "{wide}");
    let all = plugin.run(&["status", "-A"]).await.ok();
    assert!(
        all.starts_with("NAMESPACE") && all.contains(NAMESPACE),
        "{all}"
    );
    let json: Value = serde_json::from_str(&plugin.ok(&["status", "-o", "json"]).await).unwrap();
    assert_eq!(json["items"][1]["status"]["lag"], "2m", "{json}");
    let yaml = plugin.ok(&["status", "-o", "yaml"]).await;
    assert!(
        yaml.contains("lag: 2m") && yaml.contains("backlog: 17"),
        "{yaml}"
    );
    plugin
        .fails(&["status", "-A", "-l", "shop"], 2, &["cannot be used with"])
        .await;
}

async fn pods_are_found(plugin: &Plugin, client: &Client) {
    plugin
        .fails(
            &["jobs", "list"],
            2,
            &["several listeners", "--listener: billing, shop"],
        )
        .await;
    plugin
        .fails(
            &["status", "-l", "shp"],
            1,
            &[
                "no listener shp",
                "it has billing, shop",
                "did you mean shop?",
            ],
        )
        .await;
    // One of a Deployment whose name only begins like the listener's is none of its pods.
    pod(client, "billing", "billing-listener-canary-5d9c7b", true).await;
    plugin
        .fails(
            &["tail", "-l", "billing"],
            1,
            &["listener billing has no pods"],
        )
        .await;
    pod(client, "billing", "billing-listener-5d9c7b", false).await;
    plugin
        .fails(
            &["tail", "-l", "billing"],
            1,
            &["none of the 1 pods of listener billing is ready"],
        )
        .await;
    pod(client, "shop", "shop-listener-5d9c7b", true).await;
    // The pod is on no node, which the API server says.
    plugin
        .fails(
            &["-l", "shop", "tail"],
            1,
            &["pod shop-listener-5d9c7b-", "does not have a host assigned"],
        )
        .await;
    plugin
        .fails(
            &["tail", "-l", "shop", "--limit", "1"],
            2,
            &["unexpected argument '--limit'"],
        )
        .await;
    plugin
        .fails(
            &["tail", "-l", "shop", "-f", "shop.yaml"],
            2,
            &["unexpected argument '-f'"],
        )
        .await;
}

async fn observers_are_suspended_and_resumed(plugin: &Plugin, client: &Client) {
    let spec =
        json!({"events": {"entity": "public.orders"}, "actions": [{"name": "note", "log": {}}]});
    let object = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "Observer",
        "metadata": {"name": "orders", "namespace": NAMESPACE}, "spec": spec,
    });
    apply(client, "observers", object).await;
    let observers: Api<Observer> = Api::namespaced(client.clone(), NAMESPACE);
    let suspended = async || observers.get("orders").await.unwrap().spec.suspend;
    for (args, told, is_suspended) in [
        (
            ["suspend", "orders"],
            "is suspended: events from now on",
            true,
        ),
        (["suspend", "orders"], "is suspended already", true),
        (["resume", "orders"], "is at work again", false),
        (["resume", "orders"], "is at work already", false),
    ] {
        let said = plugin.ok(&args).await;
        assert!(said.contains(told), "{said}");
        assert_eq!(suspended().await, is_suspended, "{said}");
    }
    plugin
        .fails(
            &["suspend", "order"],
            1,
            &["there is no observer order", "did you mean orders?"],
        )
        .await;
    let completed = plugin
        .run(&["__complete", "-n", NAMESPACE, "suspend", ""])
        .await
        .ok();
    assert_eq!(completed, "orders\n:4\n");
    let completed = plugin
        .run(&["__complete", "--namespace", NAMESPACE, "tail", "-l", "s"])
        .await
        .ok();
    assert_eq!(completed, "shop\n:4\n");
}

async fn what_is_forbidden_is_named(plane: &Plane, client: &Client) {
    let folder = TempDir::new().unwrap();
    let token = account_in(client, NAMESPACE, "nobody", json!([])).await;
    let nobody = Plugin::of(&plane.kubeconfig_of(&token, folder.path()));
    for (args, right) in [
        (
            &["status"][..],
            "cannot list resource \"observerlisteners\"",
        ),
        (&["tail", "-l", "shop"], "cannot list resource \"pods\""),
        (&["suspend", "orders"], "cannot get resource \"observers\""),
    ] {
        nobody.fails(args, 1, &["you may not do this", right]).await;
    }
    let folder = TempDir::new().unwrap();
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": ["observers.fraiseql.dev"], "resources": ["observers"], "verbs": ["get"]},
    ]);
    let token = account_in(client, NAMESPACE, "reader", rules).await;
    let reader = Plugin::of(&plane.kubeconfig_of(&token, folder.path()));
    for (args, right) in [
        (&["tail", "-l", "shop"][..], "pods/exec"),
        (
            &["suspend", "orders"],
            "cannot patch resource \"observers\"",
        ),
    ] {
        reader.fails(args, 1, &["you may not do this", right]).await;
    }
}

/// A command reads the bundle that it is named, as it does in a pod.
async fn commands_read_the_bundle(plane: &Plane, client: &Client) {
    let db = database().await;
    db.run("create table a (id int primary key); select observer.track('a')")
        .await;
    let config = Config::new(
        &db.url,
        "",
        &observer("a", "public.a", "http://127.0.0.1:9/", ""),
    );
    let mut process = Process::run(&config);
    process.says("running").await;
    let bundle = std::fs::read_to_string(config.path()).unwrap();
    let meta = json!({"name": "test-bundle", "namespace": NAMESPACE});
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"bundle.yaml": bundle}});
    apply(client, "secrets", object).await;
    let of_pod = [
        ("KUBECONFIG", plane.kubeconfig().to_str().unwrap()),
        ("OBSERVER_BUNDLE", "test-bundle"),
        ("POD_NAMESPACE", NAMESPACE),
        ("OBSERVER_LISTENER", "test"),
    ];
    let status = command_by(&["status"], &of_pod).await.ok();
    assert!(
        status.starts_with("default/test:") && status.contains("1 process"),
        "{status}"
    );
    // A URL takes precedence over the bundle of the environment.
    let by_url = [&of_pod[..], &[("OBSERVER_DATABASE_URL", db.url.as_str())]].concat();
    let status = command_by(&["status", "--listener", "default/test"], &by_url).await;
    let status = status.ok();
    assert!(status.starts_with("default/test:"), "{status}");
    let jobs = command_by(&["jobs", "list", "--observer", "b"], &of_pod).await;
    assert!(
        jobs.err.contains("there are default/a/post"),
        "{}",
        jobs.said()
    );
    let missing = [&of_pod[..], &[("OBSERVER_BUNDLE", "other")]].concat();
    let missing = command_by(&["status"], &missing).await;
    assert_eq!(missing.code, Some(1), "{}", missing.said());
    assert!(
        missing.err.contains("the Secret other is not there"),
        "{}",
        missing.said()
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn plugin_in_a_control_plane() {
    let plane = Plane::start();
    let client = plane.client().await;
    define(&client).await;
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    apply(&client, "namespaces", namespace).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": NAMESPACE}});
    apply(&client, "serviceaccounts", account).await;
    let plugin = Plugin::of(plane.kubeconfig());
    statuses_are_shown(&plugin, &client).await;
    pods_are_found(&plugin, &client).await;
    observers_are_suspended_and_resumed(&plugin, &client).await;
    what_is_forbidden_is_named(&plane, &client).await;
    commands_read_the_bundle(&plane, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_clusters_and_wrong_contexts_are_told() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "away",
        "clusters": [{"name": "away", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "away", "context": {"cluster": "away", "user": "me", "namespace": "shop"}}],
        "users": [{"name": "me", "user": {}}],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let plugin = Plugin::of(&file);
    for (args, code, told) in [
        (&["status"][..], 1, "cannot reach the API server"),
        (&["tail", "-l", "shop"], 1, "cannot reach the API server"),
        (&["status", "--context", "home"], 2, "home"),
        (
            &["status", "--kubeconfig", "/nowhere"],
            2,
            "cannot tell how to reach the cluster",
        ),
        (&["stauts"], 2, "unrecognized subcommand"),
        // No pod may run while positions are reset.
        (&["reset-position"], 2, "unrecognized subcommand"),
    ] {
        let ended = plugin.run(args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {}", ended.said());
        assert!(ended.err.contains(told), "{args:?}: {}", ended.said());
    }
    let completed = plugin
        .run(&["__complete", "status", "--context", ""])
        .await
        .ok();
    assert_eq!(completed, "away\n:4\n");
    let completed = plugin.run(&["__complete", "dead-letters", "re"]).await.ok();
    assert_eq!(completed, "redrive\n:4\n");
    let completed = plugin.run(&["__complete", "tail", "-o", ""]).await.ok();
    assert_eq!(completed, "table\njson\n:4\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_files_do_not_go_with_a_bundle() {
    let of_pod = [("OBSERVER_BUNDLE", "test-bundle")];
    for (args, option) in [
        (&["status", "--listener", "shop"][..], "--listener"),
        (
            &["run", "--listener-name", "shop", "--secrets-dir", "/a"],
            "--secrets-dir",
        ),
    ] {
        let ended = command_by(args, &of_pod).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.said());
        let told = format!("{option} cannot be used with a bundle");
        assert!(ended.err.contains(&told), "{args:?}: {}", ended.said());
    }
}
