//! How many connections a process opens, and what it says where there are too few.

use sqlx::{Connection, PgConnection};
use testkit::http_sink::{Behaviour, Sink};

use crate::odd_roles::role;
use crate::support::listener::{Config, Process, observer};
use crate::support::program::command;
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{database, empty_database, eventually};

/// As docs/how-to/operate.md has it.
const MOST: i64 = 9;

#[tokio::test(flavor = "multi_thread")]
async fn a_process_opens_no_more_connections_than_is_written() {
    let written = include_str!("../../docs/how-to/operate.md");
    assert!(written.contains(&format!("at most {MOST} connections")));
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/down", Behaviour::Status(503));
    let down = observer("down", "public.kv", &sink.url("/down"), "");
    let config = Config::new(&db.url, "", &(rows_to(&sink, "/hook") + &down));
    let process = Process::run(&config);
    let now = "select count(*) from pg_stat_activity
               where datname = current_database() and application_name like 'observer-listener%'";
    let mut most = 0;
    for _ in 0..20 {
        change_rows(&db.pool, 1).await;
        most = most.max(db.value(now).await);
    }
    eventually("deliveries", async || {
        (sink.counts().succeeded > 0).then_some(())
    })
    .await;
    most = most.max(db.value(now).await);
    assert!((1..=MOST).contains(&most), "{most}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_connections_are_told_as_such() {
    let db = empty_database().await;
    let url = role(&db, "odd_and_few").await;
    command(&["migrate", "--database-url", &url]).await.ok();
    make_rows(&db.pool).await;
    db.run("alter role odd_and_few connection limit 1").await;
    let only = PgConnection::connect(&url).await.unwrap();
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&url, "", &rows_to(&sink, "/hook"));
    let mut process = Process::run(&config);
    let status = process.ends().await;
    let said = process.said();
    assert_eq!(status.code(), Some(1), "{said}");
    for text in [
        "too many connections for role",
        "connection limit of the role",
        "each needs 9",
    ] {
        assert!(said.contains(text), "{said}");
    }
    only.close().await.unwrap();
    db.run("alter role odd_and_few connection limit 9").await;
    let process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    process.stop().await;
    db.run("drop owned by odd_and_few cascade; drop role odd_and_few")
        .await;
}
