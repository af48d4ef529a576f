//! A listener's life: it starts and is stopped, and its database goes away and comes back.

use std::time::Duration;

use testkit::http_sink::{Behaviour, Sink};

use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process, observer, patient};
use crate::support::probe::{free_address, get, measures, ready};
use crate::support::program::command;
use crate::support::rows::{all_told, at, change_rows, make_rows, rows_to};
use crate::support::told::{keys_of, told};
use crate::support::{database, eventually, eventually_or, own_server};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_under_way() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Hold).await.unwrap();
    // More shards than rows, so that some have nothing under way.
    let spec = format!("{LONG_LEASE}  shards: 16\n  delivery: {{drainTimeout: 5m}}\n");
    let config = Config::new(&db.url, &spec, &patient(&rows_to(&sink, "/hook")));
    let mut process = Process::run(&config);
    change_rows(&db.pool, 2).await;
    sink.arrived(10).await;
    process.signal("TERM").await;
    // One of those with nothing under way; the others take in nothing more by then.
    process.says("shard lease released").await;
    sink.behave(Behaviour::Ok);
    process.ends_well().await;
    assert_eq!(sink.counts().succeeded, 10, "finished, and no more begun");
    let process = Process::run(&config);
    assert_eq!(all_told(&sink, 2).await, 0, "nothing is repeated");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_cannot_save_says_so() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, LONG_LEASE, &rows_to(&sink, "/hook"));
    let mut process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    let mut other = db.connect().await;
    for statement in ["begin", "lock table observer.checkpoint in exclusive mode"] {
        sqlx::query(statement).execute(&mut other).await.unwrap();
    }
    change_rows(&db.pool, 1).await;
    all_told(&sink, 2).await;
    process.signal("TERM").await;
    process.ends().await;
    let said = process.said();
    assert!(said.contains("could not save"), "{said}");
    assert!(!said.contains("all that was finished is saved"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listener_reads_and_what_fails_is_told() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let observers = rows_to(&sink, "/hook-secret").replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 24h, maxBackoff: 24h",
    );
    let config = Config::new(&db.url, LONG_LEASE, &observers);
    let args = ["run", "--listen", "127.0.0.1:0", "-f"];
    let mut process = Process::start(&args, &config.path());
    process.says("metrics=\"http://127.0.0.1:").await;
    process.says("entity=\"public.kv\"").await;
    process.says("database=").await;
    change_rows(&db.pool, 1).await;
    process.says("an attempt failed").await;
    sink.arrived(10).await;
    process.signal("TERM").await;
    let said = process.ends_well().await;
    for part in [
        "observer=\"default/kv\"",
        "action=\"post\"",
        &format!("receiver=\"{}\"", sink.url("")),
        "status=503",
        "attempt=1",
        "of=20",
        "next_attempt=",
    ] {
        let failed = |line: &str| line.contains("an attempt failed") && line.contains(part);
        assert!(said.lines().any(failed), "{part} is not told:\n{said}");
    }
    assert!(!said.contains("hook-secret"), "{said}");
    let told = said.matches("an attempt failed").count();
    assert_eq!(told, 5, "the first ones are told, and not all:\n{said}");
    assert!(
        !said.contains('\x1b'),
        "a file is to have no colours: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_delays_a_stop_no_longer_than_it_may() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/hangs", Behaviour::Hang);
    let observers =
        rows_to(&sink, "/fine") + &observer("hangs", "public.kv", &sink.url("/hangs"), "");
    // It is the stop that cuts an attempt off, and nothing else.
    let observers = patient(&observers);
    let config = Config::new(&db.url, "  delivery: {drainTimeout: 1s}", &observers);
    let mut process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    sink.arrived(20).await;
    process.signal("TERM").await;
    process.ends_well().await;
    assert!(process.said().contains("cutting off"), "{}", process.said());
    let hung: Vec<String> = sink
        .received()
        .iter()
        .map(|one| one.webhook_id.clone())
        .collect();
    sink.behave_at("/hangs", Behaviour::Ok);
    let process = Process::run(&config);
    keys_of(&sink, "/hangs", 10).await;
    process.stop().await;
    assert_eq!(at(&sink, "/fine"), 10, "what was done is not repeated");
    let again = told(&sink).into_iter().filter(|one| one.path == "/hangs");
    assert!(
        again.map(|one| one.id).all(|id| hung.contains(&id)),
        "the ids stay"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_how_it_is() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &rows_to(&sink, "/hook"));
    let address = free_address();
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    assert_eq!(ready(&address, 200).await, "ready\n");
    change_rows(&db.pool, 3).await;
    all_told(&sink, 3).await;
    assert_eq!(
        get(&address, "/healthz").await,
        Some((200, "ok\n".to_owned()))
    );
    let counted = [
        "observer_events_total{listener=\"default/test\"} 30\n",
        "outcome=\"success\",listener=\"default/test\"} 30\n",
    ];
    let metrics = measures(&address, &counted).await;
    for line in metrics.lines() {
        let name = line
            .trim_start_matches("# HELP ")
            .trim_start_matches("# TYPE ");
        assert!(
            ["observer_", "process_"]
                .iter()
                .any(|own| name.starts_with(own)),
            "{line}"
        );
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_database_outage_is_reported_and_heals() {
    let (server, pool) = own_server().await;
    make_rows(&pool).await;
    let sink = Sink::start(Behaviour::Delay(Duration::from_millis(5)))
        .await
        .unwrap();
    // However long the server takes to come back, nobody else gets the shards.
    let url = server.url("postgres");
    let config = Config::new(&url, LONG_LEASE, &patient(&rows_to(&sink, "/hook")));
    let address = free_address();
    let mut process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    ready(&address, 200).await;
    // It is ready a moment before all that starts with it is at work.
    process.says("joined the fleet").await;
    change_rows(&pool, 20).await;
    pool.close().await;
    server.stop().await.unwrap();
    eventually_or(
        async || {
            let (status, reason) = get(&address, "/readyz").await?;
            let known = ["the change log could not be read", "no checkpoint"];
            (status == 503 && known.iter().any(|known| reason.contains(known))).then_some(())
        },
        async || {
            format!(
                "/readyz says what is wrong: {:?}",
                get(&address, "/readyz").await
            )
        },
    )
    .await;
    assert_eq!(get(&address, "/healthz").await.unwrap().0, 200);
    server.resume().await.unwrap();
    ready(&address, 200).await;
    let pool = testkit::database::pool(&server.url("postgres")).await;
    change_rows(&pool, 2).await;
    assert_eq!(all_told(&sink, 22).await, 0, "nothing is repeated");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_crashes_loses_nothing() {
    let (server, pool) = own_server().await;
    make_rows(&pool).await;
    let sink = Sink::start(Behaviour::Delay(Duration::from_millis(5)))
        .await
        .unwrap();
    let config = Config::new(&server.url("postgres"), "", &rows_to(&sink, "/hook"));
    let mut process = Process::run(&config);
    process.says("running").await;
    pool.close().await;
    let mut v = 0;
    for _ in 0..2 {
        let pool = testkit::database::pool(&server.url("postgres")).await;
        change_rows(&pool, 20).await;
        v += 20;
        pool.close().await;
        server.crash().await.unwrap();
        server.resume().await.unwrap();
    }
    all_told(&sink, v).await;
    // All may have been told before the crash. A stop ends well once the shards are claimed in the
    // life of the server that followed, which leaves this row.
    let pool = testkit::database::pool(&server.url("postgres")).await;
    eventually("the shards are claimed again", async || {
        let lives =
            sqlx::query_scalar::<_, i64>("select count(*) from observer.server_incarnation");
        (lives.fetch_one(&pool).await.unwrap() == 1).then_some(())
    })
    .await;
    pool.close().await;
    process.stop().await;
}

/// The ids and rows of what was delivered.
fn delivered(sink: &Sink) -> Vec<(String, i64)> {
    let received = sink.received();
    let read = received.iter().map(|one| {
        let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
        (one.webhook_id.clone(), body["new"]["id"].as_i64().unwrap())
    });
    read.collect()
}

/// With `synchronous_commit = off` a crash loses what was committed and delivered, and the log's sequence
/// goes back: receivers must be able to tell the events that get the same numbers again.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_crash_loses_leaves_its_id_to_no_other() {
    let (server, pool) = own_server().await;
    for statement in [
        "alter system set wal_writer_delay = '10s'",
        "alter database postgres set synchronous_commit = off",
        "create table t (id int primary key)",
        "select observer.track('t')",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    pool.close().await;
    server.stop().await.unwrap();
    server.resume().await.unwrap();
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hook = observer("t", "public.t", &sink.url("/hook"), "");
    let config = Config::new(&server.url("postgres"), "", &hook);
    let process = Process::run(&config);
    // Until a number was given twice: a commit may reach the disk by chance.
    let mut numbers = Vec::new();
    for id in 0_i64.. {
        assert!(
            id < 20,
            "nothing that was delivered is ever lost: {numbers:?}"
        );
        let pool = testkit::database::pool(&server.url("postgres")).await;
        sqlx::query("checkpoint").execute(&pool).await.unwrap();
        sqlx::query("insert into t values ($1)")
            .bind(id)
            .execute(&pool)
            .await
            .unwrap();
        let number: i64 =
            sqlx::query_scalar("select id from observer.change_log order by id desc limit 1")
                .fetch_one(&pool)
                .await
                .unwrap();
        // Those before it may arrive once more.
        eventually("this one is delivered", async || {
            delivered(&sink)
                .iter()
                .any(|(_, of)| *of == id)
                .then_some(())
        })
        .await;
        pool.close().await;
        let again = numbers.contains(&number);
        numbers.push(number);
        if again {
            break;
        }
        server.crash().await.unwrap();
        server.resume().await.unwrap();
    }
    let mut ids = delivered(&sink);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), numbers.len(), "an id for each event: {ids:?}");
    ids.dedup_by(|one, other| one.0 == other.0);
    assert_eq!(
        ids.len(),
        numbers.len(),
        "and an event for each id: {ids:?}"
    );
    process.stop().await;
}

/// Recovery from a crash empties this unlogged table; here nothing else happens with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_life_of_the_server_is_begun_from_the_checkpoints() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &rows_to(&sink, "/hook"));
    let mut process = Process::run(&config);
    change_rows(&db.pool, 5).await;
    all_told(&sink, 5).await;
    db.run("truncate observer.server_incarnation").await;
    process.says("resuming from the last checkpoint").await;
    change_rows(&db.pool, 5).await;
    all_told(&sink, 10).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_holds_up_its_own_observer_only() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/dead", Behaviour::Hang);
    let observers =
        observer("dead", "public.kv", &sink.url("/dead"), "") + &rows_to(&sink, "/live");
    let spec = "  delivery: {maxConcurrency: 4, drainTimeout: 100ms}";
    // All that the live one is told comes before any attempt times out.
    let config = Config::new(&db.url, spec, &patient(&observers));
    let process = Process::run(&config);
    change_rows(&db.pool, 50).await;
    assert_eq!(all_told(&sink, 50).await, 0, "nothing is repeated");
    process.stop().await;
}

