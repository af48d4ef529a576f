//! The bundle that the operator writes for the pods.

use std::collections::BTreeMap;
use std::time::Duration;

use observer_crds::bundle::{
    self, BundleError, CheckedObservers, CompiledBundle, Inclusion, Namespaces, SecretReader,
};
use observer_crds::config::{
    ActionQueue, DocumentContent, ElasticsearchConfig, Mode, ObserverConfig, Priority,
    QueueBackend, QueueConfig, Redacted, RedactedColumn, RedisServerConfig, SearchBackend,
    SearchConfig, SearchLogin,
};
use observer_crds::loader::load_bundle;
use observer_crds::v1alpha1::{Observer, ObserverListener};
use serde_json::{Value, json};

type Keys = BTreeMap<String, Vec<u8>>;

fn compile(
    listener: &ObserverListener,
    observers: &[&Observer],
    namespaces: &Namespaces,
    secrets: &SecretReader<'_>,
) -> Result<CompiledBundle, BundleError> {
    let mut checked = CheckedObservers::default();
    bundle::compile(listener, observers, namespaces, secrets, &mut checked)
}

fn listener(extra: &Value) -> ObserverListener {
    let mut resource = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "ObserverListener",
        "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {"database": {"url": {"secretKeyRef": {"name": "db", "key": "url"}}}},
    });
    for (name, value) in extra.as_object().unwrap() {
        resource["spec"][name] = value.clone();
    }
    serde_json::from_value(resource).unwrap()
}

fn observer(namespace: &str, name: &str, extra: &Value) -> Observer {
    let mut resource = json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1", "kind": "Observer",
        "metadata": {"name": name, "namespace": namespace, "generation": 3},
        "spec": {"events": {"entity": "public.orders"}, "actions": [{"name": "note", "log": {}}]},
    });
    for (name, value) in extra.as_object().unwrap() {
        resource["spec"][name] = value.clone();
    }
    serde_json::from_value(resource).unwrap()
}

fn secrets(namespace: &str, name: &str) -> Option<Keys> {
    let one = |key: &str, value: &str| Some([(key.to_owned(), value.into())].into());
    match (namespace, name) {
        ("shop", "db") => one("url", "postgres://u:hunter2@db/shop\n"),
        ("shop", "redis") => one("url", "redis://:hunter3@redis:6379/0\n"),
        ("shop", "search") => Some(
            [
                ("url", "https://search.example.com:9200"),
                ("username", "observers"),
                ("password", "hunter4\n"),
                (
                    "ca",
                    "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
                ),
                ("other", "hunter5"),
            ]
            .map(|(key, value)| (key.to_owned(), value.into()))
            .into(),
        ),
        ("crm", "hook") => one("url", "https://hooks.example.com/token"),
        _ => None,
    }
}

fn hook(secret: &str, key: &str) -> Value {
    json!({"actions": [{"name": "send", "webhook": {"url": {"secretKeyRef": {"name": secret, "key": key}}}}]})
}

#[test]
fn a_bundle_is_read_as_it_was_meant() {
    let listener = listener(&json!({
        "observerNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "sales"}}},
        "lease": {"duration": "6s", "renewDeadline": "4s", "retryPeriod": "1s"},
    }));
    let namespaces: Namespaces = [(
        "crm".to_owned(),
        [("team".to_owned(), "sales".to_owned())].into(),
    )]
    .into();
    let watching = observer("crm", "b", &hook("hook", "url"));
    let noting = observer("crm", "a", &json!({}));
    let made = compile(&listener, &[&watching, &noting], &namespaces, &secrets).unwrap();
    let loaded = load_bundle(made.text.reveal()).unwrap().bundle;
    assert_eq!(loaded.listener.identity(), "shop/shop");
    assert_eq!(
        loaded.listener.database_url.reveal(),
        "postgres://u:hunter2@db/shop"
    );
    assert_eq!(loaded.listener.lease.renew_deadline.as_secs(), 4);
    let names: Vec<_> = loaded
        .observers
        .iter()
        .map(ObserverConfig::identity)
        .collect();
    assert_eq!(names, ["crm/a", "crm/b"]);

    let again = compile(&listener, &[&noting, &watching], &namespaces, &secrets).unwrap();
    assert_eq!(again.text, made.text);
}

#[test]
fn what_only_concerns_the_pods_does_not_change_the_bundle() {
    let text = |extra: Value| {
        let made = compile(&listener(&extra), &[], &Namespaces::new(), &secrets);
        made.unwrap().text
    };
    let plain = text(json!({}));
    assert_eq!(
        text(json!({
            "replicas": 5, "deletionPolicy": "Retain", "autoscaling": {"maxReplicas": 5},
            "networkPolicy": {"egress": "Derived"},
        })),
        plain
    );
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]);
    assert_eq!(text(json!({"podTemplate": {"env": env}})), plain);
    assert_ne!(text(json!({"shards": 3})), plain);
    let workers = |replicas: i32| text(json!({"queue": {"workers": {"replicas": replicas}}}));
    assert_eq!(workers(0), plain);
    assert_ne!(
        workers(1),
        plain,
        "the listener's pods leave jobs to others"
    );
    assert_eq!(workers(5), workers(1));
    assert!(
        load_bundle(plain.reveal())
            .unwrap()
            .bundle
            .observers
            .is_empty()
    );
}

