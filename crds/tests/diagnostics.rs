//! A report as a whole: every mistake at once, each with its line, none with a secret.

use std::fmt::Write as _;

use observer_crds::config::{ActionKind, Redacted};
use observer_crds::loader::{Loaded, load};
use observer_crds::manifest::{Diagnostics, SourceFile};
use proptest::prelude::*;

fn files(texts: &[(&str, &str)]) -> Vec<SourceFile> {
    texts
        .iter()
        .map(|(path, text)| SourceFile {
            path: (*path).into(),
            text: (*text).into(),
        })
        .collect()
}

fn read(texts: &[(&str, &str)]) -> Result<Loaded, Diagnostics> {
    load(&files(texts), &|_, _| None, None)
}

const MISTAKES: &str = r#"apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata:
  name: shop
spec:
  shards: 0
  source: {triggers: {}}
  database:
    url: {value: "postgres://shop:hunter2@localhost/shop"}
    maxPollIntervall: 16ms
  egress:
    allow:
      - 127.0.0.0/8
      - http://hooks.internal
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata:
  name: big-orders
spec:
  events:
    entity: shop.orders
    operations: [Insert, Updated]
  when: new.total >
  actions:
    - name: notify
      webhook:
        url:
          value: hooks.example.com/hunter2
        headers:
          webhook-id: {value: x}
        signingSecret: {secretKeyRef: {name: shop-hooks, key: signing-secret}}
      retry:
        attempts: "8"
        initialBackoff: 1h
    - name: notify
      timeout: 10
---
kind: Observer
metadata: {name: second}
spec: [
---
apiVersion: v1
kind: Secret
metadata: {name: other}
data:
  pin: hunter2!
"#;

const REPORT: &str = "\
shop.yaml:6: ObserverListener default/shop: spec.shards: must be 1 to 256
shop.yaml:10: ObserverListener default/shop: spec.database.maxPollIntervall: unknown field; did you mean `maxPollInterval`? Known here: maxPollInterval, retention, url
shop.yaml:14: ObserverListener default/shop: spec.egress.allow[1]: is neither an address range (`10.0.0.0/8`), an address (`10.1.2.3`), a host (`hooks.internal`) nor all hosts below a name (`*.svc.cluster.local`); leave out scheme, port and path
shop.yaml:23: Observer default/big-orders: spec.events.operations[1]: must be one of Insert, Update, Delete, Truncate, Custom, Read; did you mean `Update`?
shop.yaml:29: Observer default/big-orders: spec.actions[0].webhook.url.value: is not a URL that a request can be sent to; write https://host/path or http://host/path
shop.yaml:31: Observer default/big-orders: spec.actions[0].webhook.headers.webhook-id: is set by the delivery itself; leave it out
shop.yaml:32: Observer default/big-orders: spec.actions[0].webhook.signingSecret.secretKeyRef: there is no Secret `shop-hooks` in namespace `default`; add a Secret document with key `signing-secret` to the file, or run with --secrets-dir DIR and put the value in DIR/shop-hooks/signing-secret
shop.yaml:34: Observer default/big-orders: spec.actions[0].retry.attempts: expected a whole number, found text
shop.yaml:35: Observer default/big-orders: spec.actions[0].retry.initialBackoff: is longer than `maxBackoff` (10m); make it shorter, or raise that
shop.yaml:36: Observer default/big-orders: spec.actions[1].name: an action named `notify` is there already; names are unique within an observer
shop.yaml:36: Observer default/big-orders: spec.actions[1]: does nothing; give it something to do, such as `webhook` or `log`
shop.yaml:37: Observer default/big-orders: spec.actions[1].timeout: expected a duration such as `15s`, found a number
shop.yaml:41: is not valid YAML: unclosed bracket '['
shop.yaml:47: Secret default/other: data.pin: is not base64; plain text goes under `stringData`
14 problems";

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let report = read(&[("shop.yaml", MISTAKES)]).unwrap_err();
    assert_eq!(report.to_string(), REPORT);
    assert!(!format!("{report:?}").contains("hunter2"));
}

#[test]
fn expressions_of_an_invalid_observer_are_checked_too() {
    let report = read(&[("shop.yaml", MISTAKES)]).unwrap_err();
    let [observer] = report.partial.as_slice() else {
        panic!("one observer can be made out: {:?}", report.partial);
    };
    assert_eq!(observer.when.as_deref(), Some("new.total >"));
    assert_eq!(observer.actions.len(), 2, "actions keep their places");
    let problem = report
        .source_map
        .diagnostic("default/big-orders", "spec.when", "ends too early");
    assert_eq!(
        problem.to_string(),
        "shop.yaml:24: Observer default/big-orders: spec.when: ends too early"
    );
}

