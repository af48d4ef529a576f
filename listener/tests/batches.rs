//! Batches under failures: each event is delivered or a dead letter, none for another's sake, in the
//! order of its key.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use testkit::http_sink::{Behaviour, Received, Sink};

use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, measures};
use crate::support::{amounts_to, database};
use testkit::seed::seed;

/// Rows, changed in turn.
const KEYS: u64 = 200;

/// Times that all of them are changed.
const ROUNDS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn each_is_delivered_in_order_or_given_up_for_its_own_sake() {
    let seed = seed();
    let db = database().await;
    db.run(&format!(
        "create table orders (id int primary key, total int not null default 0, note text);
         insert into orders select generate_series(1, {KEYS});
         select observer.track('orders')"
    ))
    .await;
    let sink = Sink::start(Behaviour::Picky {
        word: "poison".to_owned(),
        per_mille: 150,
        seed,
    });
    let sink = sink.await.unwrap();
    let observer = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: feed}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n    - name: post\n      \
         webhook:\n        url: {{value: \"{}\"}}\n        batch: {{maxEvents: 20, linger: 20ms}}\n        \
         body: '{{\"id\": {{{{ id }}}}, \"new\": {{{{ new }}}}}}'\n      timeout: 30s\n      \
         retry: {{attempts: 20, initialBackoff: 20ms, maxBackoff: 100ms}}\n",
        sink.url("/")
    );
    let config = Config::new(&db.url, "", &observer);
    let process = Process::run(&config);
    for _ in 0..ROUNDS {
        // One of fifty is what the receiver cannot take.
        db.run(
            "update orders set total = total + 1, note = case when (id + total) % 50 = 0 then 'poison' end",
        )
        .await;
    }
    let all = KEYS * ROUNDS;
    let bad = all / 50;
    let settled = async || {
        let dead: i64 = db.value("select count(*) from observer.dead_letter").await;
        let ids: BTreeSet<String> = taken(&sink.received()).map(|event| id(&event)).collect();
        ids.len() as u64 + dead.unsigned_abs()
    };
    amounts_to("that are settled", all, settled).await;
    process.stop().await;

    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    let mut delivered = BTreeSet::new();
    let received = sink.received();
    for event in taken(&received) {
        assert_ne!(event["new"]["note"], "poison", "seed {seed}");
        let number = |field: &str| event["new"][field].as_u64().unwrap();
        if delivered.insert(id(&event)) {
            let before = last.insert(number("id"), number("total"));
            assert!(before < Some(number("total")), "out of order, seed {seed}");
        }
    }
    let dead: Vec<(String, Option<i32>)> = sqlx::query_as(
        "select event_id, (history -> -1 ->> 'status')::int from observer.dead_letter",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(dead.len() as u64, bad, "{dead:?}, seed {seed}");
    assert!(
        dead.iter().all(|(_, status)| *status == Some(422)),
        "{dead:?}"
    );
    let both: Vec<_> = dead
        .iter()
        .filter(|(id, _)| delivered.contains(id))
        .collect();
    assert!(both.is_empty(), "delivered and given up: {both:?}");
    println!(
        "{all} events: {} delivered, {} dead letters, by {} requests",
        delivered.len(),
        dead.len(),
        received.len()
    );
    assert!((received.len() as u64) < all, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_endpoint_gets_full_batches_within_its_limit() {
    const ROWS: u64 = 400;
    const TAKES: Duration = Duration::from_millis(200);
    let db = database().await;
    db.run("create table item (k int primary key); select observer.track('item')")
        .await;
    db.run(&format!(
        "insert into item select k from generate_series(1, {ROWS}) k"
    ))
    .await;
    let sink = Sink::start(Behaviour::Hold).await.unwrap();
    let observer = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: feed}}\nspec:\n  \
         events: {{entity: public.item}}\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{}\"}}, batch: {{}}}}\n      timeout: 5m\n",
        sink.url("/")
    );
    let config = Config::new(&db.url, "  delivery: {maxConcurrency: 2}", &observer);
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    sink.arrived(2).await;
    // The first ones go out before others were read.
    measures(
        &address,
        &[&format!(
            "observer_events_total{{listener=\"default/test\"}} {ROWS}\n"
        )],
    )
    .await;
    sink.behave(Behaviour::Delay(TAKES));
    let all = async || taken(&sink.received()).count() as u64;
    amounts_to("deliveries", ROWS, all).await;
    process.stop().await;
    let received = sink.received();
    println!("{ROWS} events by {} requests", received.len());
    // The first two are answered when the rest begins.
    for three in received[2..].windows(3) {
        let apart = three[2].at - three[0].at;
        assert!(
            apart >= TAKES,
            "two at once, and the third comes after {apart:?}"
        );
    }
    let most = ROWS / 50 + 12;
    assert!(
        (received.len() as u64) < most,
        "{} requests, and fewer than {most} are enough",
        received.len()
    );
}

/// The events of the requests that were taken.
fn taken(received: &[Received]) -> impl Iterator<Item = Value> {
    let taken = received.iter().filter(|one| one.status == Some(200));
    taken.flat_map(|one| serde_json::from_slice::<Vec<Value>>(&one.body).unwrap())
}

fn id(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}
