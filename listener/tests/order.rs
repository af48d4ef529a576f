//! Order within a key, while all other keys flow; and deliveries that prove who sent them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use observer_listener::capture::change_log::PAGE_EVENTS;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use standardwebhooks::Webhook;
use testkit::http_sink::{Behaviour, Received, Sink};

use crate::support::listener::{Config, Process, observer, patient};
use crate::support::program::command;
use crate::support::{TestDb, amounts_to, database, while_progressing_or};

const ROWS: usize = 100;
const CHANGES: usize = 5;

/// Changes each row so many times, many rows a transaction.
async fn changes(db: &TestDb) {
    db.run(&format!(
        "create table kv (k int primary key, v int not null);
         insert into kv select k, 0 from generate_series(1, {ROWS}) k;
         select observer.track('kv')"
    ))
    .await;
    for _ in 0..CHANGES {
        db.run("update kv set v = v + 1").await;
    }
}

/// A request as to its row, the row's value, and how it was answered.
struct Attempt {
    row: i64,
    value: i64,
    done: bool,
    at: Instant,
}

fn attempts(received: &[Received]) -> Vec<Attempt> {
    let read = |one: &Received| {
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        Attempt {
            row: body["new"]["k"].as_i64().unwrap(),
            value: body["new"]["v"].as_i64().unwrap(),
            done: one.status == Some(200),
            at: one.at,
        }
    };
    received.iter().map(read).collect()
}

/// Each row's values one after the other: none is tried before the one before it was accepted.
fn in_order(attempts: &[Attempt]) {
    let mut next: BTreeMap<i64, i64> = BTreeMap::new();
    for one in attempts {
        let due = next.entry(one.row).or_insert(1);
        assert_eq!(one.value, *due, "row {}", one.row);
        *due += i64::from(one.done);
    }
    assert_eq!(next.len(), ROWS);
    let last = i64::try_from(CHANGES).unwrap() + 1;
    assert!(next.values().all(|due| *due == last), "all arrived");
}

