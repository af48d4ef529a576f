//! Roles and databases with settings and names that would change what statements mean.

use sqlx::AssertSqlSafe;
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process, observer};
use crate::support::program::command;
use crate::support::rows::at;
use crate::support::{TestDb, amounts_to, database, empty_database, eventually};

/// Settings that a role may have, each of which once stopped or changed something, or might.
const SETTINGS: [&str; 38] = [
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "default_transaction_deferrable = on",
    "statement_timeout = '50ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '1ms'",
    "idle_session_timeout = '500ms'",
    "search_path = 'nowhere'",
    "standard_conforming_strings = off",
    "backslash_quote = off",
    "escape_string_warning = off",
    "array_nulls = off",
    "transform_null_equals = on",
    "quote_all_identifiers = on",
    "row_security = off",
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Pacific/Chatham'",
    "bytea_output = 'escape'",
    "extra_float_digits = -15",
    "xmloption = 'document'",
    "xmlbinary = 'hex'",
    "client_min_messages = 'debug1'",
    "default_table_access_method = 'nonesuch'",
    "default_tablespace = 'nonesuch'",
    "temp_tablespaces = 'nonesuch'",
    "check_function_bodies = off",
    "exit_on_error = on",
    "plpgsql.extra_errors = 'all'",
    "plpgsql.extra_warnings = 'all'",
    "lo_compat_privileges = on",
    "session_replication_role = 'replica'",
    "enable_indexscan = off",
    "enable_nestloop = off",
    "enable_partition_pruning = off",
    "enable_tidscan = off",
    "join_collapse_limit = 1",
    "constraint_exclusion = 'on'",
];

/// A role of the test's own that owns nothing yet and may make schemas.
pub(crate) async fn role(db: &TestDb, name: &str) -> String {
    let database: String = db.value("select current_database()").await;
    db.run(&format!(
        "do $$ begin
             if exists (select from pg_roles where rolname = '{name}') then
                 execute 'drop owned by {name} cascade'; execute 'drop role {name}';
             end if;
         end $$;
         create role {name} login password 'p';
         grant create on database {database} to {name};
         grant all on schema public to {name}"
    ))
    .await;
    db.url_as(name, "p")
}

async fn count(db: &TestDb, table: &str) -> u64 {
    let count: i64 = db.value(&format!("select count(*) from {table}")).await;
    count.unsigned_abs()
}

