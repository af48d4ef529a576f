//! Receivers that are down, and limits on what is sent to them.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use chrono::Utc;
use serde_json::Value;
use testkit::http_sink::{Behaviour, Received, Sink};

use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get};
use crate::support::{TestDb, amounts_to, database, eventually};

/// Rows, each with changes that are to come in order.
const KEYS: i32 = 50;

/// An observer of `public.orders`; `more` are fields of its action.
fn observer(name: &str, url: &str, more: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{url}\"}}}}\n{more}---\n"
    )
}

async fn orders() -> TestDb {
    let db = database().await;
    db.run(&format!(
        "create table orders (id int primary key, total int not null default 0);
         insert into orders select generate_series(1, {KEYS});
         select observer.track('orders')"
    ))
    .await;
    db
}

/// Changes every row once every so often, so many times.
async fn changes(db: &TestDb, times: u32, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    for _ in 0..times {
        ticks.tick().await;
        db.run("update orders set total = total + 1").await;
    }
}

/// A metric of an observer.
async fn metric(address: &str, name: &str, observer: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics").await?;
    let label = format!("observer=\"{observer}\"");
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with(name) && line.contains(&label))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The endpoints whose circuit breakers the process reports as not closed.
async fn open_circuit_breakers(address: &str) -> Option<Vec<Value>> {
    let (_, text) = get(address, "/status").await?;
    let mut status: Value = serde_json::from_str(&text).ok()?;
    serde_json::from_value(status["openCircuitBreakers"]["endpoints"].take()).ok()
}

/// Each row's deliveries that took effect, in the order in which they came; one whose answer came too
/// late for the sender is there once.
fn totals(received: &[Received]) -> BTreeMap<String, Vec<i64>> {
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for one in received.iter().filter(|one| one.status == Some(200)) {
        if !seen.insert(&one.webhook_id) {
            continue;
        }
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        let total = body["new"]["total"].as_i64().unwrap();
        all.entry(body["key"].to_string()).or_default().push(total);
    }
    all
}

/// The second in which it was asked for a request to be admitted, which it was at once.
fn sent(one: &Received) -> i64 {
    one.header("webhook-timestamp").unwrap().parse().unwrap()
}

