//! Processes of one listener that run different files: the older ones stand by, and no event meets them.

use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process, observer};
use crate::support::program::command;
use crate::support::told::keys_of;
use crate::support::{TestDb, database, eventually};

async fn orders() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id int primary key); create table bills (id int primary key);
         select observer.track('orders'); select observer.track('bills')",
    )
    .await;
    db
}

/// Observers of orders, with one of bills beside it in newer files.
fn files(db: &TestDb, sink: &Sink, with_bills: bool) -> Config {
    let mut observers = observer("orders", "public.orders", &sink.url("/orders"), "");
    if with_bills {
        observers += &observer("bills", "public.bills", &sink.url("/bills"), "");
    }
    Config::new(&db.url, "", &observers)
}

#[tokio::test(flavor = "multi_thread")]
async fn process_with_older_files_stands_by() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let old = files(&db, &sink, false);
    let mut older = Process::run(&old);
    older.says("running").await;
    let new = files(&db, &sink, true);
    let newer = Process::run(&new);
    older
        .says("this process stands by, since its observers are older than those that")
        .await;
    for id in 1..=40 {
        db.run(&format!(
            "insert into orders values ({id}); insert into bills values ({id})"
        ))
        .await;
    }
    assert_eq!(keys_of(&sink, "/bills", 40).await.len(), 40);
    assert_eq!(keys_of(&sink, "/orders", 40).await.len(), 40);

    // Both are shown, and which of them is behind.
    let status = ["status", "--listener", "test", "--database-url", &db.url];
    let shown = command(&status).await.ok();
    assert!(shown.contains("OUTDATED SINCE"), "{shown}");

    // Given the same files, it takes part again.
    std::fs::copy(new.path(), old.path()).unwrap();
    eventually("both work", async || {
        let holders = "select count(distinct holder) from observer.checkpoint where holder <> ''";
        (db.value::<i64>(holders).await == 2).then_some(())
    })
    .await;
    newer.stop().await;
    older.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_are_known_as_older_when_run_again() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (old, new) = (files(&db, &sink, false), files(&db, &sink, true));
    let mut process = Process::run(&old);
    process.says("running").await;
    process.stop().await;
    let mut newer = Process::run(&new);
    newer.says("running").await;
    // It never joins.
    let mut older = Process::run(&old);
    older.says("this process stands by").await;
    db.run("insert into bills values (1)").await;
    assert_eq!(keys_of(&sink, "/bills", 1).await, ["1"]);
    // Where nobody runs the newer ones, these are what is to be run: as after a rollback. A process of
    // this machine that was killed is not waited for.
    newer.kill().await;
    older.says("running").await;
    db.run("insert into orders values (7)").await;
    assert!(keys_of(&sink, "/orders", 1).await.contains(&"7".to_owned()));
    older.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_with_older_files_stand_by() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (old, new) = (files(&db, &sink, false), files(&db, &sink, true));
    let worker = ["worker", "--listen", "off", "-f"];
    let mut older = Process::start(&worker, &old.path());
    older.says("working on jobs").await;
    let mut newer = Process::start(&worker, &new.path());
    newer.says("working on jobs").await;
    older.says("this process stands by").await;
    newer.stop().await;
    eventually("the older one works again", async || {
        (older.said().matches("working on jobs").count() == 2).then_some(())
    })
    .await;
    older.stop().await;
}
