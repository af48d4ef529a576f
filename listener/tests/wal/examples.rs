//! The example of the documentation, run as it is, and what stands beside it there.

use std::path::Path;

use serde_json::Value;

use super::{Source, counters, reading, sink};
use crate::support::counters::all_in_order;
use crate::support::fleet::SHORT_LEASE;
use crate::support::listener::{Process, program};
use crate::support::writers::make_untracked_table;

#[tokio::test(flavor = "multi_thread")]
async fn example_runs_as_it_is() {
    let source = Source::together().await;
    source
        .run("create table orders (id int primary key, status text)")
        .await;
    let sink = sink().await;
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/wal.yaml");
    let text = std::fs::read_to_string(place).unwrap().replacen(
        "spec:\n  database:",
        "spec:\n  egress: {allow: [127.0.0.0/8]}\n  database:",
        1,
    );
    let secret = |name: &str, key: &str, value: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{key}: \"{value}\"}}\n"
        )
    };
    let secrets = [
        secret("shop-db", "url", &source.log_url()),
        secret("shop-hooks", "orders-url", &sink.url("/hook")),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wal.yaml");
    std::fs::write(&path, text + &secrets.concat()).unwrap();
    let mut process = Process::start(&["run", "--listen", "off", "-f"], &path);
    process.says("reading the write-ahead log").await;
    source
        .run(
            "insert into orders values (1, 'new'), (2, 'paid');
             update orders set status = 'paid'",
        )
        .await;
    sink.arrived(1).await;
    let body: Value = serde_json::from_slice(&sink.received()[0].body).unwrap();
    assert_eq!(
        (&body["key"], &body["old"]["status"]),
        (&"1".into(), &"new".into())
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_event_is_a_message_of_a_transaction() {
    let (source, _sink, _config, process) = reading(Source::apart().await).await;
    source
        .run(
            r#"begin;
               select pg_logical_emit_message(true, 'observer',
                   '{"entity": "billing.closed", "key": "acme", "payload": {"a": 1}}');
               rollback;
               begin;
               select pg_logical_emit_message(true, 'other', 'x');
               select pg_logical_emit_message(true, 'observer', 'no event');
               select pg_logical_emit_message(true, 'observer',
                   '{"entity": "billing.closed", "key": "acme", "payload": {"a": 2}}');
               commit"#,
        )
        .await;
    source.logged(1).await;
    let event: String = source
        .value("select string_agg(concat_ws(' ', operation, entity, key, new), ';') from observer.change_log")
        .await;
    assert_eq!(event, r#"c billing.closed acme {"a": 2}"#);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slot_is_dropped_with_the_last_listener_that_has_it() {
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let second = counters(&source, SHORT_LEASE, &sink, "/second");
    second.change(
        "metadata: {name: test}\nspec",
        "metadata: {name: second}\nspec",
    );
    let processes = [&config, &second].map(Process::run);
    source.is_read().await;
    source.run("update kv set v = v + 1").await;
    all_in_order(&source.read, &sink).await;
    for process in processes {
        process.stop().await;
    }
    let slots = "select count(*) from pg_replication_slots";
    for (config, left) in [(&config, 1), (&second, 0)] {
        let dropped = tokio::process::Command::new(program())
            .args(["drop-listener", "--yes", "-f"])
            .arg(config.path())
            .output()
            .await
            .unwrap();
        assert!(dropped.status.success(), "{dropped:?}");
        assert_eq!(source.value::<i64>(slots).await, left);
    }
    let rows: i64 = source.value("select count(*) from observer.source").await;
    assert_eq!(rows, 0);
}