const GOOD: &str = "
apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata: {name: shop}
spec: {database: {url: {value: 'postgres://localhost/shop'}}}
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: orders}
spec:
  events: {entity: shop.orders}
  actions:
    - name: notify
      webhook:
        url: {secretKeyRef: {name: hooks, key: url}}
        headers:
          X-A: {value: '{{ id }}'}
        body: |
          {{ new.total }}
";

#[test]
fn fields_are_found_by_their_path_or_by_what_is_around_them() {
    let secret =
        "{apiVersion: v1, kind: Secret, metadata: {name: hooks}, stringData: {url: 'http://a'}}";
    let loaded = read(&[("good.yaml", GOOD), ("secret.yaml", secret)]).unwrap();
    for (path, line) in [
        ("spec.actions[0].webhook.body", 18),
        ("spec.actions[0].webhook.headers.X-A.value", 17),
        ("spec.actions[0].log.message", 13),
        ("spec.when", 10),
        ("", 7),
    ] {
        let found = loaded.source_map.find("default/orders", path);
        assert_eq!(found, Some(("good.yaml", line)), "{path}");
    }
    assert_eq!(loaded.source_map.find("default/other", "spec"), None);
}

fn url_of(loaded: &Loaded) -> &str {
    match &loaded.bundle.observers[0].actions[0].kind {
        ActionKind::Webhook(webhook) => webhook.url.reveal(),
        _ => panic!("a webhook"),
    }
}

#[test]
fn a_secret_document_wins_over_the_store_and_text_over_base64() {
    let store = |_: &str, _: &str| Some(Redacted::new("http://store\r\n"));
    let secret = "
apiVersion: v1
kind: Secret
type: Opaque
metadata: {name: hooks}
data: {url: aHR0cDovL2RhdGE=}
";
    let text = format!("{secret}stringData: {{url: 'http://text'}}\n");
    for (texts, url) in [
        (vec![("good.yaml", GOOD)], "http://store"),
        (vec![("good.yaml", GOOD), ("s.yaml", secret)], "http://data"),
        (vec![("good.yaml", GOOD), ("s.yaml", &text)], "http://text"),
    ] {
        let loaded = load(&files(&texts), &store, None).unwrap();
        assert_eq!(url_of(&loaded), url);
    }
}

#[test]
fn bytes_in_a_secret_matter_only_where_text_is_wanted() {
    let other = "{apiVersion: v1, kind: Secret, metadata: {name: other}, data: {url: /w==}}";
    let store = |_: &str, _: &str| Some(Redacted::new("http://store"));
    load(
        &files(&[("good.yaml", GOOD), ("s.yaml", other)]),
        &store,
        None,
    )
    .unwrap();
    let hooks = other.replace("other", "hooks");
    let report = read(&[("good.yaml", GOOD), ("s.yaml", &hooks)]).unwrap_err();
    assert!(
        report
            .to_string()
            .contains("key `url` of Secret `hooks` holds bytes that are not UTF-8 text"),
        "{report}"
    );
}

#[test]
fn what_kubectl_prints_can_be_read_back() {
    let printed = GOOD.replace(
        "metadata: {name: orders}",
        "status: {anything: [1]}\nmetadata: {name: orders, creationTimestamp: null, generation: 2, uid: a-b}",
    );
    let store = |_: &str, _: &str| Some(Redacted::new("http://store"));
    load(&files(&[("good.yaml", &printed)]), &store, None).unwrap();
}

#[test]
fn a_secret_of_another_namespace_is_not_used() {
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: hooks, namespace: prod}, stringData: {url: 'http://a'}}";
    let report = read(&[("good.yaml", GOOD), ("secret.yaml", secret)]).unwrap_err();
    assert!(
        report
            .to_string()
            .contains("there is no Secret `hooks` in namespace `default`")
    );
}

