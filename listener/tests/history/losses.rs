//! What is lost on the way is made good: reports without room, positions that were not saved, databases
//! that were restored. And what is old goes.

use testkit::http_sink::{Behaviour, Sink};

use super::{SEARCH, all_final, delivery, documents, orders};
use crate::support::fleet::SAVE_OFTEN;
use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, metric};
use crate::support::program::command;
use crate::support::{TestDb, all_is_behind, eventually};

/// Waits until there are so many documents.
async fn documents_amount_to(db: &TestDb, count: i64) {
    eventually(&format!("{count} documents"), async || {
        let now: i64 = db
            .value("select count(*) from observer.search_document where not unfinished")
            .await;
        (now == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_without_room_are_made_good_by_the_sweep() {
    let db = orders().await;
    db.run("create table large (id int primary key, text text); select observer.track('large')")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/flaky", Behaviour::Status(503));
    let patient = observer("flaky", "public.orders", &sink.url("/flaky"), "").replace(
        "attempts: 20, initialBackoff: 20ms, maxBackoff: 200ms",
        "attempts: 100, initialBackoff: 500ms, maxBackoff: 2s",
    );
    let observers = [
        patient,
        observer("large", "public.large", &sink.url("/large"), ""),
    ];
    let config = Config::new(
        &db.url,
        &format!("{SAVE_OFTEN}{SEARCH}"),
        &observers.concat(),
    );
    let address = free_address();
    let mut process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    // Where none of `large` has room, none of these has.
    db.run(
        "insert into orders select n, n, repeat('s', 200000), null from generate_series(1, 5) n",
    )
    .await;
    eventually("all deliveries are known as retried", async || {
        let all = documents(&db).await;
        let retried = |one: &&serde_json::Value| delivery(one, "flaky")["state"] == "retrying";
        (all.iter().filter(retried).count() == 5).then_some(())
    })
    .await;
    db.run("alter table observer.search_document rename to gone")
        .await;
    // Of so large events the buffer holds some hundred reports.
    db.run("insert into large select n, repeat('x', 100000) from generate_series(1, 700) n")
        .await;
    process.says("cannot write documents of the history").await;
    let dropped = "observer_search_reports_dropped_total";
    eventually("reports are dropped", async || {
        (metric(&address, dropped).await? > 0.0).then_some(())
    })
    .await;
    sink.behave_at("/flaky", Behaviour::Ok);
    all_is_behind(&db).await;
    eventually("the end of the jobs", async || {
        let left: i64 = db.value("select count(*) from observer.job").await;
        (left == 0).then_some(())
    })
    .await;
    db.run("alter table observer.gone rename to search_document")
        .await;
    assert_eq!(all_final(&db).await, 705);
    let repaired = metric(&address, "observer_search_unfinished_repaired_total").await;
    let dropped = metric(&address, dropped).await;
    process.stop().await;
    println!("{dropped:?} reports were dropped, {repaired:?} documents were repaired");
    assert!(repaired >= Some(1.0), "{repaired:?}");
    let all = documents(&db).await;
    for document in &all[..5] {
        let flaky = delivery(document, "flaky");
        // It depends on whether the finished job is still kept.
        let state = flaky["state"].as_str().unwrap();
        assert!(["delivered", "completed"].contains(&state), "{document}");
        assert_eq!(flaky["detailsLost"], true, "{document}");
    }
    for document in &all[5..] {
        assert_eq!(delivery(document, "large")["state"], "delivered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn position_that_could_not_be_saved_is_saved_without_further_events() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("ok", "public.orders", &sink.url("/"), "");
    let config = Config::new(&db.url, &format!("{SAVE_OFTEN}{SEARCH}"), &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (1, 1, 's', null)").await;
    documents_amount_to(&db, 1).await;
    db.run(
        "create sequence refused;
         create function refuse() returns trigger language plpgsql as
             $$begin perform nextval('public.refused'); raise 'not now'; end$$;
         create trigger refuse before update on observer.search_position for each row execute function refuse()",
    )
    .await;
    db.run("insert into orders values (2, 2, 's', null)").await;
    documents_amount_to(&db, 2).await;
    // More than one save: none takes what the first one has not saved with it.
    eventually("refused saves", async || {
        let refused: i64 = db.value("select last_value from refused").await;
        (refused >= 2).then_some(())
    })
    .await;
    db.run("drop trigger refuse on observer.search_position")
        .await;
    eventually("the positions are past all events", async || {
        let behind: i64 = db
            .value(
                "select count(*) from observer.change_log l, observer.search_position p
                 where l.hash % p.shards = p.shard and not pg_visible_in_snapshot(l.xid, p.base_snapshot)
                     and (p.window_snapshot is null or l.id > p.last_id
                         or not pg_visible_in_snapshot(l.xid, p.window_snapshot))",
            )
            .await;
        (behind == 0).then_some(())
    })
    .await;
    process.stop().await;
}

/// Stops at a database with 3 events and their documents, and gives a copy of it, as a restore does.
async fn restored() -> (Config, TestDb, Sink, TestDb) {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("ok", "public.orders", &sink.url("/"), "");
    let config = Config::new(&db.url, &format!("{SAVE_OFTEN}{SEARCH}"), &observers);
    let process = Process::run(&config);
    db.run("insert into orders select n, n, 's', null from generate_series(1, 3) n")
        .await;
    assert_eq!(all_final(&db).await, 3);
    all_is_behind(&db).await;
    process.stop().await;
    // A template may have no connections.
    db.pool.close().await;
    let name = db.url.rsplit('/').next().unwrap();
    let copy = TestDb::of_template(name, async |_| unreachable!("it is there")).await;
    config.change(&db.url, &copy.url);
    (config, copy, sink, db)
}

/// Documents by the name of the log that their events are of, in the order of their states.
const BY_LOG: &str = "select string_agg(format('%s %s', count, state), ', ' order by count, state) from (
    select count(*), split_part(d.id, '-', 1) = left(i.id::text, 8) as state
    from observer.search_document d, observer.log_identity i where not unfinished group by 2) found";

#[tokio::test(flavor = "multi_thread")]
async fn restored_database_adds_documents_of_what_is_delivered_again() {
    let (config, db, sink, _original) = restored().await;
    let path = config.path();
    let mut refused = Process::run(&config);
    refused.says("reset-position").await;
    refused.kill().await;
    let reset = ["reset-position", "--yes", "-f", path.to_str().unwrap()];
    command(&reset).await.ok();
    let process = Process::run(&config);
    db.run("insert into orders values (4, 4, 's', null)").await;
    // Events have other ids from now on: those of before keep their documents, and stay as they are.
    documents_amount_to(&db, 7).await;
    process.stop().await;
    assert_eq!(db.value::<String>(BY_LOG).await, "3 f, 4 t");
    assert_eq!(sink.counts().succeeded, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_database_tells_nothing_of_events_that_are_skipped() {
    let (config, db, sink, _original) = restored().await;
    db.run("insert into orders values (4, 4, 's', null)").await;
    let path = config.path();
    let file = ["-f", path.to_str().unwrap()];
    let reset = [&["reset-position", "--to", "latest", "--yes"][..], &file].concat();
    command(&reset).await.ok();
    let process = Process::run(&config);
    db.run("insert into orders values (5, 5, 's', null)").await;
    documents_amount_to(&db, 4).await;
    sink.arrived(4).await;
    process.stop().await;
    assert_eq!(db.value::<String>(BY_LOG).await, "1 t, 3 f");
    let newest = documents(&db).await.pop().unwrap();
    assert_eq!(newest["key"], "5", "{newest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_older_than_retention_go() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("ok", "public.orders", &sink.url("/"), "");
    let spec = SEARCH.replace("maxLag", "retention: 1h, maxLag");
    let config = Config::new(&db.url, &format!("{SAVE_OFTEN}{spec}"), &observers);
    let process = Process::run(&config);
    db.run("insert into orders select n, n, 's', null from generate_series(1, 2500) n")
        .await;
    assert_eq!(all_final(&db).await, 2500);
    all_is_behind(&db).await;
    process.stop().await;
    db.run(
        "update observer.search_document set occurred_at = occurred_at - interval '61 min'
         where (body::json ->> 'key')::int > 1",
    )
    .await;
    let process = Process::run(&config);
    documents_amount_to(&db, 1).await;
    process.stop().await;
    assert_eq!(documents(&db).await[0]["key"], "1");
}