/// Runs a listener that must refuse to start, and returns what it said.
async fn refused(config: &Config) -> String {
    let mut process = Process::run(config);
    let status = process.ends().await;
    assert_eq!(status.code(), Some(1), "{}", process.said());
    process.said()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_cannot_be_right_is_refused_with_the_remedy() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &rows_to(&sink, "/hook"));
    let process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    process.stop().await;
    let rows = "select string_agg(c::text, ' ' order by shard) from observer.checkpoint c";

    for wrong in [
        "system_identifier = 1",
        "database_oid = 1",
        "base_snapshot = '4000000000:4000000000:', window_snapshot = null, window_low_id = null, window_high_id = null, last_id = 0",
        "base_high_id = 4000000000",
    ] {
        db.run(&format!("update observer.checkpoint set {wrong}"))
            .await;
        let before: String = db.value(rows).await;
        let said = refused(&config).await;
        assert!(said.contains("observer-listener reset-position"), "{said}");
        assert_eq!(
            db.value::<String>(rows).await,
            before,
            "nothing was changed"
        );
        let file = config.path();
        let args = [
            "reset-position",
            "--to",
            "latest",
            "-f",
            file.to_str().unwrap(),
            "--yes",
        ];
        command(&args).await.ok();
        let process = Process::run(&config);
        change_rows(&db.pool, 1).await;
        let v: i32 = db.value("select max(v) from kv").await;
        all_told(&sink, i64::from(v)).await;
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_begin_with_what_comes_next() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &rows_to(&sink, "/hook"));
    config.change("  database:\n", "  startAt: Now\n  database:\n");
    change_rows(&db.pool, 3).await;
    let mut process = Process::run(&config);
    process.says("running").await;
    db.run("insert into kv values (11, 0)").await;
    assert_eq!(keys_of(&sink, "/hook", 1).await, ["11"]);
    process.stop().await;
    db.run("insert into kv values (12, 0)").await;
    let process = Process::run(&config);
    assert_eq!(
        keys_of(&sink, "/hook", 2).await,
        ["11", "12"],
        "its own history it has"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_of_a_tenant_sees_nothing_of_others() {
    let db = database().await;
    db.run(
        "create table doc (id int primary key, org text); select observer.track('doc', tenant => 'org')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("acme", "public.doc", &sink.url("/acme"), "  tenant: acme\n")
        + &observer("all", "public.doc", &sink.url("/all"), "");
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    db.run(
        "insert into doc values (1, 'acme'), (2, 'other'), (3, null), (4, ''), (5, 'ACME'), (6, 'acme')",
    )
    .await;
    db.run("update doc set org = 'acme' where id = 2").await;
    db.run("update doc set org = 'other' where id = 1").await;
    db.run("truncate doc").await;
    let all = keys_of(&sink, "/all", 11).await;
    assert_eq!(all.len(), 11);
    process.stop().await;
    let mut seen: Vec<(String, String)> = told(&sink)
        .iter()
        .filter(|one| one.path == "/acme")
        .map(|one| {
            assert_eq!(one.body["tenant"], "acme");
            let operation = one.body["operation"].as_str().unwrap();
            (
                operation.to_owned(),
                one.body["key"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    seen.sort_unstable();
    let expected = [
        ("Delete", "1"),
        ("Insert", "1"),
        ("Insert", "2"),
        ("Insert", "6"),
    ];
    assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_of_different_names_each_get_everything() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sinks = [
        Sink::start(Behaviour::Ok).await.unwrap(),
        Sink::start(Behaviour::Ok).await.unwrap(),
    ];
    let configs = sinks
        .each_ref()
        .map(|sink| Config::new(&db.url, LONG_LEASE, &patient(&rows_to(sink, "/hook"))));
    configs[1].change("name: test", "name: other");
    let processes = configs.each_ref().map(Process::run);
    change_rows(&db.pool, 10).await;
    for sink in &sinks {
        assert_eq!(all_told(sink, 10).await, 0);
    }
    for process in processes {
        process.stop().await;
    }
}
