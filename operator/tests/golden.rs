//! What is built for a listener, against files that a person has read.

use std::fs;
use std::path::Path;

use crds::bundle::{
    BUNDLE_KEY, CheckedObservers, HASH_ANNOTATION, Namespaces, PARTS_ANNOTATION, compile,
};
use crds::v1alpha1::{Observer, ObserverListener};
use observer_operator::listener::build::{
    DesiredObject, Installation, Kind, ListenerResources, cleanup_job,
};
use observer_operator::listener::validate::{Bundle, BundleId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Set to renew the files.
const UPDATE: &str = "UPDATE_GOLDEN";

pub(crate) fn listener(spec: &Value) -> ObserverListener {
    let mut listener = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "ObserverListener",
        "metadata": { "namespace": "web", "name": "shop", "uid": "4f2c" },
        "spec": { "database": { "url": {
            "secretKeyRef": { "name": "shop-db", "key": "url" },
        } } },
    });
    for (name, value) in spec.as_object().unwrap() {
        listener["spec"][name] = value.clone();
    }
    serde_json::from_value(listener).unwrap()
}

pub(crate) fn installation() -> Installation {
    Installation {
        image: "example.com/observers:1".to_owned(),
        namespace: "observers".to_owned(),
        metrics_from: [("team".to_owned(), "metrics".to_owned())].into(),
        authorize_metrics: false,
        api_server_ports: vec![443, 6443],
    }
}

fn objects(spec: &Value) -> Vec<DesiredObject> {
    ListenerResources::new(&listener(spec), 1, &installation())
        .objects()
        .unwrap()
}

pub(crate) fn compare(file: &str, object: &Value) {
    // By way of its text: numbers of JSON have a form of their own in memory.
    let object: serde_yaml_ng::Value = serde_yaml_ng::from_str(&object.to_string()).unwrap();
    compare_text(file, &serde_yaml_ng::to_string(&object).unwrap());
}

pub(crate) fn compare_text(file: &str, now: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        now, before,
        "{file} is not what is built now. If it should be, run the test again with {UPDATE}=1 and \
         read the change with git diff"
    );
}

#[test]
fn builds_every_object_of_a_plain_listener() {
    let built = objects(&json!({ "replicas": 2 }));
    assert_eq!(built.len(), 7);
    for built in &built {
        let kind = built.kind.resource().kind;
        compare(&format!("{}.yaml", kind.to_lowercase()), &built.object);
    }
    let resources = ListenerResources::new(&listener(&json!({})), 1, &installation());
    let mut bundle = resources.bundle(&bundle(0)).unwrap();
    assert_eq!(bundle.len(), 1);
    let secret = &mut bundle[0].object;
    // It depends on who compresses.
    secret["data"][BUNDLE_KEY] = json!("Y29tcHJlc3NlZAo=");
    compare("secret.yaml", secret);
}

/// A bundle with so many bytes that hardly compress.
fn bundle(bytes: usize) -> Bundle {
    let url = json!({ "database": { "url": { "value": "postgres://db.example.com/shop" } } });
    let random = &mut StdRng::seed_from_u64(7);
    let mut observer = |n: usize| {
        serde_json::from_value(json!({
            "apiVersion": "observers.fraiseql.dev/v1alpha1",
            "kind": "Observer",
            "metadata": { "namespace": "web", "name": format!("o{n}") },
            "spec": large_spec(500_000, random),
        }))
        .unwrap()
    };
    let observers: Vec<Observer> = (0..bytes.div_ceil(500_000)).map(&mut observer).collect();
    let observers: Vec<&Observer> = observers.iter().collect();
    let checked = &mut CheckedObservers::default();
    let made = compile(
        &listener(&url),
        &observers,
        &Namespaces::new(),
        &|_, _| None,
        checked,
    );
    let made = made.unwrap();
    Bundle {
        id: BundleId {
            hash: "c0ffee".to_owned(),
            parts: made.packed.parts().len(),
        },
        listener: made.listener,
        packed: made.packed,
        egress: None,
    }
}

/// Returns the spec of an observer of about so many bytes that hardly compress.
pub(crate) fn large_spec(bytes: usize, random: &mut StdRng) -> Value {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut actions = Vec::new();
    for n in 0..bytes.div_ceil(60_000) {
        let body: String = (0..60_000)
            .map(|_| char::from(LETTERS[random.random_range(0..64)]))
            .collect();
        let url = json!({ "value": "https://hooks.example.com/a" });
        actions.push(json!({ "name": format!("a{n}"), "webhook": { "url": url, "body": body } }));
    }
    json!({ "events": { "entity": "public.orders" }, "actions": actions })
}

