//! Dead letters chosen by what they are of, exported, and redriven little by little.

use std::time::Instant;

use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get};
use crate::support::program::{command, dlq};
use crate::support::told::letters;
use crate::support::{TestDb, amounts_to, database, eventually, while_progressing};

/// Two tables with a tenant, and observers whose receivers refuse.
async fn refused(sink: &Sink) -> (TestDb, Config) {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, tenant text, total int not null default 0);
         create table bills (id int primary key, tenant text);
         select observer.track('orders', tenant => 'tenant');
         select observer.track('bills', tenant => 'tenant')",
    )
    .await;
    let observer = |name: &str, entity: &str, actions: &[(&str, &str)]| {
        let actions: Vec<String> = actions
            .iter()
            .map(|(action, path)| {
                format!(
                    "    - name: {action}\n      webhook: {{url: {{value: \"{}\"}}}}\n      timeout: 5m\n      retry: {{attempts: 1}}\n",
                    sink.url(path)
                )
            })
            .collect();
        format!(
            "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
             events: {{entity: {entity}}}\n  actions:\n{}---\n",
            actions.concat()
        )
    };
    let observers = observer(
        "orders",
        "public.orders",
        &[("post", "/post"), ("copy", "/copy")],
    ) + &observer("bills", "public.bills", &[("post", "/bills")]);
    let config = Config::new(&db.url, "", &observers);
    (db, config)
}

