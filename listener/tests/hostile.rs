//! Receivers that fail in every way there is: each matched event is delivered, waiting or a dead
//! letter, and is one of these only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use observer_listener::delivery::delivery_id;
use testkit::http_sink::{Behaviour, Received, Sink};

use crate::support::listener::{Config, Process};
use crate::support::program::dlq;
use crate::support::{TestDb, amounts_to, database};
use testkit::seed::seed;

/// Rows, changed in turn.
const KEYS: u64 = 25;

/// Times that all of them are changed while receivers misbehave.
const ROUNDS: u64 = 12;

/// Every way to fail, by the name of its observer; and whether what is sent there counts as
/// delivered: an answer's head decides, whatever its body does.
fn ways(seed: u64) -> Vec<(&'static str, Behaviour, bool)> {
    let fails = |per_mille| Behaviour::FailShare {
        per_mille,
        seed,
        status: 503,
    };
    let metadata = "http://169.254.169.254/latest/meta-data/";
    vec![
        ("well", Behaviour::Ok, true),
        ("flaky", fails(300), true),
        ("hangs", Behaviour::Hang, false),
        ("resets", Behaviour::Reset, false),
        ("lies", Behaviour::ShortBody(200), true),
        ("lies-badly", Behaviour::ShortBody(503), false),
        ("drips", Behaviour::EndlessBody(200), true),
        ("drips-badly", Behaviour::EndlessBody(500), false),
        ("floods", Behaviour::HugeBody(10 << 30), true),
        ("redirects", Behaviour::Redirect(metadata.to_owned()), false),
        ("babbles", Behaviour::Garbage, false),
        ("refuses", Behaviour::Status(400), false),
        ("is-down", Behaviour::Status(503), false),
    ]
}

/// One whose receiver takes what it is sent is given time, so that a busy machine makes no repeats;
/// so are all of them once they behave.
fn observer(name: &str, url: &str, takes: bool) -> String {
    let timeout = if takes { "30s" } else { "500ms" };
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{url}\"}}}}\n      timeout: {timeout}\n      \
         retry: {{attempts: 3, initialBackoff: 20ms, maxBackoff: 100ms}}\n---\n"
    )
}

/// Ids of what was sent and, where the receiver answers properly, accepted.
fn delivered(received: &[Received], any: bool) -> BTreeSet<String> {
    let counts = |one: &&Received| any || one.status.is_some_and(|status| status == 200);
    let ids = received.iter().filter(counts);
    ids.map(|one| one.webhook_id.clone()).collect()
}

/// Ids of dead letters, and of jobs.
async fn kept(db: &TestDb, observer: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let letters: Vec<String> =
        sqlx::query_scalar("select event_id from observer.dead_letter where observer = $1")
            .bind(observer)
            .fetch_all(&db.pool)
            .await
            .unwrap();
    let jobs: Vec<String> =
        sqlx::query_scalar("select event_id from observer.job where observer = $1")
            .bind(observer)
            .fetch_all(&db.pool)
            .await
            .unwrap();
    let ids = |events: Vec<String>| {
        let count = events.len();
        let ids: BTreeSet<String> = events
            .iter()
            .map(|event| delivery_id(event, observer, "post"))
            .collect();
        assert_eq!(ids.len(), count, "none twice");
        ids
    };
    (ids(letters), ids(jobs))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_delivered_waiting_or_a_dead_letter() {
    let seed = seed();
    let db = database().await;
    db.run(&format!(
        "create table orders (id int primary key, total int not null default 0);
         insert into orders select generate_series(1, {KEYS});
         select observer.track('orders')"
    ))
    .await;
    let ways = ways(seed);
    let mut sinks = BTreeMap::new();
    let mut observers = String::new();
    for (name, behaviour, takes) in &ways {
        let sink = Sink::start(behaviour.clone()).await.unwrap();
        observers += &observer(name, &sink.url("/"), *takes);
        sinks.insert(*name, sink);
    }
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    for _ in 0..ROUNDS {
        db.run("update orders set total = total + 1").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = KEYS * ROUNDS;
    let well = &sinks["well"];
    amounts_to("deliveries", all, async || well.counts().succeeded).await;
    // What waits is a job then.
    crate::support::all_is_behind(&db).await;
    process.stop().await;

    let events: Vec<String> = delivered(&well.received(), false)
        .iter()
        .map(|id| id.rsplit_once('.').unwrap().0.to_owned())
        .collect();
    assert_eq!(events.len() as u64, all);
    println!("observer      delivered  waiting  dead letters, of {all}");
    for (name, _, head_counts) in &ways {
        let observer = format!("default/{name}");
        let matched: BTreeSet<String> = events
            .iter()
            .map(|event| delivery_id(event, &observer, "post"))
            .collect();
        let proper = matches!(*name, "well" | "flaky");
        let done = if *head_counts {
            delivered(&sinks[name].received(), !proper)
        } else {
            BTreeSet::new()
        };
        let (letters, jobs) = kept(&db, &observer).await;
        println!(
            "{name:12}  {:9}  {:7}  {:12}",
            done.len(),
            jobs.len(),
            letters.len()
        );
        let sum: BTreeSet<String> = done.iter().chain(&letters).chain(&jobs).cloned().collect();
        let missing: Vec<_> = matched.difference(&sum).collect();
        assert!(
            missing.is_empty(),
            "{name}: {missing:?} are lost, seed {seed}"
        );
        assert_eq!(sum.len() as u64, all, "{name}, seed {seed}");
        let count = done.len() + letters.len() + jobs.len();
        assert_eq!(
            count as u64, all,
            "{name}: each is one of these only, seed {seed}"
        );
    }

    // Once they behave, all that waits arrives, and so do the dead letters that are redriven.
    for (name, _, _) in &ways {
        sinks[name].behave(Behaviour::Ok);
    }
    config.change("timeout: 500ms", "timeout: 30s");
    let process = Process::run(&config);
    dlq(&db, &["redrive", "--all", "--yes"]).await;
    let waiting = async || {
        let left: i64 = db
            .value("select (select count(*) from observer.job) + (select count(*) from observer.dead_letter)")
            .await;
        left.unsigned_abs()
    };
    let total = waiting().await;
    amounts_to("that are settled", total, async || {
        total.saturating_sub(waiting().await)
    })
    .await;
    process.stop().await;
    for (name, _, head_counts) in &ways {
        let proper = matches!(*name, "well" | "flaky") || !head_counts;
        let done = delivered(&sinks[name].received(), !proper);
        assert_eq!(done.len() as u64, all, "{name}, seed {seed}");
    }
}