#[test]
fn a_bundle_holds_the_queue_and_its_redis() {
    let listener = listener(&json!({
        "redis": {"url": {"secretKeyRef": {"name": "redis", "key": "url"}}},
        "queue": {
            "backend": "Redis", "workers": {"concurrency": 4, "replicas": 3},
            "maxConcurrencyTotal": 9, "workerLeaseDuration": "10s", "completedJobRetention": "1h",
        },
    }));
    let export = json!({"actions": [
        {"name": "note", "log": {}, "mode": "Queued", "priority": "Low", "maxConcurrencyTotal": 2, "timeout": "1h"},
        {"name": "plain", "log": {}},
    ]});
    let export = observer("shop", "export", &export);
    let made = compile(&listener, &[&export], &Namespaces::new(), &secrets).unwrap();
    let loaded = load_bundle(made.text.reveal()).unwrap().bundle;
    assert_eq!(
        loaded.listener.queue,
        QueueConfig {
            backend: QueueBackend::Redis,
            redis: Some(Box::new(RedisServerConfig::standalone(Redacted::new(
                "redis://:hunter3@redis:6379/0"
            )))),
            concurrency: 4,
            replicas: 1,
            max_concurrency_total: Some(9),
            worker_lease_duration: Duration::from_secs(10),
            completed_job_retention: Duration::from_hours(1),
        }
    );
    let [queued, plain] = &loaded.observers[0].actions[..] else {
        panic!("two actions");
    };
    let expected = ActionQueue {
        mode: Mode::Queued,
        priority: Priority::Low,
        max_concurrency_total: Some(2),
    };
    assert_eq!(queued.queue, expected);
    assert_eq!(queued.timeout, Duration::from_hours(1));
    assert_eq!(plain.queue, ActionQueue::default());
}

#[test]
fn what_no_secret_can_be_named_is_no_reference_and_is_invalid() {
    for (name, key) in [
        ("", "token"),
        ("../../other/secrets/x", "token"),
        ("x?watch=true", "token"),
        ("Upper", "token"),
        ("right", "../token"),
        ("right", ""),
    ] {
        let reference = json!({"secretKeyRef": {"name": name, "key": key}});
        let action = json!([{"name": "call", "webhook": {"url": reference}}]);
        let observer = observer("shop", "hook", &json!({"actions": action}));
        assert!(
            bundle::references("shop", &observer.spec).is_empty(),
            "{name}"
        );
        let made = compile(
            &listener(&json!({})),
            &[&observer],
            &Namespaces::new(),
            &secrets,
        );
        let inclusion = &made.unwrap().observers[0].inclusion;
        assert!(
            matches!(inclusion, Inclusion::Invalid(_)),
            "{name} {key}: {inclusion:?}"
        );
    }
}

#[test]
fn a_bundle_holds_the_search_server_and_its_login() {
    let of = |key: &str| json!({"secretKeyRef": {"name": "search", "key": key}});
    let listener = listener(&json!({"search": {
        "elasticsearch": {
            "url": of("url"), "index": "shop", "tls": {"ca": of("ca")},
            "username": of("username"), "password": of("password"),
        },
        "retention": "48h", "documents": "Events", "maxLag": "2h",
        "redact": ["card", "public.people.phone"],
    }}));
    let needed = bundle::references("shop", &listener.spec);
    let keys: Vec<_> = needed
        .iter()
        .filter(|one| one.name == "search")
        .map(|one| &*one.key)
        .collect();
    assert_eq!(keys, ["ca", "password", "url", "username"]);
    let made = compile(&listener, &[], &Namespaces::new(), &secrets).unwrap();
    assert!(!format!("{made:?}").contains("hunter4"));
    let loaded = load_bundle(made.text.reveal()).unwrap().bundle;
    let column = |entity: Option<&str>, column: &str| RedactedColumn {
        entity: entity.map(str::to_owned),
        column: column.to_owned(),
    };
    let search = loaded.listener.search.unwrap();
    let SearchBackend::Elasticsearch(server) = &search.backend else {
        panic!("{search:?}");
    };
    assert!(
        server
            .tls
            .as_ref()
            .unwrap()
            .ca
            .as_ref()
            .unwrap()
            .reveal()
            .contains("CERTIFICATE")
    );
    assert_eq!(
        search,
        SearchConfig {
            backend: SearchBackend::Elasticsearch(ElasticsearchConfig {
                url: Redacted::new("https://search.example.com:9200"),
                index: "shop".to_owned(),
                tls: server.tls.clone(),
                login: Some(SearchLogin::Basic(
                    Redacted::new("observers"),
                    Redacted::new("hunter4"),
                )),
            }),
            retention: Duration::from_hours(48),
            documents: DocumentContent::Events,
            redact: vec![column(None, "card"), column(Some("public.people"), "phone")],
            max_lag: Duration::from_hours(2),
        }
    );
    // What it was not to be given is not there.
    assert!(!made.text.reveal().contains("aHVudGVyNQ"));
}