async fn all_accepted(sink: &Sink) {
    let all = (ROWS * CHANGES) as u64;
    amounts_to("deliveries", all, async || sink.counts().succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_keys_at_once_and_one_at_a_time_within_a_key() {
    const TAKES: Duration = Duration::from_millis(50);
    let db = database().await;
    changes(&db).await;
    let sink = Sink::start(Behaviour::Hold).await.unwrap();
    let config = Config::new(
        &db.url,
        "  delivery: {maxConcurrency: 64}",
        &patient(&observer("kv", "public.kv", &sink.url("/hook"), "")),
    );
    let process = Process::run(&config);
    // None of them has an answer.
    sink.arrived(64).await;
    let first = sink.received();
    assert_eq!(first.len(), 64, "so many at once, and no more");
    let rows: BTreeSet<i64> = attempts(&first).iter().map(|one| one.row).collect();
    assert_eq!(rows.len(), 64, "each of another row");
    sink.behave(Behaviour::Delay(TAKES));
    all_accepted(&sink).await;
    process.stop().await;
    let attempts = attempts(&sink.received());
    in_order(&attempts);
    // Of those that came later each was under way for at least so long.
    let later = &attempts[64..];
    let most = (0..later.len()).map(|n| {
        let begun = &later[..=n];
        let under_way = |one: &&Attempt| later[n].at - one.at < TAKES;
        begun.iter().rev().take_while(under_way).count()
    });
    let most = most.max().unwrap();
    assert!(most <= 64, "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_fills_its_last_page_ends() {
    let db = database().await;
    db.run("create table kv (k int primary key, v int not null); select observer.track('kv')")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("kv", "public.kv", &sink.url("/hook"), ""),
    );
    let process = Process::run(&config);
    let mut rows = 0;
    for more in [
        PAGE_EVENTS,
        2 * PAGE_EVENTS,
        1,
        PAGE_EVENTS - 1,
        PAGE_EVENTS + 1,
        1,
    ] {
        let (from, to) = (rows + 1, rows + more);
        db.run(&format!(
            "insert into kv select k, 0 from generate_series({from}, {to}) k"
        ))
        .await;
        rows = to;
        let all = u64::try_from(rows).unwrap();
        amounts_to("deliveries", all, async || sink.counts().succeeded).await;
    }
    process.stop().await;
    let mut came: Vec<i64> = attempts(&sink.received())
        .iter()
        .map(|one| one.row)
        .collect();
    came.sort_unstable();
    assert_eq!(came, (1..=rows).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_holds_back_its_own_key_and_no_other() {
    let db = database().await;
    changes(&db).await;
    let failing = Behaviour::FailShare {
        per_mille: 50,
        seed: 7,
        status: 503,
    };
    let sink = Sink::start(failing).await.unwrap();
    let slow = observer("kv", "public.kv", &sink.url("/hook"), "").replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 24h, maxBackoff: 24h",
    );
    let config = Config::new(&db.url, "", &slow);
    let process = Process::run(&config);
    // Each row comes to its end, or to a delivery that failed and that nobody retries.
    let look = async || {
        let attempts = attempts(&sink.received());
        let last: BTreeMap<i64, &Attempt> = attempts.iter().map(|one| (one.row, one)).collect();
        let ends = |one: &&Attempt| !one.done || one.value == i64::try_from(CHANGES).unwrap();
        let ended = last.values().copied().filter(ends).count();
        if ended == ROWS {
            Ok(())
        } else {
            Err(attempts.len())
        }
    };
    while_progressing_or(look, async || {
        format!("the end of {ROWS} rows: {:?}", sink.counts())
    })
    .await;
    let held_back = attempts(&sink.received())
        .iter()
        .filter(|one| !one.done)
        .count();
    let flowed = ROWS - held_back;
    assert!(
        held_back > 0 && flowed > 50,
        "{held_back} rows were held back, and {flowed} flowed on meanwhile"
    );
    sink.behave(Behaviour::Ok);
    let path = config.path();
    // What failed last may not be a job yet.
    let ask = ["jobs", "retry", "--all", "-f", path.to_str().unwrap()];
    let look = async || {
        command(&ask).await.ok();
        let accepted = sink.counts().succeeded;
        if accepted >= (ROWS * CHANGES) as u64 {
            Ok(())
        } else {
            Err(accepted)
        }
    };
    while_progressing_or(look, async || {
        format!("all deliveries: {:?}", sink.counts())
    })
    .await;
    process.stop().await;
    in_order(&attempts(&sink.received()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_secrets_proves_the_sender() {
    let secrets = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDazDt2qYrDvM=",
    ];
    let db = database().await;
    db.run("create table t (id int primary key, note text); select observer.track('t')")
        .await;
    let sink = Sink::start(Behaviour::FailFirst {
        times: 1,
        status: 503,
    })
    .await
    .unwrap();
    let signing = format!(
        "signingSecrets: [{{secretKeyRef: {{name: hooks, key: new}}}}, {{secretKeyRef: {{name: hooks, key: old}}}}], url: {{value: \"{}\"",
        sink.url("/hook")
    );
    let plain = format!("url: {{value: \"{}\"", sink.url("/hook"));
    let observers = observer("t", "public.t", &sink.url("/hook"), "").replace(&plain, &signing)
        + &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: hooks}}\nstringData: {{new: \"{}\", old: \"{}\"}}\n",
            secrets[0], secrets[1]
        );
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    db.run("insert into t values (1, 'grüße \"\\ 😀'), (2, null)")
        .await;
    sink.arrived(4).await;
    process.stop().await;
    for one in sink.received() {
        let headers: HeaderMap = one
            .headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::try_from(name).unwrap(),
                    HeaderValue::from_bytes(value.as_bytes()).unwrap(),
                )
            })
            .collect();
        for secret in secrets {
            let webhook = Webhook::new(secret).unwrap();
            webhook.verify(&one.body, &headers).unwrap();
            assert!(webhook.verify(b"{}", &headers).is_err(), "another body");
        }
        let other = Webhook::new("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        assert!(other.verify(&one.body, &headers).is_err(), "another secret");
    }
}