/// Migrates as a role, and runs a listener through all that it does: changes of every kind, a job, a
/// dead letter and its redrive, and the removal of what is old.
async fn lives_as(db: &TestDb, url: &str) {
    command(&["migrate", "--database-url", url]).await.ok();
    db.run(
        "create table public.t (id int primary key, at timestamptz not null default now());
         select observer.track('public.t')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/later", Behaviour::Status(503));
    sink.behave_at("/never", Behaviour::Status(400));
    let observers = observer("now", "public.t", &sink.url("/now"), "")
        + &observer("later", "public.t", &sink.url("/later"), "")
        + &observer("never", "public.t", &sink.url("/never"), "");
    let config = Config::new(
        url,
        "",
        &observers.replace(
            "20, initialBackoff: 20ms, maxBackoff: 200ms",
            "100, initialBackoff: 20ms, maxBackoff: 2s",
        ),
    );
    config.change("  database:\n", "  database:\n    retention: 1s\n");
    let process = Process::run(&config);
    eventually("a checkpoint", async || {
        (count(db, "observer.checkpoint").await > 0).then_some(())
    })
    .await;
    for statement in [
        "insert into public.t select generate_series(1, 3)",
        "update public.t set at = now()",
        "delete from public.t where id = 3",
    ] {
        db.run(statement).await;
    }
    amounts_to("deliveries", 7, async || at(&sink, "/now") as u64).await;
    amounts_to("jobs", 7, async || count(db, "observer.job").await).await;
    amounts_to("dead letters", 7, async || {
        count(db, "observer.dead_letter").await
    })
    .await;
    sink.behave_at("/later", Behaviour::Ok);
    sink.behave_at("/never", Behaviour::Ok);
    let redrive = [
        "dead-letters",
        "redrive",
        "--all",
        "--yes",
        "--listener",
        "default/test",
        "--database-url",
        url,
    ];
    command(&redrive).await.ok();
    eventually("no job and no dead letter", async || {
        let left = count(db, "observer.job").await + count(db, "observer.dead_letter").await;
        (left == 0).then_some(())
    })
    .await;
    // Those who are idle save their positions seldom.
    eventually("the first events are removed", async || {
        db.run("select observer.emit('other')").await;
        let first = "(select from observer.change_log where id <= 7) first";
        (count(db, first).await == 0).then_some(())
    })
    .await;
    let said = process.stop().await;
    assert!(!said.contains("ERROR"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_role_change_nothing() {
    let db = empty_database().await;
    let url = role(&db, "odd_settings").await;
    for setting in SETTINGS {
        db.run(&format!("alter role odd_settings set {setting}"))
            .await;
    }
    lives_as(&db, &url).await;
    db.run("drop owned by odd_settings cascade; drop role odd_settings")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_somebody_planted_are_not_called() {
    let db = empty_database().await;
    let url = role(&db, "odd_names").await;
    // Better matches than those of Postgres for what is, or once was, called with other types.
    let better = [
        ("hashtextextended(text, integer)", "bigint"),
        ("nextval(text)", "bigint"),
        ("unnest(xid8[])", "setof xid8"),
        ("unnest(text[])", "setof text"),
        ("unnest(bigint[])", "setof bigint"),
        ("unnest(smallint[])", "setof smallint"),
        ("json_agg(json)", "text"),
        ("cardinality(text[])", "integer"),
        ("array_agg(text)", "text[]"),
        ("octet_length(json)", "integer"),
    ];
    // The same as Postgres' own, for whoever looks in `public` first.
    let same = [
        ("clock_timestamp()", "timestamptz"),
        ("transaction_timestamp()", "timestamptz"),
        ("pg_current_xact_id()", "xid8"),
        ("pg_current_snapshot()", "pg_snapshot"),
        ("pg_try_advisory_xact_lock(bigint)", "boolean"),
        ("gen_random_uuid()", "uuid"),
        ("current_setting(text)", "text"),
        ("set_config(text, text, boolean)", "text"),
        ("quote_ident(text)", "text"),
        ("pg_is_in_recovery()", "boolean"),
        ("strpos(text, text)", "integer"),
        ("textcat(text, text)", "text"),
    ];
    for (function, result) in better.iter().chain(&same) {
        db.run(&format!(
            "create function public.{function} returns {result} language plpgsql as
             $$ begin raise exception 'planted {function} was called'; end $$"
        ))
        .await;
    }
    for (left, name, right) in [
        ("text", "||", "text"),
        ("name", "||", "text"),
        ("text", "=", "text"),
        ("bigint", "=", "integer"),
        ("text", "=", "name"),
        ("json", "->>", "text"),
        ("bigint", "&", "integer"),
    ] {
        let result = match name {
            "=" => "boolean",
            "&" => "bigint",
            _ => "text",
        };
        let function = format!("op_{}", uuid::Uuid::new_v4().simple());
        db.run(&format!(
            "create function public.{function}({left}, {right}) returns {result} language plpgsql as
             $$ begin raise exception 'planted {left} {name} {right} was called'; end $$;
             create operator public.{name}
                 (leftarg = {left}, rightarg = {right}, function = public.{function})"
        ))
        .await;
    }
    db.run("alter role odd_names set search_path = public, pg_catalog")
        .await;
    lives_as(&db, &url).await;
    let bound: Vec<String> = sqlx::query_scalar(AssertSqlSafe(
        "select distinct pg_describe_object(d.classid, d.objid, d.objsubid)
         from pg_depend d
         where (d.refclassid = 'pg_proc'::regclass and d.refobjid in
                    (select oid from pg_proc where pronamespace = 'public'::regnamespace)
                or d.refclassid = 'pg_operator'::regclass and d.refobjid in
                    (select oid from pg_operator where oprnamespace = 'public'::regnamespace))
             and pg_describe_object(d.classid, d.objid, d.objsubid) like '%observer%'",
    ))
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(bound, [""; 0], "bound for good");
    db.run("drop owned by odd_names cascade; drop role odd_names")
        .await;
}

/// Whoever may connect can take advisory locks, and see in `pg_locks` which others take.
#[tokio::test]
async fn advisory_locks_of_others_stop_nothing() {
    let db = database().await;
    let role = db.role("locker", "login password 'l'").await;
    let locker = testkit::database::pool(&db.url_as(&role, "l")).await;
    let mut holder = locker.acquire().await.unwrap();
    // All that the schema's functions, `migrate` and positions were ever guarded by.
    for key in [
        "x'72657461696e'::bigint",
        "x'726562617365'::bigint",
        "x'6f62736572766572'::bigint",
        "x'6a6f6272'::integer, 0",
        "x'6a6f6265'::integer, 1",
        "x'6a6f6263'::integer, 1",
        "x'6a6f6273'::integer, 1",
        "hashtextextended('observer.checkpoint/default/test', 0)",
    ] {
        sqlx::query(AssertSqlSafe(format!("select pg_advisory_lock({key})")))
            .execute(&mut *holder)
            .await
            .unwrap();
    }
    observer_listener::migrate::migrate(&db.pool).await.unwrap();
    db.run("select observer.emit('e')").await;
    let moved_on: bool = db
        .value("select rotated from observer.apply_retention('0')")
        .await;
    assert!(moved_on, "the log is looked after");
    let users: i64 = db
        .value(
            "select count(*) from pg_proc where pronamespace = 'observer'::regnamespace and prosrc ~ 'advisory'",
        )
        .await;
    assert_eq!(users, 0);
    let refused = sqlx::query("select from observer.mutex for update")
        .execute(&mut *holder)
        .await;
    assert!(refused.is_err(), "the schema's own rows cannot be locked");
}
