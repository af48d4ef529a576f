//! How the log stays bounded, and what an operator can do about listeners and restores.

use sqlx::{AssertSqlSafe, Executor};

use crate::capture::changes;
use crate::support::{self, TestDb, comes, while_progressing_or};

const TABLE: &str = "create table t (id int primary key, v text); select observer.track('t')";

/// Waits for the transactions of other tests: a snapshot's lower end is the whole server's.
async fn others_end(db: &TestDb) {
    let now: String = db
        .value("select pg_snapshot_xmax(pg_current_snapshot())::text")
        .await;
    // One that is prepared runs in nobody's session.
    let running = format!(
        "with theirs as (
            select datname, backend_xid as xid, query from pg_stat_activity where backend_xid is not null
            union all select database, transaction, 'prepared as ' || gid from pg_prepared_xacts)
         select coalesce(string_agg(format('%s in %s: %s', xid, datname, query), '; '), '') from theirs
         where datname <> current_database() and age(xid) > age('{now}'::xid8::xid)"
    );
    // As long as others get on, theirs may be about to end.
    let look = async || {
        if db.value::<String>(&running).await.is_empty() {
            return Ok(());
        }
        let next = "select pg_snapshot_xmax(pg_current_snapshot())::text";
        Err(db.value::<String>(next).await)
    };
    while_progressing_or(look, async || {
        let running: String = db.value(&running).await;
        format!("the end of other tests' transactions from before {now}: {running}")
    })
    .await;
}

/// A checkpoint of listener `name` at the present moment, made or moved.
async fn checkpoint(db: &TestDb, name: &str) {
    others_end(db).await;
    db.run(&format!(
        "insert into observer.checkpoint
            (listener, shard, shards, epoch, holder, base_low_id, base_snapshot, base_high_id, system_identifier, database_oid)
         select '{name}', 0, 1, 1, 'test', 0, m.snapshot, m.high_id, s.system_identifier, d.oid
         from observer.current_bound() m, pg_control_system() s, pg_database d where d.datname = current_database()
         on conflict (listener, shard) do update set base_low_id = excluded.base_low_id,
            base_snapshot = excluded.base_snapshot, base_high_id = excluded.base_high_id"
    ))
    .await;
}

/// What `maintain` did, as `partitions emptied, writers moved`.
async fn maintain(db: &TestDb, keep: &str) -> (i32, bool) {
    sqlx::query_as(AssertSqlSafe(format!(
        "select truncated, rotated from observer.apply_retention('{keep}')"
    )))
    .fetch_one(&db.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn events_go_once_they_are_old_and_behind_every_checkpoint() {
    let db = support::database().await;
    db.run(TABLE).await;
    assert_eq!(maintain(&db, "0").await, (0, false), "an empty log");
    db.run("insert into t values (1)").await;
    assert_eq!(
        maintain(&db, "0").await,
        (0, true),
        "no checkpoint, nothing goes"
    );
    db.run("insert into t values (2)").await;
    checkpoint(&db, "slow").await;
    db.run("insert into t values (3)").await;
    checkpoint(&db, "fast").await;
    // Slot 0 holds the first event, slot 1 what `slow` has still to read.
    assert_eq!(maintain(&db, "1 hour").await, (0, false), "too young");
    assert_eq!(maintain(&db, "0").await, (1, true));
    assert_eq!(changes(&db).await, ["i 2", "i 3"]);
    assert_eq!(maintain(&db, "0").await, (0, false));
    db.run("select observer.drop_listener('slow')").await;
    assert_eq!(maintain(&db, "0").await, (1, false));
    assert_eq!(changes(&db).await, [""; 0], "nothing is left");
}

#[tokio::test]
async fn the_log_waits_for_a_history_up_to_its_bound_and_records_the_gap() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("insert into t values (1), (2)").await;
    maintain(&db, "0").await;
    checkpoint(&db, "l").await;
    db.run(
        "insert into observer.search_position
             (listener, shard, shards, base_low_id, base_snapshot, base_high_id, max_lag)
         values ('l', 0, 1, 0, '3:3:', 0, '1 hour')",
    )
    .await;
    assert_eq!(
        maintain(&db, "0").await.0,
        0,
        "the history does not have them"
    );
    let gaps = "select count(*) from observer.search_gap";
    assert_eq!(db.value::<i64>(gaps).await, 0);
    db.run("update observer.search_position set max_lag = '0'")
        .await;
    assert_eq!(
        maintain(&db, "0").await.0,
        1,
        "it has waited for long enough"
    );
    let told = "select format('%s %s %s', listener, shard, events) from observer.search_gap where to_time >= from_time";
    assert_eq!(db.value::<String>(told).await, "l 0 2");

    // What it has is no gap, however old.
    db.run("insert into t values (3)").await;
    maintain(&db, "0").await;
    checkpoint(&db, "l").await;
    db.run(
        "update observer.search_position p
         set base_snapshot = c.base_snapshot, max_lag = '1 hour' from observer.checkpoint c",
    )
    .await;
    assert_eq!(maintain(&db, "0").await.0, 1);
    assert_eq!(db.value::<i64>(gaps).await, 1);
    db.run("select observer.drop_listener('l')").await;
    let left = "select (select count(*) from observer.search_position) + (select count(*) from observer.search_gap)";
    assert_eq!(db.value::<i64>(left).await, 0);
}

#[tokio::test]
async fn a_dropped_listener_leaves_nothing_and_others_alone() {
    let db = support::database().await;
    checkpoint(&db, "gone").await;
    checkpoint(&db, "stays").await;
    db.run(
        "insert into observer.dead_letter
             (listener, event_id, log_id, observer, action, entity, operation, hash, occurred_at, attempts,
              error_kind, error)
         select case n when 1 then 'stays' else 'gone' end, 'e-' || n, n, 'default/o', 'a', 'public.t', 'i', 0,
                now(), 1, 'status', 'no'
         from generate_series(1, 3) n",
    )
    .await;
    assert_eq!(
        db.value::<i64>("select observer.drop_listener('gone')")
            .await,
        3,
        "a checkpoint and two dead letters"
    );
    assert_eq!(
        db.value::<i64>("select observer.drop_listener('gone')")
            .await,
        0
    );
    let left = "select string_agg(listener, ' ') from (
        select listener from observer.checkpoint union all select listener from observer.dead_letter
    ) l";
    assert_eq!(db.value::<String>(left).await, "stays stays");
}

