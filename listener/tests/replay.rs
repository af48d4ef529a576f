//! Past events sent once more.

use std::time::Instant;

use serde_json::Value;
use testkit::http_sink::{Behaviour, Received, Sink};

use crate::support::listener::{Config, Process};
use crate::support::program::command;
use crate::support::{TestDb, amounts_to, database, eventually, own_database};

const ROWS: u64 = 20;

async fn replay(config: &Config, args: &[&str]) -> String {
    let path = config.path();
    let files = ["replay", "-f", path.to_str().unwrap()];
    let sure = (!args.contains(&"--dry-run")).then_some("--yes");
    let args = [&files[..], args, sure.as_slice()].concat();
    command(&args).await.ok()
}

fn observer(name: &str, more: &str, actions: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n{more}  actions:\n{actions}---\n"
    )
}

fn body(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap()
}

async fn none_left(db: &TestDb) {
    eventually("nothing waits", async || {
        let left: i64 = db
            .value("select (select count(*) from observer.job) + (select count(*) from observer.dead_letter)")
            .await;
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_events_keep_order_and_ids_and_are_marked() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total int not null default 0);
         create table counted (id int, total int);
         select observer.track('orders')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let post = |path: &str| {
        format!(
            "    - name: post\n      webhook: {{url: {{value: \"{}\"}}}}\n",
            sink.url(path)
        )
    };
    let count = "    - name: count\n      postgres: {statement: \"insert into counted values ($1::int, $2::int)\", \
                 parameters: [\"{{ new.id }}\", \"{{ new.total }}\"]}\n";
    let observers = observer("big", "  when: new.total > 0\n", &(post("/big") + count))
        + &observer("other", "", &post("/other"));
    let config = Config::new(&db.url, "", &observers);
    let egress = own_database(&db, "counted").await;
    config.change("egress: {allow: [127.0.0.0/8]}", &egress);
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select generate_series(1, {ROWS})"
    ))
    .await;
    db.run("update orders set total = 1").await;
    db.run("update orders set total = 2").await;
    let counted = async || {
        let count: i64 = db.value("select count(*) from counted").await;
        count.unsigned_abs()
    };
    amounts_to("deliveries", 5 * ROWS, async || sink.counts().succeeded).await;
    amounts_to("effects", 2 * ROWS, counted).await;
    let first = sink.take_received();
    assert!(
        first
            .iter()
            .all(|one| one.header("webhook-replay").is_none())
    );
    assert!(first.iter().all(|one| body(one).get("replay").is_none()));

    let said = replay(&config, &["--observer", "big", "--from", "1h", "--dry-run"]).await;
    assert!(said.starts_with("60 events of public.orders"), "{said}");
    for round in 1..=2 {
        let begun = Instant::now();
        let said = replay(
            &config,
            &["--observer", "big", "--from", "1h", "--rate", "60"],
        )
        .await;
        assert!(said.starts_with("60 events, 120 deliveries"), "{said}");
        assert!(
            begun.elapsed().as_secs_f64() >= 0.5,
            "{:?}",
            begun.elapsed()
        );
        none_left(&db).await;
        let again = sink.take_received();
        assert_eq!(
            again.len() as u64,
            2 * ROWS,
            "those that match, in round {round}"
        );
        let mut last = std::collections::BTreeMap::new();
        for one in &again {
            assert_eq!(one.line, "POST /big");
            assert_eq!(one.header("webhook-replay"), Some("true"));
            let body = body(one);
            assert_eq!(body["replay"], true);
            let known = |first: &&Received| first.webhook_id == one.webhook_id;
            assert!(first.iter().any(|one| known(&one)), "the id it had");
            let total = body["new"]["total"].as_i64().unwrap();
            let before = last.insert(body["key"].to_string(), total);
            assert_eq!(before.unwrap_or(0) + 1, total, "in order within a key");
        }
        assert_eq!(
            counted().await,
            2 * ROWS * (round + 1),
            "each replay takes effect, and once"
        );
    }

    let some = [
        "--observer",
        "big",
        "--action",
        "post",
        "--from",
        "1h",
        "--key",
        "3",
    ];
    let said = replay(&config, &some).await;
    assert!(said.starts_with("3 events, 3 deliveries"), "{said}");
    none_left(&db).await;
    assert_eq!(sink.take_received().len(), 2);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_not_asked_for_twice_and_mistakes_are_named() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total int not null default 0); select observer.track('orders');
         insert into orders select generate_series(1, 3)",
    )
    .await;
    let action = "    - name: note\n      log: {}\n";
    let observers = observer("big", "", action) + &observer("other", "", action);
    let config = Config::new(&db.url, "", &observers);
    let some = ["--observer", "big", "--from", "1h"];
    let said = replay(&config, &some).await;
    assert!(said.starts_with("3 events, 3 deliveries"), "{said}");
    let said = replay(&config, &some).await;
    assert!(said.contains("requested already: 3 deliveries"), "{said}");
    let path = config.path();
    let path = path.to_str().unwrap();
    for (args, told) in [
        (
            ["--observer", "nobody", "--from", "1h"],
            "it runs default/big, default/other",
        ),
        (
            ["--observer", "big", "--from", "soon"],
            "2026-03-01T12:00:00Z",
        ),
    ] {
        let ended = command(&[&["replay", "-f", path][..], &args].concat()).await;
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(ended.err.contains(told), "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_tells_what_would_be_delivered_and_why_not_the_rest() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total int, status text); select observer.track('orders');
         insert into orders select n, n * 100, case when n % 2 = 0 then 'paid' else 'new' end
         from generate_series(1, 1200) n;
         insert into orders values (2000, null, 'paid')",
    )
    .await;
    let action = "    - name: note\n      log: {}\n    - name: again\n      log: {}\n";
    let when = "  when: 'int(new.total) > 60000 && new.status == \"paid\"'\n";
    let config = Config::new(&db.url, "", &observer("big", when, action));
    let some = ["--observer", "big", "--from", "1h", "--dry-run"];
    let json = async |more: &[&str]| {
        let said = replay(&config, &[&some[..], &["-o", "json"], more].concat()).await;
        let json: Value = serde_json::from_str(&said).unwrap();
        json
    };
    let all = json(&[]).await;
    assert_eq!(all["events"], 1201);
    assert_eq!(all["evaluated"], 1201);
    assert_eq!(all["delivered"], 300);
    assert_eq!(all["deliveries"], 600);
    let reasons = all["notDelivered"].as_array().unwrap();
    let of = |part: &str| {
        let is_it = |one: &&Value| one["reason"].as_str().unwrap().contains(part);
        let found: Vec<_> = reasons
            .iter()
            .filter(is_it)
            .map(|one| one["events"].as_u64().unwrap())
            .collect();
        found
    };
    assert_eq!(of("`int(new.total) > 60000` is false"), [300], "{all}");
    assert_eq!(of("`new.status == \"paid\"` is false"), [300], "{all}");
    assert_eq!(of("are false"), [300], "{all}");
    let failed: Vec<_> = reasons
        .iter()
        .filter(|one| one["deadLetter"] == true)
        .collect();
    assert_eq!(failed.len(), 1, "{all}");
    assert_eq!(failed[0]["events"], 1);
    let sum: u64 = reasons
        .iter()
        .map(|one| one["events"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, 901);

    // The example leads to such an event.
    let example = failed[0]["example"].as_str().unwrap();
    let path = config.path();
    let check = ["check", "-f", path.to_str().unwrap(), "--event", example];
    assert!(command(&check).await.ok().contains("default/big: fails"));

    let newest = json(&["--limit", "601"]).await;
    assert_eq!(newest["evaluated"], 601);
    assert_eq!(newest["events"], 1201);
    assert_eq!(
        newest["delivered"], 300,
        "those of the largest totals are the newest"
    );
    let text = replay(&config, &[&some[..], &["--limit", "601"]].concat()).await;
    assert!(
        text.starts_with("1201 events of public.orders would be evaluated again\n"),
        "{text}"
    );
    assert!(text.contains("the newest 601 were evaluated"), "{text}");
    assert!(
        text.contains("300 events of those would be delivered: 600 deliveries"),
        "{text}"
    );
    assert!(
        text.contains("fails, and becomes a dead letter: "),
        "{text}"
    );

    let kept: i64 = db.value("select count(*) from observer.dead_letter").await;
    assert_eq!(kept, 0, "nothing was requested");
    let key = ["--observer", "big", "--from", "1h", "--key", "1000"];
    let said = replay(&config, &[&key[..], &["-o", "json"]].concat()).await;
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&said["events"], &said["requested"]),
        (&Value::from(1), &Value::from(2))
    );
    let again = json(&["--key", "1000"]).await;
    assert_eq!(
        (&again["delivered"], &again["skipped"]),
        (&Value::from(1), &Value::from(2))
    );
    assert_eq!(again["deliveries"], 0);
}
