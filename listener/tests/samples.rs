//! `check --event`: what observers would do about an event.

use std::path::Path;

use crate::support::program::command;

const FILES: &str = r#"
apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata: {name: shop}
spec:
  database: {url: {value: "postgres://a:hunter2-db@nowhere/shop"}}
  egress: {ownDatabase: {url: {value: "postgres://b:hunter2-own@nowhere/shop"}}}
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: big}
spec:
  events: {entity: public.orders, operations: [Insert]}
  when: new.total > 10
  actions:
    - name: hook
      webhook:
        url: {value: "https://hooks.example.com/hunter2-path"}
        headers:
          authorization: {secretKeyRef: {name: hooks, key: token}}
          x-total: {value: "t{{ new.total }}"}
        body: '{"order": {{ new.id }}, "note": {{ new.note }}}'
        signingSecret: {value: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}
    - name: chat
      slack: {url: {value: "https://hooks.slack.com/services/hunter2-slack"}, text: "Order {{ new.id }} <{{ new.note }}>"}
    - name: forget
      redis: {url: {value: "redis://:hunter2-redis@cache.example.com/0"}, delete: {keys: ["order:{{ new.id }}"], tags: [all]}}
    - name: ledger
      postgres: {statement: "insert into l values ($1::int, $2)", parameters: ["{{ new.id }}", "{{ new.none }}"]}
    - name: broken
      log: {message: "{{ new.missing }}"}
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: small}
spec:
  events: {entity: public.orders}
  when: new.total <= 10
  actions: [{name: note, log: {}}]
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: odd}
spec:
  events: {entity: public.orders}
  when: new.id / 0 == 1
  actions: [{name: note, log: {}}]
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: elsewhere}
spec:
  events: {entity: public.customers}
  actions: [{name: note, log: {}}]
---
apiVersion: v1
kind: Secret
metadata: {name: hooks}
stringData: {token: "Bearer hunter2-token"}
"#;

async fn check(dir: &Path, event: &str) -> crate::support::program::Ended {
    let (files, sample) = (dir.join("shop.yaml"), dir.join("event.json"));
    std::fs::write(&files, FILES).unwrap();
    std::fs::write(&sample, event).unwrap();
    let (files, sample) = (files.to_str().unwrap(), sample.to_str().unwrap());
    command(&["check", "-f", files, "--event", sample]).await
}

#[tokio::test]
async fn what_would_be_done_is_shown_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let event = r#"{"entity": "public.orders", "operation": "Insert", "key": "7",
        "new": {"id": 7, "total": 1000.50, "note": "a \"b\" <c>", "none": null}}"#;
    let said = check(dir.path(), event).await.ok();
    for shown in [
        "default/big: matches",
        "POST: hooks.example.com",
        "authorization: [redacted]",
        "x-total: t1000.50",
        "webhook-signature: [redacted]",
        r#"body: {"order": 7, "note": "a \"b\" <c>"}"#,
        "Order 7 <a \\\"b\\\" &lt;c&gt;>",
        "cache.example.com:6379: UNLINK order:7 (what all names)",
        "insert into l values ($1::int, $2)",
        "$1: 7",
        "$2: (null)",
        "becomes a dead letter: the template log.message failed",
        "default/odd: fails, and each of its actions becomes a dead letter",
        "default/small: does not match",
    ] {
        assert!(said.contains(shown), "{shown} in:\n{said}");
    }
    assert!(
        !said.contains("elsewhere") && !said.contains("hunter2"),
        "{said}"
    );
}

#[tokio::test]
async fn a_sample_that_is_none_is_told_with_how_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let none = r#"{"entity": "public.things", "operation": "Delete", "old": {}}"#;
    let said = check(dir.path(), none).await.ok();
    assert!(
        said.contains("no observer watches Delete of public.things"),
        "{said}"
    );
    for (wrong, told) in [
        ("{", "event.json"),
        (r#"{"entity": "a", "operation": "Upsert"}"#, "Upsert"),
        (r#"{"entity": "a", "operation": "Insert", "nw": {}}"#, "nw"),
    ] {
        let ended = check(dir.path(), wrong).await;
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(ended.err.contains(told), "{}", ended.err);
        assert!(
            ended.err.contains("write an event such as"),
            "{}",
            ended.err
        );
    }
}