#[test]
fn bundle_that_one_secret_does_not_hold_is_divided() {
    let bundle = bundle(6_000_000);
    assert!(bundle.id.parts > 2, "{}", bundle.id.parts);
    let resources = ListenerResources::new(&listener(&json!({})), 3, &installation());
    let secrets = resources.bundle(&bundle).unwrap();
    let expected: Vec<Kind> = Kind::of_bundle(bundle.id.parts).collect();
    let kinds: Vec<Kind> = secrets.iter().map(|built| built.kind).collect();
    assert_eq!(kinds, expected);
    assert!(
        kinds[1..].iter().all(|part| *part < Kind::Secret),
        "the first one is written last"
    );
    let names: Vec<&str> = secrets.iter().map(|built| &*built.name).collect();
    assert_eq!(
        names[..3],
        [
            "shop-listener-bundle",
            "shop-listener-bundle-2",
            "shop-listener-bundle-3"
        ]
    );
    let annotations = |n: usize| &secrets[n].object["metadata"]["annotations"];
    assert_eq!(
        annotations(0)[PARTS_ANNOTATION],
        json!(bundle.id.parts.to_string())
    );
    assert_eq!(annotations(1)[HASH_ANNOTATION], json!("c0ffee"));
    let objects = resources.objects().unwrap();
    let role = objects
        .iter()
        .find(|built| built.kind == Kind::Role)
        .unwrap();
    assert_eq!(role.object["rules"][1]["resourceNames"], json!(names[..3]));
}

#[test]
fn builds_users_additions_to_the_pods() {
    let built = objects(&json!({
        "delivery": { "drainTimeout": "1500ms" },
        "podTemplate": {
            "image": "example.com/mine:2",
            "imagePullSecrets": [{ "name": "pull" }],
            "labels": { "team": "shop", "app.kubernetes.io/name": "mine" },
            "annotations": { "example.com/scrape": "yes" },
            "resources": { "limits": { "memory": "1Gi" } },
            "env": [
                { "name": "RUST_LOG", "value": "info" },
                { "name": "REGION", "valueFrom": { "configMapKeyRef": { "name": "here", "key": "region" } } },
            ],
            "nodeSelector": { "disk": "fast" },
            "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "arm", "operator": "Exists" }] }],
            } } },
            "tolerations": [{ "key": "spot", "operator": "Exists" }],
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
            }],
            "priorityClassName": "high",
        },
    }));
    let deployment = built.iter().find(|built| built.kind == Kind::Deployment);
    compare("deployment-with-template.yaml", &deployment.unwrap().object);
}

#[test]
fn http_api_has_a_port_that_nobody_is_admitted_to() {
    let token = json!({ "name": "console", "role": "Read", "token": {
        "secretKeyRef": { "name": "shop-api", "key": "token" },
    } });
    let built = |port: Option<u16>| {
        let mut api = json!({ "tokens": [token] });
        if let Some(port) = port {
            api["port"] = port.into();
        }
        objects(&json!({ "api": api }))
    };
    let one = |built: &[DesiredObject], kind: Kind| {
        built
            .iter()
            .find(|built| built.kind == kind)
            .unwrap()
            .object
            .clone()
    };
    let own = built(None);
    compare("deployment-with-api.yaml", &one(&own, Kind::Deployment));
    compare("service-with-api.yaml", &one(&own, Kind::Service));
    let plain = objects(&json!({}));
    assert_eq!(
        one(&own, Kind::NetworkPolicy),
        one(&plain, Kind::NetworkPolicy)
    );
    // The port of health checks may be asked for, and is there once.
    let shared = built(Some(9464));
    assert_eq!(one(&shared, Kind::Service), one(&plain, Kind::Service));
    let container = &one(&shared, Kind::Deployment)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["ports"].as_array().unwrap().len(), 1);
    let variables = container["env"].as_array().unwrap();
    assert!(variables.contains(&json!({ "name": "OBSERVER_API_LISTEN", "value": "0.0.0.0:9464" })));
}

#[test]
fn cleanup_job_runs_as_the_listener() {
    let template = json!({
        "image": "example.com/mine:2",
        "imagePullSecrets": [{ "name": "pull" }],
        "labels": { "team": "shop", "app.kubernetes.io/managed-by": "observer-operator" },
        "resources": { "limits": { "memory": "1Gi" } },
        "env": [{ "name": "HTTPS_PROXY", "value": "http://proxy:3128" }],
        "nodeSelector": { "disk": "fast" },
        "tolerations": [{ "key": "spot", "operator": "Exists" }],
        "priorityClassName": "high",
    });
    let listener = listener(&json!({ "podTemplate": template }));
    let job = cleanup_job::build(&ListenerResources::new(&listener, 1, &installation()));
    compare("job.yaml", &serde_json::to_value(job).unwrap());
}

#[test]
fn without_scrapers_only_the_operator_is_admitted() {
    let none = Installation {
        metrics_from: std::collections::BTreeMap::new(),
        ..installation()
    };
    let built = ListenerResources::new(&listener(&json!({})), 1, &none)
        .objects()
        .unwrap();
    let policy = built.iter().find(|built| built.kind == Kind::NetworkPolicy);
    let rules = policy.unwrap().object["spec"]["ingress"]
        .as_array()
        .unwrap();
    assert_eq!(rules.len(), 1);
    let peers = rules[0]["from"].as_array().unwrap();
    assert_eq!(peers.len(), 1);
    for selector in ["namespaceSelector", "podSelector"] {
        let labels = peers[0][selector]["matchLabels"].as_object().unwrap();
        assert_eq!(labels.len(), 1, "{selector}");
    }
}

