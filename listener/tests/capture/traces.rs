//! The trace that a writer gives its changes.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Executor as _};

use crate::support::{self, TestDb};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A table of each kind of insert into the log: by one key, by two, with a column left out, and partitioned.
const TABLES: &str = "
    create table one (id int primary key, v text);
    create table two (a int, b int, v text, primary key (a, b));
    create table less (id int primary key, v text, secret text);
    create table parts (id int primary key, v text) partition by range (id);
    create table parts_1 partition of parts for values from (0) to (1000);
    select observer.track('one'), observer.track('two'), observer.track('less', exclude => '{secret}'),
           observer.track('parts')";

/// Operation, entity and trace of the events, which are forgotten then.
async fn traces(db: &TestDb) -> Vec<String> {
    let found = sqlx::query_scalar(
        "select concat_ws(' ', operation, entity, coalesce(traceparent, '-')) from observer.change_log order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    db.run("truncate observer.change_log").await;
    found
}

#[tokio::test]
async fn comment_at_the_end_of_a_statement_gives_its_trace() {
    let db = support::database().await;
    db.run(TABLES).await;
    let tail = format!("/*action='pay%20now',traceparent='{TRACE}'*/");
    for sql in [
        "insert into one values (1, 'a')",
        "update one set v = 'b'",
        "update one set id = 2",
        "delete from one",
        "insert into two values (1, 1, 'a')",
        "update two set v = 'b'",
        "insert into less values (1, 'a', 's')",
        "update less set v = 'b'",
        "insert into parts values (1, 'a')",
        "truncate parts",
        "select observer.emit('paid', '{}'::json)",
    ] {
        // Once by the extended protocol, and once by the simple one.
        let sql = format!("{sql} {tail}");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&db.pool)
            .await
            .unwrap();
    }
    db.run(&format!("insert into one values (9, 'a') {tail};\n "))
        .await;
    db.run("insert into one values (10, 'a')").await;
    let with = |what: &str| format!("{what} {TRACE}");
    assert_eq!(
        traces(&db).await,
        [
            with("i public.one"),
            with("u public.one"),
            with("d public.one"),
            with("i public.one"),
            with("d public.one"),
            with("i public.two"),
            with("u public.two"),
            with("i public.less"),
            with("u public.less"),
            with("i public.parts"),
            with("t public.parts"),
            with("c paid"),
            with("i public.one"),
            "i public.one -".to_owned(),
        ]
    );
}

#[tokio::test]
async fn given_trace_lasts_until_the_transaction_ends() {
    let db = support::database().await;
    db.run(TABLES).await;
    let mut tx = db.pool.begin().await.unwrap();
    let give = async |tx: &mut sqlx::PgConnection, text: Option<&str>| -> bool {
        let given = sqlx::query_scalar("select observer.trace($1)").bind(text);
        given.fetch_one(tx).await.unwrap()
    };
    assert!(give(&mut tx, Some(TRACE)).await);
    // What was given goes before what a library wrote.
    let commented = format!("insert into one values (1, 'a') /*traceparent='{OTHER}'*/");
    tx.execute(AssertSqlSafe(commented)).await.unwrap();
    tx.execute("savepoint s").await.unwrap();
    assert!(give(&mut tx, Some(OTHER)).await);
    tx.execute("insert into one values (2, 'a')").await.unwrap();
    tx.execute("rollback to s").await.unwrap();
    tx.execute("select observer.emit('paid')").await.unwrap();
    assert!(!give(&mut tx, Some("not a trace")).await);
    tx.execute("insert into one values (3, 'a')").await.unwrap();
    assert!(give(&mut tx, Some(OTHER)).await);
    assert!(!give(&mut tx, None).await);
    tx.execute("insert into one values (4, 'a')").await.unwrap();
    assert!(give(&mut tx, Some(OTHER)).await);
    tx.execute("insert into one values (5, 'a')").await.unwrap();
    tx.commit().await.unwrap();
    db.run("insert into one values (6, 'a')").await;
    assert_eq!(
        traces(&db).await,
        [
            format!("i public.one {TRACE}"),
            format!("c paid {TRACE}"),
            "i public.one -".to_owned(),
            "i public.one -".to_owned(),
            format!("i public.one {OTHER}"),
            "i public.one -".to_owned(),
        ]
    );
}

#[tokio::test]
async fn triggers_and_functions_have_the_trace_of_the_statement_around_them() {
    let db = support::database().await;
    db.run(TABLES).await;
    db.run(
        "create function copy() returns trigger language plpgsql as
         $$begin insert into two values (new.id, 0, new.v); perform observer.emit('copied'); return null; end$$;
         create trigger copy after insert on one for each row execute function copy();
         create function add(n int) returns void language plpgsql as
         $$begin execute 'insert into one values ($1, null) /* one of its own */' using n; end$$",
    )
    .await;
    db.run(&format!("select add(1) /*traceparent='{TRACE}'*/"))
        .await;
    let mut found = traces(&db).await;
    found.sort();
    let expected = ["c copied", "i public.one", "i public.two"];
    assert_eq!(found, expected.map(|what| format!("{what} {TRACE}")));
}

#[tokio::test]
async fn prepared_statements_have_the_trace_that_they_were_prepared_with() {
    let db = support::database().await;
    db.run(TABLES).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let prepare = format!("prepare p as insert into one values ($1) /*traceparent='{OTHER}'*/");
    connection.execute(AssertSqlSafe(prepare)).await.unwrap();
    connection.execute("execute p(1)").await.unwrap();
    let execute = format!("execute p(2) /*traceparent='{TRACE}'*/");
    connection.execute(AssertSqlSafe(execute)).await.unwrap();
    let found = traces(&db).await;
    assert_eq!(
        found[1],
        format!("i public.one {TRACE}"),
        "that of the call: {found:?}"
    );
}