#[tokio::test]
async fn what_an_open_transaction_may_still_add_or_hide_stays() {
    let db = support::database().await;
    db.run(TABLE).await;
    let mut open = db.connect().await;
    open.execute("begin; insert into t values (1)")
        .await
        .unwrap();
    db.run("insert into t values (2)").await;
    assert_eq!(maintain(&db, "0").await, (0, true));
    checkpoint(&db, "l").await;
    // Its snapshot does not see the open transaction, whose xid is the lower one.
    assert_eq!(maintain(&db, "0").await, (0, false));
    open.execute("commit").await.unwrap();
    assert_eq!(
        maintain(&db, "0").await,
        (0, false),
        "committed and not yet read"
    );
    checkpoint(&db, "l").await;
    assert_eq!(maintain(&db, "0").await, (1, false));
}

#[tokio::test]
async fn a_slot_that_is_still_being_written_to_is_left_for_later() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("insert into t values (1)").await;
    checkpoint(&db, "l").await;
    let mut reader = db.connect().await;
    reader
        .execute("begin; select * from observer.change_log_0")
        .await
        .unwrap();
    // Were it to wait for the slot, it would wait for good.
    let maintained = comes("an end without the slot", maintain(&db, "0")).await;
    assert_eq!(maintained, (0, true));
    reader.execute("rollback").await.unwrap();
    assert_eq!(maintain(&db, "0").await, (1, false));
}

#[tokio::test]
async fn a_full_ring_keeps_everything() {
    let db = support::database().await;
    db.run(TABLE).await;
    for id in 0..12 {
        db.run(&format!("insert into t values ({id})")).await;
        assert_eq!(maintain(&db, "0").await, (0, id < 7), "{id}");
    }
    assert_eq!(changes(&db).await.len(), 12);
}

#[tokio::test]
async fn rotation_and_retention_lose_nothing_unread_while_writers_run() {
    const WRITERS: i32 = 4;
    const EACH: i32 = 150;
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("create table seen (id bigint primary key, key text)")
        .await;
    checkpoint(&db, "l").await;
    let writers = (0..WRITERS).map(|writer| {
        let db = &db;
        async move {
            for n in 0..EACH {
                db.run(&format!("insert into t values ({})", writer * EACH + n))
                    .await;
            }
        }
    });
    // A reader in the plainest form: all that the new mark sees and the last did not.
    let seen = async || db.value::<i64>("select count(*) from seen").await;
    let reader = while_progressing_or(
        async || {
            let read = sqlx::raw_sql(
                "begin;
                 create temporary table step on commit drop as select * from observer.current_bound();
                 insert into seen select l.id, l.key from observer.change_log l, step, observer.checkpoint c
                 where pg_visible_in_snapshot(l.xid, step.snapshot) and not pg_visible_in_snapshot(l.xid, c.base_snapshot);
                 update observer.checkpoint set base_snapshot = step.snapshot from step;
                 commit;
                 select * from observer.apply_retention('0');",
            )
            .execute(&db.pool)
            .await;
            read.unwrap();
            let seen = seen().await;
            if seen == i64::from(WRITERS * EACH) {
                Ok(())
            } else {
                Err(seen)
            }
        },
        async || format!("{} rows seen, and {} are", WRITERS * EACH, seen().await),
    );
    tokio::join!(futures::future::join_all(writers), reader);
    let head_moved: bool = db.value("select partition_no <> 0 or since > c.claimed_at from observer.log_partition_state, observer.checkpoint c").await;
    assert!(head_moved, "the log was rotated meanwhile");
}