#[test]
fn a_bad_observer_is_left_out_alone() {
    let timeout = json!({"actions": [{"name": "note", "log": {}, "timeout": "2h"}]});
    let all = [
        observer("shop", "a-good", &json!({})),
        observer("shop", "b-wrong", &timeout),
        observer("shop", "c-missing", &hook("none", "url")),
        observer("shop", "d-key", &hook("db", "token")),
        observer("shop", "e-rests", &json!({"suspend": true})),
    ];
    let all: Vec<&Observer> = all.iter().collect();
    let made = compile(&listener(&json!({})), &all, &Namespaces::new(), &secrets).unwrap();
    let outcomes: Vec<_> = made
        .observers
        .into_iter()
        .map(|one| one.inclusion)
        .collect();
    assert_eq!(
        outcomes,
        [
            Inclusion::Included,
            Inclusion::Invalid(vec!["spec.actions[0].timeout: must be 1ms to 5m".into()]),
            Inclusion::Unresolved(vec![
                "there is no Secret `none` in namespace `shop`; create it with key `url`".into()
            ]),
            Inclusion::Unresolved(vec![
                "Secret `db` in namespace `shop` has no key `token`; add it".into()
            ]),
            Inclusion::Suspended,
        ]
    );
    let loaded = load_bundle(made.text.reveal()).unwrap().bundle;
    assert_eq!(loaded.observers.len(), 1);
}

#[test]
fn a_listener_that_cannot_run_has_no_bundle() {
    let made = |listener: &ObserverListener| {
        compile(listener, &[], &Namespaces::new(), &secrets).unwrap_err()
    };
    let url = |value: Value| listener(&json!({"database": {"url": value}}));
    let missing = url(json!({"secretKeyRef": {"name": "gone", "key": "url"}}));
    assert_eq!(
        made(&missing),
        BundleError::Unresolved(vec![
            "there is no Secret `gone` in namespace `shop`; create it with key `url`".into()
        ])
    );
    let BundleError::Invalid(wrong) = made(&url(json!({"value": "mysql://u:hunter2@db"}))) else {
        panic!("not refused");
    };
    assert!(
        wrong[0].starts_with("spec.database.url.value: "),
        "{wrong:?}"
    );
    assert!(!wrong[0].contains("hunter2"));
}

#[test]
fn listener_that_no_secret_holds_is_refused() {
    let of = |name: &str| json!({"secretKeyRef": {"name": name, "key": "ca"}});
    let listener = listener(&json!({
        "redis": {"url": {"value": "rediss://redis:6379"}, "tls": {"ca": of("redis-ca")}},
        "search": {"elasticsearch": {
            "url": {"value": "https://search.example.com"}, "index": "shop", "tls": {"ca": of("search-ca")},
        }},
    }));
    let with = |times: usize| {
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let secrets = |namespace: &str, name: &str| match name {
            "redis-ca" | "search-ca" => Some([("ca".to_owned(), one.repeat(times).into())].into()),
            _ => secrets(namespace, name),
        };
        compile(&listener, &[], &Namespaces::new(), &secrets)
    };
    assert_eq!(with(5000).unwrap().packed.parts().len(), 1);
    let made = with(10_000).unwrap_err();
    assert!(
        matches!(made, BundleError::TooLarge { bytes } if bytes > 1 << 20),
        "{made}"
    );
}

#[test]
fn what_was_checked_before_is_checked_again_when_it_or_its_secrets_change() {
    let hooked = observer("crm", "hook", &hook("hook", "url"));
    let mut checked = CheckedObservers::default();
    let mut with = |url: &str, observer: &Observer| {
        let secrets = |namespace: &str, name: &str| match name {
            "hook" => Some([("url".to_owned(), url.into())].into()),
            _ => secrets(namespace, name),
        };
        let listener = listener(&json!({"observerNamespaces": {"from": "All"}}));
        let made = bundle::compile(
            &listener,
            &[observer],
            &Namespaces::new(),
            &secrets,
            &mut checked,
        );
        made.unwrap().observers.remove(0).inclusion
    };
    for _ in 0..2 {
        assert_eq!(
            with("https://hooks.example.com/a", &hooked),
            Inclusion::Included
        );
    }
    for _ in 0..2 {
        let wrong = with("ftp://hooks.example.com/a", &hooked);
        assert!(matches!(wrong, Inclusion::Invalid(_)), "{wrong:?}");
    }
    assert_eq!(
        with("https://hooks.example.com/a", &hooked),
        Inclusion::Included
    );
    let mut suspended = hooked.clone();
    suspended.spec.suspend = true;
    assert_eq!(
        with("https://hooks.example.com/a", &suspended),
        Inclusion::Suspended
    );
}
