//! `tail`: what is committed while it runs, and what becomes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use testkit::http_sink::{Behaviour, Sink};
use testkit::seed::seed;
use testkit::soak::rounds;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::support::follower::Follower;
use crate::support::listener::{Config, Process, program};
use crate::support::program::command;
use crate::support::writers::{Writers, make_table};
use crate::support::{amounts_to, comes, database, own_server};

/// Lines of a `tail -o json`.
fn parsed(lines: &[String]) -> Vec<Value> {
    let parsed = lines.iter().map(|line| serde_json::from_str(line));
    parsed.map(|line| line.unwrap()).collect()
}

fn events(lines: &[String]) -> impl Iterator<Item = Value> {
    parsed(lines)
        .into_iter()
        .filter(|line| line["type"] == "event")
}

/// Starts `tail` by URL, and waits until it follows.
async fn follow(url: &str, pool: &PgPool) -> Follower {
    let mut tail = Follower::of_database(url, &["tail", "-o", "json"]);
    mark(&mut tail, pool, "begin").await;
    tail
}

/// Emits an event again and again until it is printed.
async fn mark(tail: &mut Follower, pool: &PgPool, name: &str) {
    let emit = format!("select observer.emit('{name}', '{{}}')");
    let stop = tokio_util::sync::CancellationToken::new();
    let (pool, stopped) = (pool.clone(), stop.clone());
    let emitting = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            let _the_server_may_be_away = pool.execute(AssertSqlSafe(emit.clone())).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    let is_there = |lines: &[String]| events(lines).any(|one| one["entity"] == name).then_some(());
    tail.prints(&format!("event {name}"), is_there).await;
    stop.cancel();
    emitting.await.unwrap();
}

