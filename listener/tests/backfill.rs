//! Backfills of tables that triggers log.

use std::collections::BTreeSet;
use std::sync::Arc;

use observer_listener::capture::change_log::{ChangeLog, ShardFilter};
use observer_listener::capture::position::{LogBound, Window};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};
use testkit::http_sink::{Behaviour, Sink};
use testkit::seed::seed;

use crate::support::backfills::{
    ALL_OPERATIONS, SHARED_KEY, backfill, goes_on_after_kills, never_older,
    rows_of_one_key_are_all_told, start,
};
use crate::support::fleet::{LONG_LEASE, SHORT_LEASE, files};
use crate::support::listener::{Config, Process, observer};
use crate::support::told::{keys_of, told};
use crate::support::writers::{Writers, make_table};
use crate::support::{TestDb, amounts_to, database, eventually};

fn reading(entity: &str, name: &str, sink: &Sink, path: &str) -> String {
    observer(name, entity, &sink.url(path), "")
        .replace("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS)
}

/// A listener of the counters that is told what is read, too.
fn counters(url: &str, spec: &str, sink: &Sink) -> Config {
    let config = files(url, spec, sink, "/");
    config.change("[Insert, Update, Delete, Truncate, Custom]", ALL_OPERATIONS);
    config
}

async fn read_rows(db: &TestDb) -> i64 {
    db.value("select count(*) from observer.change_log where operation = 'r'")
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_sent_as_they_are_logged_and_to_whom_they_are_for() {
    let db = database().await;
    db.run(
        "create table items (org text, id int, secret text, price numeric, primary key (org, id));
         select observer.track('items', tenant => 'org', exclude => '{secret}');
         insert into items select o, n, 'hidden', n * 1.50 from unnest('{a,b}'::text[]) o, generate_series(1, 700) n;
         truncate observer.change_log",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = reading("public.items", "first", &sink, "/first")
        + &reading("public.items", "second", &sink, "/second");
    let config = Config::new(&db.url, LONG_LEASE, &observers);
    let mut process = Process::run(&config);
    process.says("running").await;
    let other = Config::new(
        &db.url,
        LONG_LEASE,
        &reading("public.items", "third", &sink, "/third"),
    );
    other.change("metadata: {name: test}", "metadata: {name: other}");
    let mut of_other = Process::run(&other);
    of_other.says("running").await;

    let end = start(&config, &["--table", "public.items", "--where", "id<=600"]).await;
    assert_eq!(
        (&end["state"], &end["rowsRead"]),
        (&json!("Completed"), &json!(1200))
    );
    keys_of(&sink, "/first", 1200).await;
    keys_of(&sink, "/second", 1200).await;
    let bodies: Vec<Value> = told(&sink)
        .into_iter()
        .filter(|one| one.path == "/first")
        .map(|one| one.body)
        .collect();
    let keys: BTreeSet<String> = bodies.iter().map(|body| body["key"].to_string()).collect();
    assert_eq!(keys.len(), 1200, "each row once");
    let one = bodies
        .iter()
        .find(|body| body["key"] == "[\"b\", 2]")
        .unwrap();
    let row: Value = serde_json::from_str(r#"{"org": "b", "id": 2, "price": 3.00}"#).unwrap();
    assert_eq!(
        (
            &one["operation"],
            &one["tenant"],
            &one["old"],
            &one["new"],
            &one["changed"]
        ),
        (&json!("Read"), &json!("b"), &Value::Null, &row, &json!([]))
    );

    let only = [
        "--table",
        "public.items",
        "--where",
        "org=a",
        "--where",
        "id>690",
        "--observer",
        "second",
    ];
    let end = start(&config, &only).await;
    assert_eq!(end["rowsRead"], json!(10));
    keys_of(&sink, "/second", 1210).await;
    // What comes after it shows that nothing was sent to others.
    db.run("insert into items values ('z', 1)").await;
    for (path, count) in [("/first", 1201), ("/second", 1211), ("/third", 1)] {
        assert_eq!(keys_of(&sink, path, count).await.len(), count, "{path}");
    }
    let same: i64 = db
        .value(
            "select count(*) from observer.change_log r join items t on r.key = json_build_array(t.org, t.id)::text
             where r.operation = 'r' and r.tenant = t.org and r.hash = observer.hash_of(t.org, 'public.items', r.key)
               and r.size = octet_length(r.new::text)
               and r.new::text = (select row_to_json(v.*)::text from (select t.org, t.id, t.price) v)",
        )
        .await;
    assert_eq!(same, 1210, "as by the triggers");
    process.stop().await;
    of_other.stop().await;
}

/// Lets time pass between the snapshot of a page and its commit.
const SLOW_PAGES: &str = "
    create function slow() returns trigger language plpgsql as $$
    begin
        if new.rows_read > old.rows_read then perform pg_sleep(0.03); end if;
        return new;
    end $$;
    create trigger slow before update on observer.backfill for each row execute function slow()";

/// Keeps pages from being committed until it is dropped.
struct HeldPages(sqlx::PgConnection);

impl HeldPages {
    async fn hold(db: &TestDb) -> Self {
        db.run(&SLOW_PAGES.replace("pg_sleep(0.03)", "pg_advisory_xact_lock(4711)"))
            .await;
        let mut held = sqlx::PgConnection::connect(&db.url).await.unwrap();
        held.execute("select pg_advisory_lock(4711)").await.unwrap();
        Self(held)
    }

    /// Waits until a page is read and not committed.
    async fn one_is_written(&self, db: &TestDb) {
        eventually("the page is being written", async || {
            let writing = "select count(*) from pg_stat_activity
                           where wait_event = 'advisory' and datname = current_database()";
            (db.value::<i64>(writing).await == 1).then_some(())
        })
        .await;
    }

    async fn release(mut self) {
        self.0
            .execute("select pg_advisory_unlock(4711)")
            .await
            .unwrap();
    }
}

/// A listener that backfills ten rows of `items`, tracked with these options, whose page is read and held.
async fn page_of_items(db: &TestDb, options: &str) -> (HeldPages, Sink, Config, Process) {
    db.run(&format!(
        "create table items (id int primary key, org text, v int);
         select observer.track('items', {options});
         insert into items select n, 'a', 0 from generate_series(1, 10) n"
    ))
    .await;
    let pages = HeldPages::hold(db).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        LONG_LEASE,
        &reading("public.items", "items", &sink, "/"),
    );
    config.change("  database:\n", "  startAt: Now\n  database:\n");
    let mut process = Process::run(&config);
    process.says("running").await;
    let detached = ["start", "--yes", "--detach", "--table", "public.items"];
    backfill(&config, &detached).await.ok();
    pages.one_is_written(db).await;
    (pages, sink, config, process)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_change_meanwhile_are_never_older() {
    let (db, seed) = (database().await, seed());
    make_table(&db.pool).await;
    db.run(SLOW_PAGES).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = counters(&db.url, LONG_LEASE, &sink);
    let process = Process::run(&config);
    let writers = Writers::start(&db.url, 6, seed);
    sink.arrived(50).await;
    for _ in 0..8 {
        let end = start(&config, &["--table", "public.kv"]).await;
        assert_eq!(end["state"], "Completed");
    }
    writers.stop().await;
    let end = start(&config, &["--table", "public.kv"]).await;
    assert_eq!(end["rowsRead"], 41);
    crate::support::all_is_behind(&db).await;
    let reads = eventually("without writers, nothing is left out", async || {
        Some(never_older(&sink)).filter(|reads| reads.len() == 41)
    })
    .await;
    let all: usize = reads.values().sum();
    let logged = usize::try_from(read_rows(&db).await).unwrap();
    assert!(
        all < logged,
        "some of {logged} rows were passed over, {all} were not"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_share_a_key_are_told_apart() {
    let (db, seed) = (database().await, seed());
    make_table(&db.pool).await;
    db.run(SHARED_KEY).await;
    db.run("select observer.track('kv', key => '{lane}')").await;
    db.run(SLOW_PAGES).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = counters(&db.url, LONG_LEASE, &sink);
    config.change("  database:\n", "  startAt: Now\n  database:\n");
    let mut process = Process::run(&config);
    process.says("running").await;
    let writers = Writers::start(&db.url, 6, seed);
    rows_of_one_key_are_all_told(&db.pool, (&config, &sink), writers).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rows_that_share_a_key_are_passed_over_alone() {
    let db = database().await;
    let (pages, sink, config, process) = page_of_items(&db, "key => '{org}'").await;
    db.run(
        "delete from items where id = 1; update items set id = 20 where id = 2;
         update items set org = 'b' where id = 3; update items set v = 1 where id = 4",
    )
    .await;
    pages.release().await;
    let reads = eventually("the other rows are told", async || {
        let read = told(&sink)
            .into_iter()
            .filter(|one| one.body["operation"] == "Read");
        let rows: Vec<i64> = read
            .map(|one| one.body["new"]["id"].as_i64().unwrap())
            .collect();
        (rows.len() >= 6).then_some(rows)
    })
    .await;
    assert_eq!(reads, [5, 6, 7, 8, 9, 10]);
    db.run("select observer.track('items', key => '{org}', exclude => '{id}')")
        .await;
    let refused = backfill(&config, &["start", "--yes", "--table", "public.items"]).await;
    let said = refused.said();
    assert!(
        said.contains("rows of public.items share keys, and the column id"),
        "{said}"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_deleted_or_moved_meanwhile_are_passed_over() {
    let db = database().await;
    let (pages, sink, _config, process) = page_of_items(&db, "tenant => 'org'").await;
    db.run(
        "delete from items where id = 1; update items set id = 20 where id = 2;
         update items set org = 'b' where id = 3; update items set v = 1 where id = 4;
         select observer.emit('public.items', '{}'::json, 5)",
    )
    .await;
    // These are delivered before the page is committed.
    keys_of(&sink, "/", 6).await;
    pages.release().await;
    let reads = || -> Vec<String> {
        let read = told(&sink)
            .into_iter()
            .filter(|one| one.body["operation"] == "Read");
        read.map(|one| one.body["key"].as_str().unwrap().to_owned())
            .collect()
    };
    keys_of(&sink, "/", 12).await;
    // What is delivered of each shard now is after what was written before.
    db.run("insert into items select n, 'a', 0 from generate_series(100, 199) n")
        .await;
    keys_of(&sink, "/", 112).await;
    let mut keys = reads();
    keys.sort();
    assert_eq!(keys, ["10", "5", "6", "7", "8", "9"]);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_goes_on_after_kills_and_repeats_no_row() {
    let (db, seed) = (database().await, seed());
    make_table(&db.pool).await;
    db.run("insert into kv select n, 0 from generate_series(2000, 5999) n")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = counters(&db.url, SHORT_LEASE, &sink);
    config.change("  database:\n", "  startAt: Now\n  database:\n");
    let mut first = Process::run(&config);
    first.says("running").await;
    let writers = Writers::start(&db.url, 3, seed);
    let process = goes_on_after_kills(&db.pool, (&config, &sink), first, (writers, seed)).await;
    assert!(read_rows(&db).await >= 4_040);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_all_kinds_are_paged_by() {
    const KINDS: [(&str, &str); 15] = [
        ("bigint", "n"),
        ("numeric", "n / 3.0"),
        (
            "float8",
            "case n when 7 then 'NaN'::float8 when 8 then '-Infinity' else n / 3.0 end",
        ),
        (
            "text",
            "case n % 3 when 0 then 'é' when 1 then '\"' else ' ' end || n",
        ),
        ("citext", "chr(65 + n % 26) || chr(97 + n % 25) || n"),
        ("char(8)", "n::text"),
        ("varchar(20)", "n || '.'"),
        ("uuid", "md5(n::text)::uuid"),
        (
            "timestamptz",
            "'2024-03-31 00:00+00'::timestamptz + n * interval '1.000001 min'",
        ),
        ("interval", "n * interval '25 hours 0.5 s'"),
        ("bytea", "decode(md5(n::text), 'hex')"),
        ("inet", "'10.0.0.0'::inet + n"),
        ("int4range", "int4range(n, n + 2)"),
        ("int[]", "array[n % 7, n]"),
        ("small", "n"),
    ];
    let db = database().await;
    db.run(
        "create extension if not exists citext; create domain small as int check (value > 0);
         set datestyle = 'SQL, DMY'",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let mut observers = String::new();
    for (n, (kind, value)) in KINDS.iter().enumerate() {
        db.run(&format!(
            "create table \"T {n}\" (k {kind} primary key, n int); select observer.track('\"T {n}\"');
             insert into \"T {n}\" select {value}, n from generate_series(1, 1300) n"
        ))
        .await;
        observers += &reading(&format!("public.T {n}"), &format!("t{n}"), &sink, "/");
    }
    db.run("do $$ begin execute format('alter database %I set datestyle = ''SQL, DMY''', current_database()); end $$")
        .await;
    let config = Config::new(&db.url, LONG_LEASE, &observers);
    config.change("  database:\n", "  startAt: Now\n  database:\n");
    let mut process = Process::run(&config);
    process.says("running").await;
    for (n, (kind, _)) in KINDS.iter().enumerate() {
        let end = start(&config, &["--table", &format!("public.T {n}")]).await;
        assert_eq!(
            (&end["state"], &end["rowsRead"]),
            (&json!("Completed"), &json!(1300)),
            "{kind}"
        );
    }
    let missing: i64 = db
        .value(
            "select count(*) from generate_series(0, 14) t, generate_series(1, 1300) n
             where not exists (select from observer.change_log where entity = 'public.T ' || t and (new ->> 'n')::int = n
                               and operation = 'r')",
        )
        .await;
    assert_eq!(missing, 0);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_backfilled_says_so_with_the_remedy() {
    let db = database().await;
    db.run(
        "create table plain (n int); select observer.track('plain', key => '{n}');
         create table untracked (id int primary key); insert into untracked values (1);
         create table parts (id int primary key) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (10000);
         create view seen as select 1 as id; insert into parts values (1), (2); select observer.track('parts')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let tables = ["plain", "untracked", "parts", "parts_1", "seen"];
    let observers: String = tables
        .iter()
        .map(|table| {
            reading(
                &format!("public.{table}"),
                &table.replace('_', "-"),
                &sink,
                "/",
            )
        })
        .collect();
    let deaf = observer("deaf", "public.orders", &sink.url("/"), "");
    let config = Config::new(&db.url, LONG_LEASE, &(observers + &deaf));
    let mut process = Process::run(&config);
    process.says("running").await;
    let says = async |args: &[&str], text: &str| {
        let args = [&["start", "--yes"], args].concat();
        let ended = backfill(&config, &args).await;
        let said = ended.said();
        assert!(said.contains(text), "{args:?}: {said}");
    };
    says(&["--table", "public.plain"], "has no primary key").await;
    says(&["--table", "public.parts_1"], "is a partition").await;
    says(&["--table", "public.seen"], "is not a table").await;
    says(
        &["--table", "public.none"],
        "no observer of the listener watches Read",
    )
    .await;
    says(
        &["--table", "public.orders"],
        "add Read to spec.events.operations",
    )
    .await;
    says(
        &["--table", "public.parts", "--observer", "none"],
        "runs no observer default/none",
    )
    .await;
    says(
        &["--table", "public.parts", "--where", "x=1"],
        "has no column x",
    )
    .await;
    says(
        &["--table", "public.parts", "--where", "x"],
        "write a column, one of",
    )
    .await;
    says(
        &["--table", "public.parts", "--where", "id=one"],
        "invalid input syntax",
    )
    .await;
    says(
        &["--table", "public.untracked"],
        "observer.track('public.untracked')",
    )
    .await;
    let unsure = backfill(&config, &["start", "--table", "public.parts"]).await;
    assert!(unsure.said().contains("add --yes"), "{}", unsure.said());

    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_or_was_cancelled_goes_on_where_it_was() {
    let db = database().await;
    db.run(
        "create table later (id int primary key); insert into later values (1);
         create table parts (id int primary key) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (10000);
         insert into parts values (1), (2); select observer.track('parts');
         create table uniquely (a int not null, b text not null, unique (a, b)); insert into uniquely values (1, 'x');
         select observer.track('uniquely', key => '{a,b}')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers: String = ["later", "parts", "uniquely"]
        .iter()
        .map(|table| reading(&format!("public.{table}"), table, &sink, "/"))
        .collect();
    let config = Config::new(&db.url, LONG_LEASE, &observers);
    let mut process = Process::run(&config);
    process.says("running").await;
    let said = backfill(&config, &["start", "--yes", "--table", "public.later"])
        .await
        .said();
    assert!(said.contains("observer.track('public.later')"), "{said}");
    db.run("select observer.track('later')").await;
    let id = db
        .value::<i64>("select max(id) from observer.backfill where entity = 'public.later'")
        .await
        .to_string();
    backfill(&config, &["resume", &id]).await.ok();
    amounts_to("rows", 1, async || read_rows(&db).await.unsigned_abs()).await;
    for table in ["public.parts", "public.uniquely"] {
        let end = start(&config, &["--table", table]).await;
        assert_eq!(end["state"], "Completed", "{table}");
    }
    assert_eq!(read_rows(&db).await, 4);
    let again = backfill(&config, &["resume", &id]).await.said();
    assert!(
        again.contains("is Completed, so there is nothing to do"),
        "{again}"
    );
    let unknown = backfill(&config, &["cancel", "999"]).await.said();
    assert!(unknown.contains("has no backfill 999"), "{unknown}");

    // One that is slow can be cancelled, and goes on where it was.
    db.run("insert into parts select generate_series(3, 999)")
        .await;
    backfill(
        &config,
        &[
            "start",
            "--yes",
            "--detach",
            "--table",
            "public.parts",
            "--rate",
            "2",
        ],
    )
    .await
    .ok();
    let before = read_rows(&db).await;
    eventually("it has begun", async || {
        (read_rows(&db).await > before).then_some(())
    })
    .await;
    let id = db
        .value::<i64>("select max(id) from observer.backfill")
        .await
        .to_string();
    backfill(&config, &["cancel", &id]).await.ok();
    let list = backfill(&config, &["list"]).await.ok();
    assert!(list.contains("Cancelled"), "{list}");
    // By another key it would go on somewhere else.
    db.run("alter table parts drop constraint parts_pkey, add n int not null default 0, add primary key (n, id)")
        .await;
    backfill(&config, &["resume", &id]).await.ok();
    eventually("it fails", async || {
        let list = backfill(&config, &["list"]).await.ok();
        list.contains("start another one").then_some(())
    })
    .await;
    db.run("alter table parts drop constraint parts_pkey, add primary key (id)")
        .await;
    let read = db
        .value::<i64>("select rows_read from observer.backfill order by id desc limit 1")
        .await;
    let rest = read + 4;
    db.run(&format!("delete from parts where id > {rest}"))
        .await;
    backfill(&config, &["resume", &id]).await.ok();
    amounts_to("rows", 4 + rest.unsigned_abs(), async || {
        read_rows(&db).await.unsigned_abs()
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_may_begin_with_the_rows_that_are_there() {
    let db = database().await;
    make_table(&db.pool).await;
    db.run("update kv set v = 1").await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = counters(&db.url, LONG_LEASE, &sink);
    config.change("  database:\n", "  startAt: Backfill\n  database:\n");
    let process = Process::run(&config);
    keys_of(&sink, "/", 40).await;
    process.stop().await;
    let process = Process::run(&config);
    db.run("update kv set v = 2").await;
    keys_of(&sink, "/", 80).await;
    let reads = never_older(&sink);
    assert_eq!(reads.len(), 40);
    assert!(
        reads.values().all(|times| *times == 1),
        "once, and not at each start"
    );
    let operations: BTreeSet<String> = told(&sink)
        .iter()
        .map(|one| one.body["operation"].to_string())
        .collect();
    assert!(operations.len() == 2, "nothing from before: {operations:?}");
    process.stop().await;
}

/// A page of the row with key 1, in a transaction that is open.
async fn open_page(db: &TestDb) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let low_id: i64 = db.value("select observer.low_watermark()").await;
    let mut page = db.pool.begin().await.unwrap();
    let sql = format!(
        "set transaction isolation level repeatable read;
         insert into observer.backfill_page (xid, listener, snapshot, low_id)
         values (pg_current_xact_id(), 'test', pg_current_snapshot(), {low_id});
         insert into observer.change_log (partition_no, hash, size, operation, entity, key, new)
         select partition_no, observer.hash_of(null, 'public.kv', k::text), 9, 'r', 'public.kv', k::text, row_to_json(kv.*)
         from kv, observer.log_partition_state where k = 1"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut *page)
        .await
        .unwrap();
    page
}

#[tokio::test]
async fn who_takes_over_passes_over_what_the_process_before_passed_over() {
    let db = database().await;
    make_table(&db.pool).await;
    let log = ChangeLog::open(db.pool.clone()).await.unwrap();
    let bound = async || Arc::new(log.current_bound().await.unwrap());
    let read = async |from: &Arc<LogBound>, to: &Arc<LogBound>| -> Vec<i64> {
        let window = Window {
            from: Arc::clone(from),
            to: Arc::clone(to),
        };
        let all = ShardFilter {
            shards: &[0],
            shard_count: 1,
        };
        let page = log.read_page(&window, 0, all, "test").await.unwrap();
        let values = page.events.iter().map(|one| {
            let row = one.event.new.as_ref().unwrap().get();
            serde_json::from_str::<Value>(row).unwrap()["v"]
                .as_i64()
                .unwrap()
        });
        values.collect()
    };

    // The change has the larger id, and was delivered before the page was committed.
    let begin = bound().await;
    let page = open_page(&db).await;
    db.run("update kv set v = 1 where k = 1").await;
    let change = bound().await;
    assert_eq!(read(&begin, &change).await, [1]);
    page.commit().await.unwrap();
    let end = bound().await;
    assert_eq!(read(&begin, &end).await, [1], "by who takes over");

    // The change has the smaller id, and one reader has both in a window, where it comes first. Another one, which had
    // been ahead when the page was committed, has them in two.
    let mut writer = db.pool.begin().await.unwrap();
    sqlx::query("update kv set v = 2 where k = 1")
        .execute(&mut *writer)
        .await
        .unwrap();
    let begin = bound().await;
    let page = open_page(&db).await;
    page.commit().await.unwrap();
    let between = bound().await;
    writer.commit().await.unwrap();
    let end = bound().await;
    assert_eq!(read(&begin, &end).await, [2]);
    assert_eq!(
        read(&begin, &between).await,
        [0_i64; 0],
        "by who takes over"
    );

    // What is logged once the page is known comes after it for everybody.
    let begin = bound().await;
    open_page(&db).await.commit().await.unwrap();
    let page = bound().await;
    assert_eq!(read(&begin, &page).await, [2]);
    db.run("update kv set v = 3 where k = 1").await;
    assert_eq!(read(&begin, &bound().await).await, [2, 3]);
}