#[tokio::test]
async fn hostile_comments_and_settings_fail_no_write() {
    let db = support::database().await;
    db.run(TABLES).await;
    let nested = format!("/* {} */", "/* a */".repeat(500));
    let mut tails: Vec<String> = [
        "/*traceparent='*/",
        "/*traceparent=*/",
        "/*traceparent=''*/",
        "/*traceparent='00-\u{e9}\u{1f980}-x-01'*/",
        "/*traceparent='%30%30-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/",
        "-- traceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/",
        ", (99, '/*traceparent=''00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01''*/')",
        "/*x='\\'',traceparent='00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01'*/",
        "/*nottraceparent='00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'*/",
    ]
    .map(str::to_owned)
    .to_vec();
    tails.push(format!("{nested} /*traceparent='x'*/"));
    tails.push(format!(
        "/*traceparent='{TRACE}',x='{}'*/",
        "y".repeat(3000)
    ));
    for tail in &tails {
        db.run("delete from one").await;
        db.run("truncate observer.change_log").await;
        db.run(&format!("insert into one values (1, 'a') {tail}"))
            .await;
        let found = traces(&db).await;
        assert!(
            !found.is_empty() && found.iter().all(|one| one == "i public.one -"),
            "{tail}: {found:?}"
        );
    }
    let mut connection = db.pool.acquire().await.unwrap();
    let long = "traceparent='".repeat(100_000);
    for setting in ["''", "garbage", TRACE.split_at(54).0, &long] {
        sqlx::query("select set_config('observer.traceparent', $1, false)")
            .bind(setting)
            .execute(&mut *connection)
            .await
            .unwrap();
        connection
            .execute("update one set v = 'b'; select observer.emit('paid')")
            .await
            .unwrap();
    }
    // Who has no function to call may set it.
    let set = format!("set observer.traceparent = '{TRACE}'; update one set v = 'c'");
    connection.execute(AssertSqlSafe(set)).await.unwrap();
    let found = traces(&db).await;
    assert_eq!(found.last(), Some(&format!("u public.one {TRACE}")));
    assert!(
        found[..8].iter().all(|one| one.ends_with(" -")),
        "{found:?}"
    );
}

#[tokio::test]
async fn long_statement_has_its_trace() {
    let db = support::database().await;
    db.run(TABLES).await;
    let mut sql = String::from("insert into one values (0, '')");
    for n in 1..4000 {
        let _ = write!(sql, ", ({n}, '{}')", "x".repeat(4000));
    }
    let _ = write!(sql, " /*traceparent='{TRACE}'*/");
    assert!(sql.len() > 16_000_000);
    db.run(&sql).await;
    let traced: i64 = db
        .value(&format!(
            "select count(*) from observer.change_log where traceparent = '{TRACE}'"
        ))
        .await;
    assert_eq!(traced, 4000);
}

#[tokio::test]
async fn long_message_of_many_statements_has_its_trace() {
    let db = support::database().await;
    db.run(TABLES).await;
    let text = "x".repeat(100);
    let message = |from: u32, tail: &str| {
        let statements =
            (from..from + 200).map(|n| format!("insert into one values ({n}, '{text}');"));
        format!("{}{tail}", statements.collect::<String>())
    };
    let comment = format!("/*traceparent='{TRACE}'*/");
    let mut tx = db.pool.begin().await.unwrap();
    for (from, tail) in [(0, ""), (1000, &*comment), (2000, "/*none*/")] {
        tx.execute(AssertSqlSafe(message(from, tail)))
            .await
            .unwrap();
    }
    // What is kept of a long one says nothing of a short one.
    let short = format!("insert into one values (3000, 'a') /*traceparent='{OTHER}'*/");
    tx.execute(AssertSqlSafe(short)).await.unwrap();
    tx.commit().await.unwrap();
    let found: Vec<(Option<String>, i64)> = sqlx::query_as(
        "select traceparent, count(*) from observer.change_log group by 1 order by 2, 1 nulls first",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let expected = [(Some(OTHER), 1), (Some(TRACE), 200), (None, 400)];
    assert_eq!(
        found,
        expected.map(|(trace, count)| (trace.map(str::to_owned), count))
    );
    // Whatever else stands in the setting is no trace.
    db.run(&format!(
        "begin; set local observer.long_message = 'hostile'; insert into one values (4000, 'a') {comment}; commit"
    ))
    .await;
    db.run("insert into one values (4001, 'a')").await;
    assert_eq!(
        db.value::<i64>("select count(*) from observer.change_log")
            .await,
        603
    );
}

#[tokio::test]
async fn reader_and_role_without_rights_are_no_obstacle() {
    let db = support::database().await;
    db.run(TABLES).await;
    let role = db.role("writer", "login password 'w'").await;
    db.run(&format!(
        "grant all on one to {role}; grant usage on schema observer to {role}"
    ))
    .await;
    let pool = testkit::database::pool(&db.url_as(&role, "w")).await;
    let mut tx = pool.begin().await.unwrap();
    tx.execute(AssertSqlSafe(format!("select observer.trace('{TRACE}')")))
        .await
        .unwrap();
    tx.execute("insert into one values (1, 'a')").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(traces(&db).await, [format!("i public.one {TRACE}")]);
    let mut tx = pool.begin().await.unwrap();
    tx.execute("set transaction read only").await.unwrap();
    let given: bool = sqlx::query_scalar("select observer.trace($1)")
        .bind(TRACE)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert!(given);
}
