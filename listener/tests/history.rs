//! The history of events in Postgres: what the program writes of events and of what became of them.

mod elasticsearch;
mod jobs;
mod losses;

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};
use testkit::seed::seed;

use crate::support::fleet::{LONG_LEASE, SAVE_OFTEN, SHORT_LEASE, run_for_a_while};
use crate::support::listener::{Config, Process, observer, patient};
use crate::support::writers::{Writers, make_table};
use crate::support::{TestDb, database, eventually, while_progressing_or};

const SEARCH: &str = "  search: {postgres: {}, redact: [secret], maxLag: 1h}\n";

const BY_ID: &str = "select body from observer.search_document order by log_id";

async fn orders() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total numeric, secret text, traceparent text);
         select observer.track('orders')",
    )
    .await;
    db
}

/// All documents, in the order of the log.
async fn documents(db: &TestDb) -> Vec<Value> {
    let bodies: Vec<String> = sqlx::query_scalar(BY_ID).fetch_all(&db.pool).await.unwrap();
    let parse = |body: &String| serde_json::from_str(body).unwrap();
    bodies.iter().map(parse).collect()
}

/// The observer's first delivery of a document.
fn delivery<'a>(document: &'a Value, observer: &str) -> &'a Value {
    let name = format!("default/{observer}");
    let observers = document["observers"].as_array().into_iter().flatten();
    let found = observers.into_iter().find(|one| one["observer"] == *name);
    found.map_or(&Value::Null, |one| &one["deliveries"][0])
}

