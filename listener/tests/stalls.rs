//! Work that waits and does not get on: who asks is told of the shard and of the reason.

use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get, metric, ready, ready_with};
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{TestDb, database, eventually};

/// The shortest that may be asked for.
const STALLED_AFTER: &str = "  stalledAfter: 5s\n  delivery: {drainTimeout: 1s}\n";

/// A listener that answers on an address, and its files.
fn start(db: &TestDb, sink: &Sink) -> (Process, String, Config) {
    let config = Config::new(&db.url, STALLED_AFTER, &rows_to(sink, "/hook"));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    (process, address, config)
}

/// Rows, and a receiver that takes everything.
async fn rows() -> (TestDb, Sink) {
    let db = database().await;
    make_rows(&db.pool).await;
    (db, Sink::start(Behaviour::Ok).await.unwrap())
}

/// A listener that has told of a first change.
async fn at_work(db: &TestDb, sink: &Sink) -> (Process, String, Config) {
    let (mut process, address, files) = start(db, sink);
    process.says("running").await;
    change_rows(&db.pool, 1).await;
    all_told(sink, 1).await;
    (process, address, files)
}

/// Waits for a stalled shard with this reason, and returns the message of the first.
async fn stalled(address: &str, reason: &str) -> String {
    eventually(&format!("a shard that is stalled: {reason}"), async || {
        let (_, text) = get(address, "/status").await?;
        let status: Value = serde_json::from_str(&text).unwrap();
        let stalled = status["stalled"].as_array()?;
        let first = stalled.iter().find(|one| one["reason"] == reason)?;
        assert!(
            first["shard"].as_u64().is_some_and(|shard| shard < 8),
            "{text}"
        );
        Some(first["message"].as_str().unwrap().to_owned())
    })
    .await
}

/// Waits until nothing is stalled any more.
async fn heals(address: &str) {
    assert_eq!(ready(address, 200).await, "ready\n");
    eventually("no shard is stalled", async || {
        (metric(address, "observer_shards_stalled").await? < 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_is_named() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Hang).await.unwrap();
    let (process, address, _files) = start(&db, &sink);
    ready(&address, 200).await;
    change_rows(&db.pool, 2).await;
    let said = ready_with(&address, 503, "EndpointFailing").await;
    assert!(said.contains("shard "), "{said}");
    assert!(said.contains("default/kv"), "names the observer: {said}");
    eventually("stalled shards are counted", async || {
        (metric(&address, "observer_shards_stalled").await? > 0.0).then_some(())
    })
    .await;
    stalled(&address, "EndpointFailing").await;
    sink.behave(Behaviour::Ok);
    heals(&address).await;
    all_told(&sink, 2).await;
    process.stop().await;
}

/// A transaction that was left open with locks on the checkpoints.
async fn lock(db: &TestDb) -> (PgConnection, String) {
    let mut connection = db.connect().await;
    connection.execute("begin").await.unwrap();
    let lock = "select from observer.checkpoint for update";
    connection.execute(lock).await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    (connection, format!("process {pid} of user postgres"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_keeps_progress_from_being_saved_is_named() {
    let (db, sink) = rows().await;
    let (process, address, _files) = at_work(&db, &sink).await;
    let (connection, holder) = lock(&db).await;
    change_rows(&db.pool, 1).await;
    all_told(&sink, 2).await;
    let said = ready_with(&address, 503, &holder).await;
    assert!(said.contains("no checkpoint could be committed"), "{said}");
    // What waits behind it is told with the same reason, whatever it waits for itself.
    sink.behave(Behaviour::Hang);
    change_rows(&db.pool, 1).await;
    let said = stalled(&address, "BlockedByTransaction").await;
    assert!(said.contains(&holder), "{said}");
    connection.close().await.unwrap();
    sink.behave(Behaviour::Ok);
    heals(&address).await;
    assert_eq!(all_told(&sink, 3).await, 0, "nothing is repeated");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_keeps_shards_from_being_claimed_is_named() {
    let (db, sink) = rows().await;
    let (process, _, _files) = at_work(&db, &sink).await;
    process.stop().await;
    let (connection, holder) = lock(&db).await;
    change_rows(&db.pool, 1).await;
    let (mut process, address, _files) = start(&db, &sink);
    process.says("running").await;
    let said = stalled(&address, "BlockedByTransaction").await;
    assert!(said.contains(&holder), "{said}");
    ready(&address, 503).await;
    connection.close().await.unwrap();
    heals(&address).await;
    all_told(&sink, 2).await;
    process.stop().await;
}
