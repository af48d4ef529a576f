//! What became of events, as the change log, the checkpoints, the jobs and the dead letters tell.

use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process};
use crate::support::program::{Ended, command};
use crate::support::{TestDb, database, eventually};

/// Observers of one table: one that meets large orders, one of inserts, one of a tenant, and one whose
/// endpoint rejects.
async fn shop(sink: &Sink) -> (TestDb, Config) {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, tenant text, total int, status text);
         select observer.track('orders', tenant => 'tenant')",
    )
    .await;
    let observer = |name: &str, events: &str, more: &str, path: &str, attempts: u32| {
        format!(
            "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
             events: {{entity: public.orders{events}}}\n{more}  actions:\n    - name: post\n      \
             webhook: {{url: {{value: \"{}\"}}}}\n      retry: {{attempts: {attempts}, initialBackoff: 1h, maxBackoff: 1h}}\n---\n",
            sink.url(path)
        )
    };
    let observers = [
        observer(
            "large",
            "",
            "  when: 'new.total > 1000 && (new.status == \"paid\" || has(new.vip))'\n",
            "/ok",
            1,
        ),
        observer("inserts", ", operations: [Insert]", "", "/ok", 1),
        observer("acme", "", "  tenant: acme\n", "/ok", 1),
        observer("rejected", "", "", "/rejects", 1),
        observer("down", "", "", "/down", 5),
    ];
    sink.behave_at("/rejects", Behaviour::Status(400));
    sink.behave_at("/down", Behaviour::Status(503));
    let config = Config::new(&db.url, "", &observers.concat());
    (db, config)
}

async fn events(config: &Config, args: &[&str]) -> Ended {
    let path = config.path();
    let file = ["-f", path.to_str().unwrap()];
    command(&[&["events"], args, &file].concat()).await
}

async fn list(config: &Config, args: &[&str]) -> Vec<Value> {
    let text = events(config, &[&["list", "-o", "json"], args].concat())
        .await
        .ok();
    serde_json::from_str(&text).unwrap()
}

fn of_observer<'a>(event: &'a Value, name: &str) -> &'a Value {
    let observers = event["observers"].as_array().unwrap();
    let name = format!("default/{name}");
    observers
        .iter()
        .find(|one| one["observer"] == *name)
        .unwrap()
}

fn state(event: &Value, observer: &str) -> String {
    let deliveries = &of_observer(event, observer)["deliveries"];
    deliveries[0]["state"].as_str().unwrap_or("none").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn shown_event_tells_what_became_of_each_delivery() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (db, config) = shop(&sink).await;
    db.run("insert into orders values (1, 'acme', 2000, 'paid'), (2, 'other', 5, 'new')")
        .await;

    let before = list(&config, &[]).await;
    assert_eq!(before.len(), 2, "{before:?}");
    assert_eq!(before[0]["key"], "2", "the newest comes first");
    assert_eq!(before[0]["progress"], "notStarted");
    assert_eq!(state(&before[0], "inserts"), "pending");

    let process = Process::run(&config);
    let all = eventually("the events are passed", async || {
        let all = list(&config, &[]).await;
        let over =
            |one: &Value| one["progress"] == "passed" && state(one, "rejected") == "deadLetter";
        all.iter().all(over).then_some(all)
    })
    .await;
    process.stop().await;
    let (second, first) = (&all[0], &all[1]);

    assert_eq!(state(first, "large"), "delivered");
    assert_eq!(state(first, "inserts"), "delivered");
    assert_eq!(state(first, "acme"), "delivered");
    assert_eq!(state(first, "down"), "queued");
    let down = &of_observer(first, "down")["deliveries"][0];
    assert_eq!(down["attempts"], 1);
    assert!(down["error"].as_str().unwrap().contains("503"), "{down}");
    let rejected = &of_observer(first, "rejected")["deliveries"][0];
    assert!(
        rejected["error"].as_str().unwrap().contains("400"),
        "{rejected}"
    );
    assert_eq!(rejected["history"].as_array().unwrap().len(), 1);

    assert_eq!(
        of_observer(second, "large")["notMatched"],
        "`new.total > 1000` and `new.status == \"paid\"` and `has(new.vip)` are false"
    );
    assert_eq!(
        of_observer(second, "acme")["notMatched"],
        "it sees another tenant's events only"
    );

    // The id that the receiver got leads to the event.
    let received = sink.received();
    let id = received
        .iter()
        .find(|one| one.line == "POST /rejects")
        .unwrap()
        .webhook_id
        .clone();
    let text = events(&config, &["show", &id]).await.ok();
    assert!(text.contains("default/rejected: matched"), "{text}");
    assert!(
        text.contains("post: dead letter 1, 1 attempt\n    20"),
        "{text}"
    );
    assert!(text.contains("Z  failed after "), "{text}");
    assert!(text.contains(" ms, status 400: "), "{text}");
    assert!(text.contains("post: queued, 1 attempt, due "), "{text}");
    assert!(
        text.contains(&format!(", job {}", id.split('.').next().unwrap())),
        "{text}"
    );

    db.run("delete from orders where id = 2").await;
    let deleted = list(&config, &["--operation", "delete"]).await;
    assert_eq!(deleted.len(), 1);
    assert_eq!(deleted[0]["progress"], "ahead");
    assert_eq!(
        of_observer(&deleted[0], "inserts")["notMatched"],
        "it does not watch Delete"
    );
    assert_eq!(state(&deleted[0], "rejected"), "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_events_are_filtered_and_paged_by_time() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (db, config) = shop(&sink).await;
    db.run("insert into orders select n, case n % 2 when 0 then 'acme' else 'b' end, n, 'new' from generate_series(1, 20) n")
        .await;
    db.run("update orders set total = 0 where id = 7").await;
    db.run("select observer.emit('shop.closed', '{\"at\": 1}'::json)")
        .await;
    let count = async |args: &[&str]| list(&config, args).await.len();
    assert_eq!(count(&[]).await, 22);
    assert_eq!(count(&["--limit", "3"]).await, 3);
    assert_eq!(count(&["--key", "7"]).await, 2);
    assert_eq!(count(&["--tenant", "acme"]).await, 10);
    assert_eq!(count(&["--entity", "shop.closed"]).await, 1);
    assert_eq!(count(&["--operation", "update,custom"]).await, 2);
    assert_eq!(count(&["--from", "1h"]).await, 22);
    assert_eq!(count(&["--to", "1h"]).await, 0);
    let updated = &list(&config, &["--operation", "update"]).await[0];
    assert_eq!(updated["changed"], serde_json::json!(["total"]));

    // Without files, what the log holds.
    let by_url = ["events", "list", "--database-url", &db.url, "--limit", "1"];
    let text = command(&by_url).await.ok();
    assert!(
        text.contains("shop.closed") && !text.contains("OUTCOME"),
        "{text}"
    );
    let text = events(&config, &["list", "--entity", "shop.closed"])
        .await
        .ok();
    assert!(text.contains("no observer watches it"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_not_there_are_named_with_a_remedy() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (db, config) = shop(&sink).await;
    let ended = events(&config, &["show", "3c5bf38d-140-6615e1afaa36c"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(
        ended.err.contains("the change log is empty"),
        "{}",
        ended.said()
    );
    db.run("insert into orders values (1, 'acme', 1, 'new')")
        .await;
    let id = list(&config, &[]).await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    // Another log's event of the same number.
    let other = format!("00000000-{}", id.split_once('-').unwrap().1);
    let ended = events(&config, &["show", &other]).await;
    assert!(
        ended.err.contains("the change log holds events since"),
        "{}",
        ended.said()
    );
    for wrong in ["", "x", "batch.9"] {
        let ended = events(&config, &["show", wrong]).await;
        assert!(ended.err.contains("is no event id"), "{}", ended.said());
    }
}