/// Waits until the events of the log have documents that are all final, and returns how many.
async fn all_final(db: &TestDb) -> i64 {
    let look = async || {
        let left: i64 = db
            .value(
                "select (select count(*) from observer.change_log l where not exists (
                     select from observer.search_document d where d.log_id = l.id))
                     + (select count(*) from observer.search_document where unfinished)",
            )
            .await;
        if left == 0 { Ok(()) } else { Err(left) }
    };
    while_progressing_or(look, async || {
        let left = look().await;
        let one = "select coalesce(max(left(body, 2000)), 'none') from observer.search_document where unfinished";
        let one: String = db.value(one).await;
        format!("all events have documents that are final, but {left:?}; of those that are unfinished: {one}")
    })
    .await;
    let counts: (i64, i64) = sqlx::query_as(
        "select (select count(*) from observer.change_log), (select count(*) from observer.search_document)",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(counts.0, counts.1, "as many documents as events");
    counts.1
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_tell_what_became_of_each_delivery() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let db = orders().await;
    sink.behave_at(
        "/flaky",
        Behaviour::FailFirst {
            times: 1,
            status: 503,
        },
    );
    sink.behave_at("/no", Behaviour::Status(400));
    let of =
        |name: &str, path: &str, more: &str| observer(name, "public.orders", &sink.url(path), more);
    let observers = [
        of("ok", "/ok", ""),
        of("flaky", "/flaky", ""),
        of("bad", "/no", ""),
        of("dropped", "/no", "  onFailure: Drop\n"),
        of("large", "/large", "  when: 'new.total > 1000'\n"),
    ];
    let config = Config::new(&db.url, SEARCH, &observers.concat());
    let process = Process::run(&config);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    db.run(&format!(
        "insert into orders values (1, 12345678901234567890.10, 'hunter2', '00-{trace}-00f067aa0ba902b7-01')"
    ))
    .await;
    db.run("update orders set total = 5, secret = 'hunter3' where id = 1")
        .await;
    assert_eq!(all_final(&db).await, 2);
    // What was reported before an event was read is a document too, until that is merged with it.
    let all = eventually(
        "the documents have all observers, and ids of dead letters",
        async || {
            let all = documents(&db).await;
            let whole = |one: &Value| {
                let known = one["observers"].as_array().map_or(0, Vec::len);
                known == observers.len() && delivery(one, "bad")["deadLetter"].is_i64()
            };
            all.iter().all(whole).then_some(all)
        },
    )
    .await;
    process.stop().await;
    let (first, second) = (&all[0], &all[1]);

    assert_eq!(first["operation"], "Insert");
    assert_eq!(
        (&first["key"], &first["traceId"]),
        (&"1".into(), &trace.into())
    );
    assert!(
        first.to_string().contains("12345678901234567890.10"),
        "{first}"
    );
    assert_eq!(second["changed"], serde_json::json!(["secret", "total"]));

    let ok = delivery(first, "ok");
    assert_eq!(
        (&ok["state"], &ok["attempts"]),
        (&"delivered".into(), &1.into())
    );
    assert!(
        ok["history"][0]["tookMs"].is_u64() && ok["history"][0]["error"].is_null(),
        "{ok}"
    );
    let received = sink.received();
    let id = &received
        .iter()
        .find(|one| one.target() == "/ok")
        .unwrap()
        .webhook_id;
    assert_eq!(ok["delivery"], id.as_str());

    let flaky = delivery(first, "flaky");
    assert_eq!(
        (&flaky["state"], &flaky["attempts"]),
        (&"delivered".into(), &2.into()),
        "{flaky}"
    );
    assert_eq!(flaky["history"].as_array().unwrap().len(), 2, "{flaky}");
    assert_eq!(flaky["history"][0]["status"], 503);
    assert_eq!(flaky["history"][0]["kind"], "status");
    assert!(flaky["job"].is_null() && flaky["dueAt"].is_null() && flaky["detailsLost"].is_null());

    let no = delivery(first, "bad");
    assert_eq!(no["state"], "deadLetter");
    let letter = format!(
        "select id from observer.dead_letter where event_id = '{}'",
        first["id"].as_str().unwrap()
    );
    assert_eq!(no["deadLetter"], db.value::<i64>(&letter).await);
    assert_eq!(no["history"][0]["status"], 400);
    assert_eq!(delivery(first, "dropped")["state"], "dropped");

    assert_eq!(delivery(first, "large")["state"], "delivered");
    let large = second["observers"].as_array().unwrap();
    let large = large
        .iter()
        .find(|one| one["observer"] == "default/large")
        .unwrap();
    assert_eq!(large["notMatched"], "`new.total > 1000` is false");
    assert!(large["deliveries"].is_null());

    let told: i64 = db
        .value("select count(*) from observer.search_document d where d::text like '%hunter%'")
        .await;
    assert_eq!(told, 0, "a redacted column is nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_job_is_told_and_its_end() {
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let db = orders().await;
    let observers = observer("down", "public.orders", &sink.url("/"), "").replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 1h, maxBackoff: 1h",
    );
    let config = Config::new(&db.url, SEARCH, &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (1, 1, 's', null)").await;
    let waiting = eventually("the delivery is to be retried", async || {
        let all = documents(&db).await;
        let down = delivery(all.first()?, "down").clone();
        (down["state"] == "retrying").then_some(down)
    })
    .await;
    assert!(waiting["dueAt"].is_string(), "{waiting}");
    assert_eq!(waiting["history"][0]["status"], 503);
    let job: String = db.value("select dedup_key from observer.job").await;
    assert_eq!(waiting["job"], job.as_str());
    process.stop().await;

    // Nobody reports what happens to it now.
    db.run("select observer.job_cancel('default/test', null, null, null, null, null, 10)")
        .await;
    let process = Process::run(&config);
    assert_eq!(all_final(&db).await, 1);
    process.stop().await;
    let all = documents(&db).await;
    let down = delivery(&all[0], "down");
    assert_eq!(
        (&down["state"], &down["attempts"]),
        (&"completed".into(), &1.into())
    );
    assert_eq!(down["detailsLost"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_begins_later_takes_up_what_the_log_holds() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/no", Behaviour::Status(400));
    let db = orders().await;
    let observers = [
        observer("ok", "public.orders", &sink.url("/ok"), ""),
        observer("bad", "public.orders", &sink.url("/no"), ""),
    ];
    let config = Config::new(&db.url, SAVE_OFTEN, &observers.concat());
    let process = Process::run(&config);
    db.run("insert into orders select n, n, 's', null from generate_series(1, 700) n")
        .await;
    crate::support::all_is_behind(&db).await;
    process.stop().await;
    let none = "select (select count(*) from observer.search_document) + (select count(*) from observer.search_position)";
    assert_eq!(
        db.value::<i64>(none).await,
        0,
        "nothing without spec.search"
    );

    config.change("  checkpoint:", &format!("{SEARCH}  checkpoint:"));
    let process = Process::run(&config);
    assert_eq!(all_final(&db).await, 700);
    process.stop().await;
    for document in documents(&db).await {
        let ok = delivery(&document, "ok");
        assert_eq!(
            (&ok["state"], &ok["detailsLost"]),
            (&"delivered".into(), &true.into())
        );
        let no = delivery(&document, "bad");
        assert_eq!(
            (&no["state"], &no["detailsLost"]),
            (&"deadLetter".into(), &Value::Null)
        );
        assert!(
            no["deadLetter"].is_i64() && no["history"][0]["status"] == 400,
            "{no}"
        );
    }
    let positions = "select count(*) from observer.search_position";
    assert!(db.value::<i64>(positions).await > 0);

    config.change(SEARCH, "");
    let mut process = Process::run(&config);
    process.says("running").await;
    process.stop().await;
    assert_eq!(
        db.value::<i64>(positions).await,
        0,
        "the log waits for no history any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_under_load_leave_each_event_a_final_document() {
    const KILLS: usize = 6;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::FailShare {
        per_mille: 50,
        seed,
        status: 503,
    })
    .await
    .unwrap();
    let spec = format!("{LONG_LEASE}{SAVE_OFTEN}{SEARCH}");
    let observers = patient(&observer("kv", "public.kv", &sink.url("/hook"), ""));
    let config = Config::new(&db.url, &spec, &observers);
    let writers = Writers::start(&db.url, 4, seed);
    for _ in 0..KILLS {
        let process = run_for_a_while(&config, &sink, &mut random).await;
        process.kill().await;
    }
    writers.stop().await;
    let process = Process::run(&config);
    let events = all_final(&db).await;
    process.stop().await;
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for document in documents(&db).await {
        let kv = delivery(&document, "kv");
        let lost = if kv["detailsLost"] == true {
            " without details"
        } else {
            ""
        };
        let state = kv["state"].as_str().unwrap_or("none");
        *states.entry(format!("{state}{lost}")).or_default() += 1;
    }
    println!("{KILLS} kills, {events} events: {states:?}");
    let delivered = states.get("delivered").copied().unwrap_or_default();
    assert!(delivered > 0, "{states:?}");
    assert!(
        states
            .keys()
            .all(|state| state.starts_with("delivered") || state.starts_with("completed"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resharding_leaves_out_no_event() {
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let spec = format!("{SHORT_LEASE}{SAVE_OFTEN}{SEARCH}  shards: 3\n");
    let observers = patient(&observer("kv", "public.kv", &sink.url("/hook"), ""));
    let config = Config::new(&db.url, &spec, &observers);
    let writers = Writers::start(&db.url, 2, seed());
    let mut from = 3;
    for shards in [5, 2, 4] {
        let before = sink.counts().requests;
        let process = Process::run(&config);
        sink.arrived(before + 200).await;
        process.kill().await;
        config.change(&format!("shards: {from}"), &format!("shards: {shards}"));
        from = shards;
    }
    writers.stop().await;
    let process = Process::run(&config);
    all_final(&db).await;
    process.stop().await;
    let positions: i64 = db
        .value("select count(*) from observer.search_position")
        .await;
    assert_eq!(positions, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn index_that_is_away_delays_no_delivery_and_is_caught_up() {
    let db = database().await;
    make_table(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let spec = format!("{LONG_LEASE}{SAVE_OFTEN}{SEARCH}");
    let observers = patient(&observer("kv", "public.kv", &sink.url("/hook"), ""));
    let config = Config::new(&db.url, &spec, &observers);
    let mut process = Process::run(&config);
    let writers = Writers::start(&db.url, 4, seed());
    sink.arrived(200).await;
    db.run("alter table observer.search_document rename to gone")
        .await;
    process.says("cannot write documents of the history").await;
    let during = sink.counts().requests;
    sink.arrived(during + 500).await;
    let without: i64 = db
        .value(
            "select count(*) from observer.change_log l
             where not exists (select from observer.gone d where d.log_id = l.id)",
        )
        .await;
    assert!(without >= 400, "{without} events have no document yet");
    db.run("alter table observer.gone rename to search_document")
        .await;
    process
        .says("documents of the history are written again")
        .await;
    writers.stop().await;
    all_final(&db).await;
    process.stop().await;
    let lost = documents(&db).await;
    let lost = lost
        .iter()
        .filter(|one| delivery(one, "kv")["detailsLost"] == true)
        .count();
    assert_eq!(lost, 0, "the reports of so few deliveries had room");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_alone_tell_nothing_of_deliveries() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let db = orders().await;
    let observers = observer("ok", "public.orders", &sink.url("/ok"), "");
    let spec = "  search: {postgres: {}, documents: Events}\n";
    let config = Config::new(&db.url, spec, &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (1, 1, 's', null)").await;
    assert_eq!(all_final(&db).await, 1);
    sink.arrived(1).await;
    process.stop().await;
    let all = documents(&db).await;
    assert!(all[0]["observers"].is_null() && all[0]["new"]["secret"] == "s");
}
