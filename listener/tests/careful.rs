//! Commands that remove or repeat what a listener has done: not behind the back of a running one,
//! not without being told so, and not of another listener.

use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process};
use crate::support::program::{Ended, command, command_by};
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{all_is_behind, database, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_listener_is_neither_dropped_nor_reset() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &rows_to(&sink, "/hook"));
    let process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    all_is_behind(&db).await;
    let path = config.path();
    let file = ["-f", path.to_str().unwrap()];
    let pid = format!("-{}-", process.pid());
    for args in [
        &["drop-listener", "--yes"][..],
        &["reset-position", "--yes"],
        &["reset-position", "--to", "latest"],
    ] {
        let ended = command(&[args, &file].concat()).await;
        assert_eq!(ended.code, Some(1), "{args:?}: {}", ended.said());
        assert!(
            ended.err.contains("is running") && ended.err.contains(&pid),
            "{args:?}: {}",
            ended.said()
        );
    }
    process.stop().await;
    let letters = "insert into observer.dead_letter (listener, observer, action, log_id, event_id, entity, operation,
        attempts, error_kind, error, occurred_at, hash)
        values ('default/test', 'default/kv', 'post', 1, 'e-1', 'public.kv', 'Insert', 1, 'status', 'no', now(), 0)";
    db.run(letters).await;
    let kept = "select (select count(*) from observer.checkpoint) + (select count(*) from observer.dead_letter)
        + (select sum(epoch)::bigint from observer.checkpoint)";
    let before: i64 = db.value(kept).await;
    for (args, told) in [
        (&["drop-listener"][..], "1 dead letter"),
        (&["reset-position"], "would be delivered again"),
        (&["reset-position", "--to", "latest"], "would never be"),
    ] {
        let ended = command(&[args, &file].concat()).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.said());
        assert!(
            ended.err.contains(told) && ended.err.contains("add --yes"),
            "{args:?}: {}",
            ended.said()
        );
    }
    assert_eq!(db.value::<i64>(kept).await, before, "nothing was done");
    command(&[&["reset-position", "--to", "latest", "--yes"][..], &file].concat())
        .await
        .ok();
    let said = command(&[&["drop-listener", "--yes"][..], &file].concat())
        .await
        .ok();
    assert!(said.contains("is dropped"), "{said}");
    assert_eq!(
        db.value::<i64>("select count(*) from observer.checkpoint")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_killed_on_this_machine_is_not_alive() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&db.url, "", &rows_to(&sink, "/hook"));
    let process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    process.kill().await;
    let path = config.path();
    command(&["drop-listener", "--yes", "-f", path.to_str().unwrap()])
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn job_worker_of_an_ended_process_is_not_alive() {
    let db = database().await;
    make_rows(&db.pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    // So that its lease outlasts the test, however busy the machine is.
    let spec = "  queue: {workerLeaseDuration: 10m}\n";
    let config = Config::new(&db.url, spec, &rows_to(&sink, "/hook"));
    let process = Process::run(&config);
    change_rows(&db.pool, 1).await;
    all_told(&sink, 1).await;
    // Its worker registers beside its deliveries, and may do so after them.
    let registered =
        "select count(*) from observer.job_worker where expires_at > clock_timestamp()";
    eventually("a registered worker", async || {
        (db.value::<i64>(registered).await == 1).then_some(())
    })
    .await;
    process.kill().await;
    // As of one that ended after it had registered and before it had claimed a shard.
    db.run("delete from observer.lease; update observer.checkpoint set holder = ''")
        .await;
    assert_eq!(db.value::<i64>(registered).await, 1);
    let path = config.path();
    command(&["drop-listener", "--yes", "-f", path.to_str().unwrap()])
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_known_to_be_gone_is_dropped_whatever_looks_alive() {
    let db = database().await;
    let forget = [
        "drop-listener",
        "--yes",
        "--gone",
        "--listener",
        "shop",
        "--database-url",
        &db.url,
    ];
    let said = command(&forget).await.ok();
    assert!(said.contains("0 rows deleted"), "{said}");
    db.run(
        "insert into observer.checkpoint (listener, shard, shards, epoch, holder, base_low_id, base_snapshot, base_high_id,
             system_identifier, database_oid)
         values ('default/shop', 0, 1, 1, 'shop-0_uid_1', 0, '3:3:', 0, 1, 1)",
    )
    .await;
    let said = command(&forget).await.ok();
    assert!(said.contains("1 row deleted"), "{said}");
    // Nothing was ever kept where there is no schema.
    db.run("drop schema observer cascade").await;
    let said = command(&forget).await.ok();
    assert!(said.contains("0 rows deleted"), "{said}");
    let ended = command(&["drop-listener", "--gone", "--database-url", &db.url]).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_among_the_arguments_is_warned_of() {
    let db = database().await;
    let warned = |ended: &Ended| ended.err.matches("the password in --database-url").count();
    let joined = format!("--database-url={}", db.url);
    for arguments in [
        &["migrate", "--database-url", &db.url][..],
        &["migrate", &joined],
    ] {
        let ended = command(arguments).await;
        assert_eq!(warned(&ended), 1, "{}", ended.said());
        ended.ok();
    }
    let ended = command_by(&["migrate"], &[("OBSERVER_DATABASE_URL", &db.url)]).await;
    assert_eq!(warned(&ended), 0, "{}", ended.said());
    ended.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_listeners_are_found_by_checkpoints_and_jobs() {
    let db = database().await;
    let forget = [
        "drop-listener",
        "--yes",
        "--listener",
        "shop",
        "--database-url",
        &db.url,
    ];
    let ended = command(&forget).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    assert!(
        ended.err.contains("nothing of a listener default/shop"),
        "{}",
        ended.said()
    );
    for (sign, holder) in [
        (
            "insert into observer.checkpoint (listener, shard, shards, epoch, holder, base_low_id, base_snapshot, base_high_id,
                 system_identifier, database_oid)
             values ('default/shop', 0, 1, 1, 'shop-0_uid_1', 0, '3:3:', 0, 1, 1)",
            "shop-0_uid_1",
        ),
        (
            "update observer.checkpoint set holder = '';
             insert into observer.job_queue (listener) values ('default/shop');
             insert into observer.job_worker (id, queue, name, expires_at)
             select gen_random_uuid(), id, 'shop-1', now() + interval '1 h' from observer.job_queue",
            "shop-1",
        ),
    ] {
        db.run(sign).await;
        let ended = command(&forget).await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        assert!(ended.err.contains(holder), "{}", ended.said());
    }
    db.run("update observer.job_worker set expires_at = now() - interval '1 s'")
        .await;
    command(&forget).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_all_dead_letters_is_scoped_to_one_listener() {
    let db = database().await;
    for listener in ["default/shop", "default/other"] {
        db.run(&format!(
            "insert into observer.dead_letter (listener, observer, action, log_id, event_id, entity, operation,
                 attempts, error_kind, error, occurred_at, hash)
             values ('{listener}', 'default/kv', 'post', 1, 'e-1', 'public.kv', 'Insert', 1, 'status', 'no', now(), 0)"
        ))
        .await;
    }
    let url = ["--database-url", &db.url];
    for args in [
        &["dead-letters", "redrive", "--all", "--yes"][..],
        &["dead-letters", "drop", "--all", "--yes"],
        &["drop-listener", "--yes"],
        &["reset-position", "--yes"],
        &["jobs", "cancel", "--all", "--yes"],
    ] {
        let ended = command(&[args, &url].concat()).await;
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.said());
        assert!(
            ended.err.contains("--listener") && ended.err.contains("default/other, default/shop"),
            "{args:?}: {}",
            ended.said()
        );
    }
    let drop = ["dead-letters", "drop", "--all", "--listener", "shop"];
    let ended = command(&[&drop[..], &url].concat()).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert!(
        ended.err.contains("1 dead letter would be dropped") && ended.err.contains("add --yes"),
        "{}",
        ended.said()
    );
    let left = "select count(*) from observer.dead_letter where redrive_requested_at is null";
    assert_eq!(db.value::<i64>(left).await, 2);
    command(&[&drop[..], &["--yes"], &url].concat()).await.ok();
    let left: String = db
        .value("select string_agg(listener, ',') from observer.dead_letter")
        .await;
    assert_eq!(left, "default/other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_not_known_is_no_success() {
    let db = database().await;
    for args in [
        &["status"][..],
        &["status", "-o", "json"],
        &["jobs", "list"],
        &["dead-letters", "list"],
        &["dead-letters", "export"],
        &["dead-letters", "redrive", "--all", "--yes"],
        &["reset-position", "--yes"],
    ] {
        let named = ["--listener", "shpo", "--database-url", &db.url];
        let ended = command(&[args, &named].concat()).await;
        assert_eq!(ended.code, Some(1), "{args:?}: {}", ended.said());
        assert!(
            ended.err.contains("nothing of a listener default/shpo"),
            "{args:?}: {}",
            ended.said()
        );
    }
}
