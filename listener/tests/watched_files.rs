//! Files that change while `run -f` runs from them, what a first start says, and what `status` and
//! `jobs` say of what is not there.

use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, get, measures, ready};
use crate::support::program::command;
use crate::support::told::keys_of;
use crate::support::{TestDb, database, eventually};

async fn orders() -> TestDb {
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_taken_up_and_broken_ones_change_nothing() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("a", "public.orders", &sink.url("/a"), ""),
    );
    let mut process = Process::run(&config);
    process.says("running").await;
    let pid = process.pid();
    config.change("/a\"", "/b\"");
    process
        .says("configuration reloaded: observers replaced")
        .await;
    db.run("insert into orders values (1)").await;
    assert_eq!(keys_of(&sink, "/b", 1).await, ["1"]);

    config.change("operations: [Insert", "operations: [Inserted");
    process.says("configuration rejected").await;
    process.says("did you mean `Insert`?").await;
    db.run("insert into orders values (2)").await;
    assert_eq!(keys_of(&sink, "/b", 2).await, ["1", "2"]);

    config.change("operations: [Inserted", "operations: [Insert");
    config.change("  egress:", "  shards: 3\n  egress:");
    process
        .says("configuration reloaded: the listener has changed")
        .await;
    db.run("insert into orders values (3)").await;
    assert_eq!(keys_of(&sink, "/b", 3).await.len(), 3);
    eventually("three shards are worked on", async || {
        let shards: i64 = db
            .value("select count(*) from observer.checkpoint where shards = 3 and holder <> ''")
            .await;
        (shards == 3).then_some(())
    })
    .await;
    assert_eq!(process.pid(), pid);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_listener_has_metrics_of_its_own() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("a", "public.orders", &sink.url("/a"), ""),
    );
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    ready(&address, 200).await;
    config.change("name: test", "name: other");
    measures(&address, &["listener=\"default/other\""]).await;
    ready(&address, 200).await;
    db.run("insert into orders values (1)").await;
    assert_eq!(keys_of(&sink, "/a", 1).await, ["1"]);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_says_where_it_begins() {
    let db = orders().await;
    db.run("insert into orders values (1); insert into orders values (2)")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("a", "public.orders", &sink.url("/a"), ""),
    );
    let mut process = Process::run(&config);
    process
        .says("for the first time under this name, and begins with what the log holds: 2 events")
        .await;
    assert_eq!(keys_of(&sink, "/a", 2).await.len(), 2);
    process.stop().await;
    let mut process = Process::run(&config);
    process.says("running").await;
    assert!(!process.stop().await.contains("for the first time"));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_knows_who_is_gone_and_what_waits() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let slow = observer("a", "public.orders", &sink.url("/a"), "").replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 1h, maxBackoff: 1h",
    );
    let config = Config::new(&db.url, "  shards: 1\n", &slow);
    let mut process = Process::run(&config);
    process.says("running").await;
    db.run("insert into orders values (1), (2)").await;
    eventually("two jobs wait", async || {
        let jobs: i64 = db.value("select count(*) from observer.job").await;
        (jobs == 2).then_some(())
    })
    .await;
    let path = config.path();
    let path = path.to_str().unwrap();
    let alive = command(&["status", "-f", path]).await.ok();
    assert!(
        alive.contains("default/test: 1 shard, 1 process, 2 jobs, 0 dead letters"),
        "{alive}"
    );
    assert!(alive.contains("default/a"), "{alive}");
    assert!(!alive.contains("nobody"), "{alive}");
    process.kill().await;
    let dead = command(&["status", "-f", path]).await.ok();
    assert!(dead.contains("1 shard, 0 processes"), "{dead}");
    assert!(
        dead.contains("nobody: ") && dead.contains(" is gone"),
        "{dead}"
    );
    let json = command(&["status", "-o", "json", "-f", path]).await.ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["shards"][0]["ownerIsGone"], true, "{json}");
    assert_eq!(json[0]["jobs"]["default/a"]["pending"], 2, "{json}");

    for args in [&["list"][..], &["retry", "--all"]] {
        let args = [&["jobs"], args, &["-f", path, "--observer", "nobody"]].concat();
        let ended = command(&args).await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        assert!(
            ended.err.contains("there are default/a/post"),
            "{}",
            ended.said()
        );
    }
    let ended = command(&["dead-letters", "list", "-f", path, "--observer", "nobody"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let none = command(&["dead-letters", "list", "-f", path, "--observer", "a"]).await;
    assert_eq!(none.ok(), "no dead letters\n");
    db.run("update observer.job_queue set backend = 'Redis'")
        .await;
    let args = [
        "jobs",
        "list",
        "--listener",
        "test",
        "--database-url",
        &db.url,
    ];
    let ended = command(&args).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert!(
        ended.err.contains("are in Redis: name its files"),
        "{}",
        ended.said()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_an_observer_that_is_removed_go_away() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let stays = observer("stays", "public.orders", &sink.url("/stays"), "");
    let goes = observer("goes", "public.orders", &sink.url("/goes"), "");
    let config = Config::new(&db.url, "", &format!("{stays}{goes}"));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    db.run("insert into orders values (4711)").await;
    keys_of(&sink, "/stays", 1).await;
    keys_of(&sink, "/goes", 1).await;
    let counts = |text: &str, name: &str| {
        let label = format!("observer=\"default/{name}\"");
        let counted = |line: &str| {
            line.starts_with("observer_delivery_latency_seconds_count{") && line.contains(&label)
        };
        text.lines().any(counted)
    };
    let memory = "process_resident_memory_bytes{listener=\"default/test\"}";
    let text = measures(&address, &["observer_delivery_latency", memory]).await;
    assert!(!text.contains("4711"), "a key shows: {text}");
    eventually("both are counted", async || {
        let (_, text) = get(&address, "/metrics").await?;
        (counts(&text, "stays") && counts(&text, "goes")).then_some(())
    })
    .await;
    config.change(&goes, "");
    eventually("one is counted any more", async || {
        let (_, text) = get(&address, "/metrics").await?;
        (!text.contains("default/goes")).then_some(())
    })
    .await;
    let text = measures(&address, &["observer_matches_total"]).await;
    assert!(counts(&text, "stays"), "{text}");
    process.stop().await;
}