/// Deliveries that took effect, each counted once.
fn accepted(sink: &Sink) -> u64 {
    let received = sink.received();
    let accepted = received.iter().filter(|one| one.status == Some(200));
    let ids: HashSet<&String> = accepted.map(|one| &one.webhook_id).collect();
    ids.len() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_endpoint_is_cut_off_and_ramps_up_again() {
    const ROUNDS: u32 = 20;
    let db = orders().await;
    let mut sinks = Vec::new();
    let mut observers = String::new();
    for n in 0..10 {
        let sink = Sink::start(Behaviour::Ok).await.unwrap();
        // The others are given time, so that none looks dead on a busy machine.
        let timeout = if n == 0 { "5s" } else { "30s" };
        let more = format!("      timeout: {timeout}\n      retry: {{attempts: 20}}\n");
        observers += &observer(&format!("o{n}"), &sink.url("/"), &more);
        sinks.push(sink);
    }
    let (dead, others) = sinks.split_first().unwrap();
    let config = Config::new(&db.url, "", &observers);
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    let at_others = || others.iter().map(accepted).sum::<u64>();
    let each = u64::from(ROUNDS) * u64::try_from(KEYS).unwrap();
    let every = Duration::from_millis(250);

    // All are well.
    changes(&db, ROUNDS, every).await;
    let well = at_others();
    amounts_to("deliveries", each * 9, async || at_others()).await;
    amounts_to("deliveries", each, async || accepted(dead)).await;

    // One is dead.
    let before = dead.counts().requests;
    dead.behave(Behaviour::Hang);
    changes(&db, ROUNDS, every).await;
    let beside = at_others() - each * 9;
    println!(
        "at the nine others by the last of {ROUNDS} rounds: {well} of {} while all were well, {beside} while one was dead",
        each * 9
    );
    amounts_to("deliveries", 2 * each * 9, async || at_others()).await;
    let mut state = 0.0;
    eventually("it is left alone", async || {
        let opened = metric(
            &address,
            "observer_circuit_breaker_opened_total",
            "default/o0",
        )
        .await?;
        (opened >= 1.0).then_some(())
    })
    .await;
    for name in ["default/o1", "default/o9"] {
        state += metric(&address, "observer_circuit_breaker_state", name)
            .await
            .unwrap();
    }
    assert!(state < 0.5, "the others are not: {state}");
    let told = open_circuit_breakers(&address).await.unwrap();
    let one = told.first().unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(one["endpoint"], dead.url("/").trim_end_matches('/'));
    assert_eq!(one["actions"], 1);
    let attempted = dead.counts().requests - before;
    println!("{attempted} requests to the dead one");
    assert!(attempted < 200, "{attempted}");

    // It is back, and its backlog comes in order and not at once.
    let before = dead.received().len();
    dead.behave(Behaviour::Ok);
    let back = Instant::now();
    amounts_to("deliveries", 2 * each, async || accepted(dead)).await;
    let received = dead.received();
    // When each was sent, as its sender says: on a busy machine they may arrive all at once.
    let came: Vec<&Received> = received[before..]
        .iter()
        .filter(|one| one.status == Some(200))
        .collect();
    let first = came[0].at.saturating_duration_since(back);
    let sent: Vec<i64> = came.iter().map(|one| sent(one)).collect();
    let mut series = Vec::new();
    for second in 0..10_u32 {
        let until = sent[0] + i64::from(second) + 1;
        let count = sent.iter().filter(|at| **at < until).count();
        series.push(count - series.iter().sum::<usize>());
        // What is admitted at most, and what may be on its way for a moment.
        let most = 10 * ((1 << (second + 1)) - 1) + 20 + (10 << second) / 2;
        assert!(
            count <= most,
            "{count} within {} s, at most {most}",
            second + 1
        );
    }
    println!("came back after {first:.1?}, then in each second: {series:?}");
    // Nothing more is sent to it.
    eventually("it is left alone no more", async || {
        open_circuit_breakers(&address)
            .await?
            .is_empty()
            .then_some(())
    })
    .await;
    let letters: i64 = db.value("select count(*) from observer.dead_letter").await;
    assert_eq!(letters, 0, "no delivery was given up");
    for (key, totals) in totals(&received) {
        let in_order: Vec<i64> = (1..=i64::from(2 * ROUNDS)).collect();
        assert_eq!(totals, in_order, "key {key}");
    }
    let said = process.stop().await;
    assert!(said.contains("circuit breaker opened"), "{said}");
    assert!(said.contains("circuit breaker half-open"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_fail_hold_up_nobody_else() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave(Behaviour::FailHolding {
        text: "\"total\":13".to_owned(),
        status: 500,
    });
    let more = "      retry: {attempts: 50, initialBackoff: 100ms, maxBackoff: 1s}\n";
    let config = Config::new(&db.url, "", &observer("o", &sink.url("/"), more));
    let process = Process::run(&config);
    db.run("update orders set total = 13 where id <= 25").await;
    eventually("each of them has failed", async || {
        let failed: HashSet<String> = sink
            .received()
            .into_iter()
            .map(|one| one.webhook_id)
            .collect();
        (failed.len() >= 20).then_some(())
    })
    .await;
    db.run("update orders set total = 1 where id > 25").await;
    amounts_to("deliveries", 25, async || accepted(&sink)).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_costs_no_attempt() {
    let db = orders().await;
    let (limited, free) = (
        Sink::start(Behaviour::Ok).await.unwrap(),
        Sink::start(Behaviour::Ok).await.unwrap(),
    );
    let limit = "      rateLimit: {attempts: 40, per: 1s}\n      retry: {attempts: 1}\n";
    let observers =
        observer("limited", &limited.url("/"), limit) + &observer("free", &free.url("/"), "");
    let config = Config::new(&db.url, "", &observers);
    let mut process = Process::run(&config);
    process.says("running").await;
    let each = 4 * u64::try_from(KEYS).unwrap();
    let begun = Utc::now().timestamp();
    changes(&db, 4, Duration::from_millis(1)).await;
    amounts_to("deliveries", each, async || accepted(&free)).await;
    amounts_to("deliveries", each, async || accepted(&limited)).await;
    let received = limited.received();
    // As their sender says: on a busy machine they may arrive all at once.
    let mut sent: Vec<i64> = received.iter().map(sent).collect();
    sent.sort_unstable();
    for (n, at) in (1_i64..).zip(&sent) {
        // All that may be sent at once, and then 40 in each second that has at least begun.
        let seconds = at - begun + 1;
        assert!(n <= 40 + 40 * seconds, "number {n} within {seconds} s");
    }
    println!(
        "{each} in {:.1?}",
        received.last().unwrap().at - received[0].at
    );
    for (key, totals) in totals(&received) {
        assert_eq!(totals, [1, 2, 3, 4], "key {key}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_of_an_endpoint_is_respected() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_once(Behaviour::Throttle {
        times: 1,
        seconds: 2,
    });
    // One at a time, so that the first refusal comes before anything else is sent.
    let more = "      maxConcurrency: 1\n      timeout: 5m\n";
    let config = Config::new(&db.url, "", &observer("o", &sink.url("/"), more));
    let process = Process::run(&config);
    changes(&db, 1, Duration::from_millis(1)).await;
    let keys = u64::try_from(KEYS).unwrap();
    amounts_to("deliveries", keys, async || accepted(&sink)).await;
    let received = sink.received();
    let pause = received[1].at - received[0].at;
    assert_eq!(received[0].status, Some(429), "the first is refused");
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
    assert_eq!(received.len() as u64, keys + 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_order_no_delivery_waits_for_another() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let more = "      ordering: None\n      retry: {attempts: 50, initialBackoff: 500ms, maxBackoff: 500ms}\n";
    let config = Config::new(&db.url, "", &observer("o", &sink.url("/"), more));
    sink.behave(Behaviour::FailShare {
        per_mille: 300,
        seed: 7,
        status: 503,
    });
    // All are there before the first is attempted, however slowly they are written.
    changes(&db, 10, Duration::from_millis(1)).await;
    let process = Process::run(&config);
    let all = 10 * u64::try_from(KEYS).unwrap();
    amounts_to("deliveries", all, async || accepted(&sink)).await;
    let totals = totals(&sink.received());
    let swapped = totals.values().filter(|totals| !totals.is_sorted()).count();
    println!("{swapped} of {} keys out of order", totals.len());
    assert!(
        swapped > 0,
        "with three of ten attempts failing some overtake"
    );
    for (key, mut totals) in totals {
        totals.sort_unstable();
        assert_eq!(totals, (1..=10).collect::<Vec<_>>(), "key {key}");
    }
    eventually("no job is left", async || {
        let left: i64 = db.value("select count(*) from observer.job").await;
        (left == 0).then_some(())
    })
    .await;
    process.stop().await;
}