#[test]
fn a_broken_document_hides_nothing_around_it() {
    let broken = "a: [1\n---\nkind: Nothing\n---\n\"\n";
    let good = GOOD.replace("secretKeyRef: {name: hooks, key: url}", "value: nowhere");
    let report = read(&[("broken.yaml", broken), ("good.yaml", &good)]).unwrap_err();
    let places: Vec<_> = report
        .items
        .iter()
        .map(|problem| (problem.file.as_str(), problem.line.unwrap()))
        .collect();
    assert_eq!(
        places,
        [
            ("broken.yaml", 1),
            ("broken.yaml", 3),
            ("broken.yaml", 5),
            ("good.yaml", 15)
        ],
        "{report}"
    );
}

#[test]
fn no_value_is_repeated_wherever_a_secret_may_have_slipped_to() {
    let slips = [
        "stringData: hunter2",
        "stringData: [hunter2]",
        "stringData: {'url=hunter2': }",
        "stringData: {url: {hunter2x: hunter2}}",
        "stringData: {url: 22, 'postgres://u:hunter2@h': 1}",
        "data: {url: hunter2!}",
        "type: 7\nimmutable: hunter2",
        "stringData: {url: !hunter2 x}",
        "stringData: {url: \"hunter2}",
        "stringData: {url: hunter2: hunter2}",
    ];
    for slip in slips {
        let secret = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: hooks}}\n{slip}\n");
        let report = read(&[("good.yaml", GOOD), ("secret.yaml", &secret)]).unwrap_err();
        let text = format!("{report}{report:?}").replace("hunter2x", "");
        assert!(!text.contains("hunter2"), "{slip}: {text}");
    }
}

#[test]
fn bombs_are_defused() {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let before = level - 1;
        let many = vec![format!("*a{before}"); 10].join(", ");
        writeln!(aliases, "a{level}: &a{level} [{many}]").unwrap();
    }
    let mut chain = String::from("a0: &a0 [x]\n");
    for level in 1..400 {
        writeln!(chain, "a{level}: &a{level} [*a{}]", level - 1).unwrap();
    }
    let mut long = format!("a: &a {}\n", "x".repeat(1 << 20));
    for copy in 0..10_000 {
        writeln!(long, "b{copy}: *a").unwrap();
    }
    let deep = "[".repeat(100_000);
    let large = " ".repeat(5 << 20);
    for (text, told) in [
        (aliases.as_str(), "holds more than 100000 values"),
        (long.as_str(), "holds more than 100000 values"),
        (chain.as_str(), "is nested deeper than 48 levels"),
        (deep.as_str(), "is not valid YAML: recursion limit exceeded"),
        (large.as_str(), "is larger than 4 MiB"),
    ] {
        let report = read(&[("bomb.yaml", text)]).unwrap_err();
        assert!(report.to_string().contains(told), "{told}: {report}");
    }
}

#[test]
fn files_may_come_from_windows_and_hold_empty_documents() {
    let secret = "\u{feff}---\n---\n{apiVersion: v1, kind: Secret, metadata: {name: hooks}, stringData: {url: 'http://a'}}\n---\n# end\n";
    let good = GOOD.replace('\n', "\r\n");
    let loaded = read(&[("good.yaml", &good), ("secret.yaml", secret)]).unwrap();
    assert_eq!(url_of(&loaded), "http://a");
}

/// Pieces that are likely to lead somewhere.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(GOOD.to_owned()),
        Just(MISTAKES.to_owned()),
        (0..MISTAKES.len()).prop_map(|end| MISTAKES[..end].to_owned()),
        (0..MISTAKES.len()).prop_map(|start| MISTAKES[start..].to_owned()),
        "[-:{}\\[\\]&*!|>'\"%@`#,?a-b0-9 \n\t]{0,40}",
        any::<String>(),
        Just("\n---\n".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics(pieces in prop::collection::vec(piece(), 0..6)) {
        let outcome = read(&[("any.yaml", &pieces.concat())]);
        if let Err(report) = outcome {
            prop_assert!(!report.items.is_empty());
            prop_assert!(!report.to_string().is_empty());
        }
    }

    #[test]
    fn no_field_panics(
        place in prop::sample::select(MISTAKES.split_whitespace().collect::<Vec<_>>()),
        value in prop_oneof![
            Just("~".to_owned()), Just("[]".to_owned()), Just("{}".to_owned()), Just("-1".to_owned()),
            Just("99999999999999999999999".to_owned()), Just("1e999".to_owned()),
            Just("{\"$serde_json::private::Number\": x}".to_owned()), Just("''".to_owned()),
            "[a-z0-9./:~]{1,20}",
        ],
    ) {
        let _ = read(&[("any.yaml", &MISTAKES.replace(place, &value))]);
    }
}