#[tokio::test]
async fn two_at_once_do_it_once_and_a_fixed_snapshot_is_refused() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("insert into t values (1)").await;
    let mut first = db.connect().await;
    first
        .execute("begin; select * from observer.apply_retention('0')")
        .await
        .unwrap();
    assert_eq!(maintain(&db, "0").await, (0, false));
    first.execute("commit").await.unwrap();
    let refused = db
        .refusal("begin isolation level repeatable read; select observer.apply_retention('0')")
        .await;
    assert!(refused.contains("read committed"), "{refused}");
}

#[tokio::test]
async fn a_restored_log_is_read_from_its_beginning_under_a_new_name() {
    let db = support::database().await;
    db.run(TABLE).await;
    checkpoint(&db, "l").await;
    db.run("insert into t values (1); insert into t values (2)")
        .await;
    // As a logical copy leaves it: xids, ids and positions of another cluster.
    db.run(
        "update observer.change_log set xid = '900000000', id = id + 1000;
         update observer.checkpoint set base_snapshot = '900000001:900000001:', system_identifier = 7, database_oid = 8;
         update observer.log_identity set system_identifier = 7, database_oid = 8",
    )
    .await;
    let name: String = db.value("select id::text from observer.log_identity").await;
    let refused = db
        .refusal("select observer.reset_position('l', 'stored')")
        .await;
    assert!(refused.contains("lies ahead of this database"), "{refused}");

    db.run("select observer.reset_position('l')").await;
    let renamed: String = db.value("select id::text from observer.log_identity").await;
    assert_ne!(name, renamed);
    let unread: i64 = db
        .value(
            "select count(*) from observer.change_log l, observer.checkpoint c, observer.current_bound() m
             where pg_visible_in_snapshot(l.xid, m.snapshot) and not pg_visible_in_snapshot(l.xid, c.base_snapshot)",
        )
        .await;
    assert_eq!(unread, 2);
    let row: String = db
        .value(
            "select concat_ws(' ', base_low_id, base_snapshot, base_high_id, window_snapshot, epoch,
                c.system_identifier = s.system_identifier and c.database_oid = d.oid)
             from observer.checkpoint c, pg_control_system() s, pg_database d where d.datname = current_database()",
        )
        .await;
    assert_eq!(row, "0 3:3: 0 2 t");
    assert!(db.value::<i64>("select observer.emit('next')").await > 1002);

    // For the next listener the log keeps the name it has now.
    db.run(
        "update observer.checkpoint set system_identifier = 7; select observer.reset_position('l')",
    )
    .await;
    assert_eq!(
        db.value::<String>("select id::text from observer.log_identity")
            .await,
        renamed
    );
}

#[tokio::test]
async fn a_listener_may_go_on_where_it_was_or_skip() {
    let db = support::database().await;
    db.run(TABLE).await;
    checkpoint(&db, "l").await;
    db.run("insert into t values (1)").await;
    let unread = "select count(*) from observer.change_log l, observer.checkpoint c
                  where not pg_visible_in_snapshot(l.xid, c.base_snapshot)";
    db.run("update observer.checkpoint set system_identifier = 7; select observer.reset_position('l', 'stored')").await;
    assert_eq!(db.value::<i64>(unread).await, 1);
    db.run("select observer.reset_position('l', 'latest')")
        .await;
    assert_eq!(db.value::<i64>(unread).await, 0);
    assert_eq!(
        db.value::<i64>("select epoch from observer.checkpoint")
            .await,
        3
    );
    let refused = db
        .refusal("select observer.reset_position('l', 'tomorrow')")
        .await;
    assert!(
        refused.contains("'earliest', 'stored' or 'latest'"),
        "{refused}"
    );
    let refused = db.refusal("select observer.reset_position('nobody')").await;
    assert!(refused.contains("no listener 'nobody'"), "{refused}");
}

#[tokio::test]
async fn retention_says_that_it_is_blocked() {
    let db = support::database().await;
    let blocked = async || {
        db.value::<bool>("select blocked from observer.apply_retention('0')")
            .await
    };
    db.run(TABLE).await;
    db.run("insert into t values (1)").await;
    assert!(!blocked().await);
    checkpoint(&db, "reader").await;
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("lock table observer.change_log_0 in row exclusive mode")
        .execute(&mut *other)
        .await
        .unwrap();
    assert!(blocked().await, "a partition is somebody's");
    other.rollback().await.unwrap();
    assert!(!blocked().await);
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("select observer.lock('apply-retention')")
        .execute(&mut *other)
        .await
        .unwrap();
    assert!(blocked().await, "the mutex is somebody's");
    other.rollback().await.unwrap();
}