async fn exported(db: &TestDb, args: &[&str]) -> Vec<Value> {
    let text = dlq(db, &[&["export"], args].concat()).await;
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_filters_select_and_exports_are_complete() {
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    sink.behave_at("/copy", Behaviour::Status(503));
    let (db, config) = refused(&sink).await;
    let process = Process::run(&config);
    db.run(
        "insert into orders values (1, 'a'), (2, 'b');
         insert into bills values (1, 'a')",
    )
    .await;
    letters(&db, 5).await;
    let late = "insert into orders values (3, null)";
    db.run("update observer.dead_letter set created_at = created_at - interval '2 hours'")
        .await;
    db.run(late).await;
    letters(&db, 7).await;
    for (args, expected) in [
        (&[][..], 7),
        (&["--observer", "orders"], 6),
        (&["--observer", "default/bills"], 1),
        (&["--action", "copy"], 3),
        (&["--entity", "public.bills"], 1),
        (&["--key", "1"], 3),
        (&["--key", "1", "--action", "post"], 2),
        (&["--tenant", "a"], 3),
        (&["--tenant", "none"], 0),
        (&["--since", "1h"], 2),
        (&["--until", "1h"], 5),
        (&["--since", "3h", "--until", "1h30m"], 5),
        (&["--since", "2020-01-01T00:00:00Z"], 7),
        (&["--until", "2020-01-01T00:00:00+02:00"], 0),
        (&["--kind", "status"], 7),
        (&["--kind", "timeout"], 0),
    ] {
        let list = dlq(&db, &[&["list", "-o", "json"], args].concat()).await;
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        assert_eq!(list.len(), expected, "{args:?}");
        let mut exported = exported(&db, args).await;
        assert!(
            exported.iter().all(|one| {
                one["new"]["id"].is_i64() && one["history"].as_array().unwrap().len() == 1
            }),
            "{exported:?}"
        );
        exported.reverse();
        for (exported, listed) in exported.iter().zip(&list) {
            assert_eq!(exported["id"], listed["id"]);
        }
        assert_eq!(exported.len(), expected, "{args:?}");
    }
    let wrong = [
        "dead-letters",
        "list",
        "--since",
        "yesterday",
        "--database-url",
        "x",
    ];
    let ended = command(&wrong).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended.err.contains("2026-03-01T12:00:00Z") && ended.err.contains("24h"),
        "{}",
        ended.err
    );
    let said = dlq(&db, &["drop", "--all", "--tenant", "a", "--yes"]).await;
    assert_eq!(said.trim(), "3 dropped");
    assert_eq!(exported(&db, &[]).await.len(), 4);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limited_redrive_is_paced_and_ordered() {
    const ROWS: usize = 40;
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let (db, config) = refused(&sink).await;
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
    db.run("update orders set total = 1").await;
    letters(&db, 4 * ROWS).await;
    sink.behave(Behaviour::Ok);
    let begun = Instant::now();
    let all = [
        "redrive", "--all", "--yes", "--action", "post", "--rate", "40",
    ];
    let said = dlq(&db, &all).await;
    // The first part of 20 at once, then one each half second.
    assert!(said.starts_with("80 to redrive"), "{said}");
    assert!(
        begun.elapsed().as_secs_f64() >= 1.5,
        "{:?}",
        begun.elapsed()
    );
    amounts_to("deliveries", 2 * ROWS as u64, async || {
        sink.counts().succeeded
    })
    .await;
    let mut last = std::collections::BTreeMap::new();
    for one in sink.received() {
        if one.status != Some(200) {
            continue;
        }
        assert_eq!(one.line, "POST /post");
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        let total = body["new"]["total"].as_i64().unwrap();
        let before = last.insert(body["key"].to_string(), total);
        assert_eq!(before.unwrap_or(-1) + 1, total, "in order within a key");
    }
    assert_eq!(exported(&db, &["--action", "copy"]).await.len(), 2 * ROWS);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_at_a_rate_asks_once_for_what_fails_again_at_once() {
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let (db, config) = refused(&sink).await;
    let process = Process::run(&config);
    db.run("insert into bills select generate_series(1, 16)")
        .await;
    letters(&db, 16).await;
    process.stop().await;
    config.change("- name: post", "- name: other");
    config.change("entity: public.bills", "entity: public.others");
    config.change("name: bills", "name: others");
    let process = Process::run(&config);
    // Its observer is gone, so each is back within the two seconds between two looks.
    let said = dlq(&db, &["redrive", "--all", "--yes", "--rate", "4"]).await;
    assert!(said.starts_with("16 to redrive"), "{said}");
    eventually("all are back", async || {
        let back: i64 = db
            .value(
                "select count(*) from observer.dead_letter
                 where error_kind = 'removed' and redrive_requested_at is null",
            )
            .await;
        (back == 16).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_letters_are_exported_and_redriven_in_bounded_parts() {
    const EACH: usize = 5_000_000;
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let (db, config) = refused(&sink).await;
    db.run("alter table bills add filling text").await;
    let process = Process::run(&config);
    db.run(&format!(
        "insert into bills select n, null, repeat('x', {EACH}) from generate_series(1, 5) n"
    ))
    .await;
    letters(&db, 5).await;
    let exported = exported(&db, &[]).await;
    let sizes = exported.iter().map(|one| one["new"]["filling"].as_str());
    let sizes: Vec<usize> = sizes.map(|text| text.unwrap_or_default().len()).collect();
    assert_eq!(sizes, [EACH; 5]);
    db.run("insert into observer.job_queue (listener) values ('other/one')")
        .await;
    let of_another = [
        "show",
        &exported[0]["id"].to_string(),
        "--listener",
        "other/one",
    ];
    let args = [
        &["dead-letters"],
        &of_another[..],
        &["--database-url", &db.url],
    ]
    .concat();
    assert!(command(&args).await.err.contains("there is no dead letter"));
    sink.behave(Behaviour::Ok);
    dlq(&db, &["redrive", "--all", "--yes"]).await;
    amounts_to("deliveries", 5, async || sink.counts().succeeded).await;
    process.stop().await;
}

/// What a metric of the process adds up to.
async fn counted(address: &str, name: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics").await?;
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Some(values.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_observer_wants_dropped_is_counted_and_not_kept() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/post", Behaviour::Status(400));
    sink.behave_at("/copy", Behaviour::Status(503));
    let (db, config) = refused(&sink).await;
    // Refused at once, out of attempts as a job, and undecided.
    config.change(
        "  events: {entity: public.orders}\n",
        "  events: {entity: public.orders}\n  onFailure: Drop\n",
    );
    config.change(
        &format!(
            "{}\"}}}}\n      timeout: 5m\n      retry: {{attempts: 1}}",
            sink.url("/copy")
        ),
        &format!(
            "{}\"}}}}\n      timeout: 5m\n      retry: {{attempts: 2, initialBackoff: 10ms, maxBackoff: 10ms}}",
            sink.url("/copy")
        ),
    );
    config.change(
        "  events: {entity: public.bills}\n",
        "  events: {entity: public.bills}\n  onFailure: Drop\n  when: new.id / 0 == 1\n",
    );
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    db.run("insert into orders values (1), (2); insert into bills values (1)")
        .await;
    while_progressing("five are dropped", async || {
        let dropped = counted(&address, "observer_deliveries_dropped_total{").await;
        let dropped = dropped.unwrap_or_default().to_bits();
        if dropped == 5.0_f64.to_bits() {
            Ok(())
        } else {
            Err(dropped)
        }
    })
    .await;
    eventually("all is saved", async || {
        let left: i64 = db
            .value("select count(*) + (select count(*) from observer.checkpoint where completed_ids <> '{}') from observer.job")
            .await;
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(sink.counts().requests, 2 + 2 * 2);
    let said = process.stop().await;
    assert_eq!(said.matches("onFailure says").count(), 5, "{said}");
    let kept: i64 = db.value("select count(*) from observer.dead_letter").await;
    assert_eq!(kept, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_dead_letters_expire_if_configured_else_are_counted() {
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let (db, config) = refused(&sink).await;
    let process = Process::run(&config);
    db.run("insert into bills select generate_series(1, 5)")
        .await;
    letters(&db, 5).await;
    db.run(
        "update observer.dead_letter set created_at = created_at - interval '50 hours' where key <> '5'",
    )
    .await;
    process.stop().await;
    config.change("  egress:", "  deadLetters: {retention: 48h}\n  egress:");
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    eventually("four are gone", async || {
        let count: i64 = db.value("select count(*) from observer.dead_letter").await;
        (count == 1).then_some(())
    })
    .await;
    eventually("the one that is left is counted", async || {
        let letters = counted(&address, "observer_dead_letters{").await?;
        let expired = counted(&address, "observer_dead_letters_expired_total").await?;
        ((letters, expired) == (1.0, 4.0)).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_ends_retries_with_attempts_left() {
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let (db, config) = refused(&sink).await;
    config.change(
        "retry: {attempts: 1}",
        // Time for some attempts on any machine, and attempts for more time than that.
        "retry: {attempts: 100, initialBackoff: 50ms, maxBackoff: 1s, deadline: 15s}",
    );
    let process = Process::run(&config);
    db.run("insert into bills values (1)").await;
    let found = letters(&db, 1).await;
    assert_eq!(found[0].2, "deadline");
    assert!(found[0].3.contains("within 15s"), "{}", found[0].3);
    let exported = exported(&db, &[]).await;
    let history = exported[0]["history"].as_array().unwrap();
    let kinds: Vec<&str> = history
        .iter()
        .filter_map(|one| one["kind"].as_str())
        .collect();
    assert!(kinds.len() > 3, "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"deadline"));
    assert!(
        kinds[..kinds.len() - 1]
            .iter()
            .all(|kind| *kind == "status"),
        "{kinds:?}"
    );
    let attempts = exported[0]["attempts"].as_i64().unwrap();
    assert!(attempts < 100, "attempts are left after {attempts}");
    process.stop().await;
}