/// Compares what was printed of a table with what the log holds.
async fn is_complete(tail: &Follower, pool: &PgPool) {
    let logged: Vec<i64> = sqlx::query_scalar(
        "select id from observer.change_log where entity = 'public.kv' order by id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut printed = Vec::new();
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for one in events(&tail.printed()).filter(|one| one["entity"] == "public.kv") {
        let id: i64 = one["id"]
            .as_str()
            .unwrap()
            .split('-')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        printed.push(id);
        let value = one["new"]["v"].as_i64().unwrap();
        let before = last.insert(one["key"].to_string(), value).unwrap_or(0);
        assert!(
            before <= value,
            "in order within a key: {one} after {before}"
        );
    }
    let in_order = printed.is_sorted();
    printed.sort_unstable();
    let unique: BTreeSet<i64> = printed.iter().copied().collect();
    assert_eq!(unique.len(), printed.len(), "printed twice: {printed:?}");
    assert_eq!(printed, logged);
    println!(
        "{} events, in the order of their ids: {in_order}",
        logged.len()
    );
}

async fn count(pool: &PgPool) -> u64 {
    let count: Result<i64, _> = sqlx::query_scalar("select count(*) from observer.change_log")
        .fetch_one(pool)
        .await;
    count.unwrap_or_default().unsigned_abs()
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_any_order_are_each_printed_once() {
    let db = database().await;
    make_table(&db.pool).await;
    let mut tail = follow(&db.url, &db.pool).await;
    let writers = Writers::start(&db.url, 6, seed());
    let some = u64::from(rounds(1, 5)) * 1500;
    amounts_to("events", some, async || count(&db.pool).await).await;
    // Begun while they write: past events and live ones meet.
    let mut past = Follower::of_database(&db.url, &["tail", "-o", "json", "--since", "1h"]);
    amounts_to("events", 2 * some, async || count(&db.pool).await).await;
    writers.stop().await;
    for tail in [&mut tail, &mut past] {
        mark(tail, &db.pool, "end").await;
        is_complete(tail, &db.pool).await;
        assert_eq!(tail.interrupted().await.code(), Some(0), "{}", tail.said());
        assert_eq!(tail.said(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_and_crashes_of_the_database_lose_and_repeat_nothing() {
    let (server, pool) = own_server().await;
    make_table(&pool).await;
    let url = server.url("postgres");
    let mut tail = follow(&url, &pool).await;
    let writers = Writers::start(&url, 4, seed());
    let mut wanted = 300;
    amounts_to("events", wanted, async || count(&pool).await).await;
    for crashes in [false, true, true] {
        if crashes {
            server.crash().await.unwrap();
        } else {
            server.stop().await.unwrap();
        }
        tail.says("the database is away").await;
        server.resume().await.unwrap();
        wanted += 300;
        amounts_to("events", wanted, async || count(&pool).await).await;
    }
    writers.stop().await;
    mark(&mut tail, &pool, "end").await;
    is_complete(&tail, &pool).await;
    tail.says("the database is back").await;
    assert!(
        !tail.said().contains("gone back in time"),
        "{}",
        tail.said()
    );
    assert_eq!(tail.interrupted().await.code(), Some(0));
}

/// Observers of one table: of large orders, with an endpoint that rejects and one that takes all.
async fn shop(sink: &Sink) -> (crate::support::TestDb, Config) {
    let db = database().await;
    db.run(
        "create table orders (id text primary key, total int);
         select observer.track('orders')",
    )
    .await;
    sink.behave_at("/rejects", Behaviour::Status(400));
    let observer = |name: &str, more: &str, path: &str| {
        format!(
            "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
             events: {{entity: public.orders}}\n{more}  actions:\n    - name: post\n      \
             webhook: {{url: {{value: \"{}\"}}}}\n---\n",
            sink.url(path)
        )
    };
    let observers = observer("large", "  when: new.total > 1000\n", "/ok")
        + &observer("rejected", "  when: new.total > 10\n", "/rejects");
    let config = Config::new(&db.url, "", &observers);
    (db, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_follow_their_events() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (db, config) = shop(&sink).await;
    db.run("insert into orders values ('a', 2000), ('b', 50), ('c', 1)")
        .await;
    let file = config.path();
    let file = file.to_str().unwrap();
    let since = ["tail", "-f", file, "--since", "1h"];
    let mut json = Follower::start(&[&since[..], &["-o", "json"]].concat());
    let mut text = Follower::start(&since);
    let mut letters = Follower::start(&[&since[..], &["--outcome", "dead-letter"]].concat());
    let mut large = Follower::start(&[&since[..], &["--observer", "large", "-o", "json"]].concat());
    let three = |lines: &[String]| (lines.len() >= 3).then_some(());
    text.prints("three events", three).await;
    let process = Process::run(&config);
    let lines = json
        .prints("three events, six outcomes", |lines| {
            (lines.len() >= 9).then(|| parsed(lines))
        })
        .await;
    let outcome = |key: &str, observer: &str| {
        let mut both = lines.iter();
        let event = both.find(|one| one["type"] == "event" && one["key"] == key);
        let id = &event.unwrap()["id"];
        // It comes after its event.
        let found =
            both.find(|one| one["id"] == *id && one["observer"] == *format!("default/{observer}"));
        let found = found.or_else(|| {
            lines.iter().find(|one| {
                one["type"] == "outcome"
                    && one["id"] == *id
                    && one["observer"] == *format!("default/{observer}")
            })
        });
        found.unwrap().clone()
    };
    assert_eq!(outcome("a", "large")["state"], "delivered");
    let rejected = outcome("a", "rejected");
    assert_eq!(rejected["state"], "deadLetter");
    assert!(
        rejected["error"].as_str().unwrap().contains("400"),
        "{rejected}"
    );
    assert_eq!(
        outcome("b", "large")["notMatched"],
        "`new.total > 1000` is false"
    );
    assert_eq!(
        outcome("c", "rejected")["notMatched"],
        "`new.total > 10` is false"
    );

    let lines = text
        .prints("three events, five outcomes", |lines| {
            (lines.len() >= 8).then(|| lines.to_vec())
        })
        .await;
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(
        has("  Insert    ") && has("  public.orders  a"),
        "{lines:?}"
    );
    assert!(has("default/large/post: delivered"), "{lines:?}");
    assert!(has("default/rejected/post: dead letter "), "{lines:?}");
    // Of `b` one observer matches; of `c` none does.
    let not_matched = lines.iter().filter(|line| line.contains("not matched"));
    assert_eq!(not_matched.count(), 2, "{lines:?}");

    let lines = letters
        .prints("two events with a dead letter", |lines| {
            (lines.len() >= 4).then(|| lines.to_vec())
        })
        .await;
    assert!(
        lines.iter().all(|line| !line.contains("delivered")),
        "{lines:?}"
    );
    let lines = large
        .prints("one event and its outcome", |lines| {
            (lines.len() >= 2).then(|| parsed(lines))
        })
        .await;
    assert_eq!(lines[0]["key"], "a");
    assert_eq!(lines[1]["observer"], "default/large");
    db.run("insert into orders values ('d', 2), ('e', 3000)")
        .await;
    let last = large
        .prints("the next", |lines| {
            (lines.len() >= 3).then(|| parsed(lines))
        })
        .await;
    assert_eq!(last[2]["key"], "e");
    process.stop().await;
    for tail in [&mut json, &mut text, &mut letters, &mut large] {
        assert_eq!(tail.interrupted().await.code(), Some(0), "{}", tail.said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_it_quietly() {
    let db = database().await;
    let mut child = Command::new(program())
        .args(["tail", "--since", "1h"])
        .env("OBSERVER_DATABASE_URL", &db.url)
        .env("RUST_LOG", "warn")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    db.run("select observer.emit('a', '{}')").await;
    let mut out = child.stdout.take().unwrap();
    let mut first = [0];
    comes("a line", out.read_exact(&mut first)).await.unwrap();
    drop(out);
    db.run("select observer.emit('b', '{}')").await;
    let ended = comes("its end", child.wait_with_output()).await.unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_cannot_match_are_refused() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (db, config) = shop(&sink).await;
    let file = config.path();
    let file = file.to_str().unwrap();
    for (args, told) in [
        (
            vec!["tail", "-f", file, "--observer", "nobody"],
            "it runs default/large, default/rejected",
        ),
        (
            vec!["tail", "--database-url", &db.url, "--observer", "large"],
            "-f FILE",
        ),
        (
            vec!["tail", "-f", file, "--since", "soon"],
            "2026-03-01T12:00:00Z",
        ),
    ] {
        let ended = command(&args).await;
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(ended.err.contains(told), "{}", ended.said());
    }
}