#[test]
fn pods_authorize_metrics_as_the_operator_does() {
    let variables = |authorize_metrics| {
        let installation = Installation {
            authorize_metrics,
            ..installation()
        };
        let spec = json!({ "queue": { "workers": { "replicas": 1 } } });
        let built = ListenerResources::new(&listener(&spec), 1, &installation)
            .objects()
            .unwrap();
        let pods = built
            .iter()
            .filter(|built| matches!(built.kind, Kind::Deployment | Kind::Workers));
        let variables = pods.flat_map(|built| {
            let container = &built.object["spec"]["template"]["spec"]["containers"][0];
            container["env"].as_array().unwrap().clone()
        });
        let name = "OBSERVER_AUTHORIZE_METRICS";
        variables
            .filter(|variable| variable["name"] == name)
            .map(|variable| variable["value"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(variables(true), ["true", "true"]);
    assert_eq!(variables(false), Vec::<Value>::new());
}

#[test]
fn single_pod_has_no_disruption_budget() {
    let has_budget = |replicas: i32| {
        objects(&json!({ "replicas": replicas }))
            .iter()
            .any(|built| built.kind == Kind::PodDisruptionBudget)
    };
    assert_eq!([0, 1, 2].map(has_budget), [false, false, true]);
}

#[test]
fn builds_workers_where_desired() {
    let built = |workers: i32| {
        objects(&json!({
            "replicas": 1, "queue": { "workers": { "replicas": workers } },
            "podTemplate": { "labels": { "app.kubernetes.io/component": "mine" } },
        }))
    };
    let names = |workers: i32| -> Vec<String> {
        let built = built(workers);
        let of_workers = built.iter().filter(|built| built.name == "shop-workers");
        of_workers.map(|built| built.kind.resource().kind).collect()
    };
    assert_eq!(names(0), [""; 0]);
    assert_eq!(names(1), ["Deployment"]);
    assert_eq!(names(2), ["PodDisruptionBudget", "Deployment"]);
    for built in built(2).iter().filter(|built| built.name == "shop-workers") {
        let kind = built.kind.resource().kind;
        compare(
            &format!("workers-{}.yaml", kind.to_lowercase()),
            &built.object,
        );
    }
}

#[test]
fn listener_selectors_match_no_workers() {
    let built = objects(&json!({ "replicas": 2, "queue": { "workers": { "replicas": 2 } } }));
    let one = |kind: Kind| {
        let built = built.iter().find(|built| built.kind == kind);
        &built.unwrap().object["spec"]
    };
    let takes = |selector: &Value, workload: Kind| {
        let labels = &one(workload)["template"]["metadata"]["labels"];
        let mut wanted = selector.as_object().unwrap().iter();
        wanted.all(|(label, value)| labels[label] == *value)
    };
    for (kind, pointer, expected) in [
        (Kind::Deployment, "/selector/matchLabels", (true, false)),
        (
            Kind::PodDisruptionBudget,
            "/selector/matchLabels",
            (true, false),
        ),
        (Kind::Workers, "/selector/matchLabels", (false, true)),
        (Kind::WorkersBudget, "/selector/matchLabels", (false, true)),
        // Their port is reached, and their metrics are read, all the same.
        (
            Kind::NetworkPolicy,
            "/podSelector/matchLabels",
            (true, true),
        ),
        (Kind::Service, "/selector", (true, true)),
    ] {
        let selector = one(kind).pointer(pointer).unwrap();
        let both = (
            takes(selector, Kind::Deployment),
            takes(selector, Kind::Workers),
        );
        assert_eq!(both, expected, "{kind:?}");
    }
}

#[test]
fn runtime_changes_do_not_roll_the_pods() {
    let template = |spec: Value| {
        let built = objects(&spec);
        let deployment = built.iter().find(|built| built.kind == Kind::Deployment);
        deployment.unwrap().object["spec"]["template"].clone()
    };
    let plain = template(json!({}));
    for spec in [
        json!({ "replicas": 5 }),
        json!({ "queue": { "workers": { "replicas": 5, "concurrency": 3 }, "workerLeaseDuration": "9s" } }),
        json!({ "observerSelector": { "matchLabels": { "a": "b" } } }),
        json!({ "database": { "url": { "value": "postgres://a/b" } } }),
        json!({ "deletionPolicy": "Retain" }),
        json!({ "lease": { "duration": "5s", "renewDeadline": "3s", "retryPeriod": "1s" } }),
    ] {
        assert_eq!(template(spec.clone()), plain, "{spec}");
    }
}
