//! Tables that the resource lists are tracked as it lists them: by a run, and by the command `track`.

use testkit::http_sink::{Behaviour, Sink};

use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process, observer};
use crate::support::program::{Ended, command};
use crate::support::told::{keys_of, told};
use crate::support::{TestDb, database, eventually};

const NOBODY: &str = "http://127.0.0.1:9/";

/// The part of a listener's spec that lists tables.
fn listing(tables: &str) -> String {
    format!("{LONG_LEASE}  source: {{triggers: {{tables: [{tables}]}}}}")
}

/// Files of a listener of `public.orders`.
fn config(url: &str, tables: &str) -> Config {
    Config::new(
        url,
        &listing(tables),
        &observer("a", "public.orders", NOBODY, ""),
    )
}

async fn track(config: &Config, more: &[&str]) -> Ended {
    let path = config.path();
    command(&[&["track", "-f", path.to_str().unwrap()], more].concat()).await
}

/// How tables are tracked, one a line.
async fn tracked(db: &TestDb) -> String {
    db.value(
        "select coalesce(string_agg(concat_ws(' ', entity, key, coalesce(tenant, '-'), exclude, trouble), E'\\n'
            order by entity), '') from observer.tracked",
    )
    .await
}

async fn is_tracked(db: &TestDb, so: &str) {
    eventually(&format!("tables are tracked: {so}"), async || {
        (tracked(db).await == so).then_some(())
    })
    .await;
}

/// The statements that owners are told to run.
fn told_sql(said: &str) -> Vec<String> {
    let statements = said.lines().filter_map(|line| {
        let (_, sql) = line.split_once("have its owner run ")?;
        Some(sql.split_once(';')?.0.to_owned())
    });
    statements.collect()
}

/// A login for all that a listener does, without these rights.
async fn login(db: &TestDb, without: &str) -> String {
    let role = db.role("listener", "login password 'p'").await;
    db.run(&format!(
        "grant usage on schema observer to {role}; grant all on all tables in schema observer to {role};
         grant all on all sequences in schema observer to {role};
         grant execute on all functions in schema observer to {role};
         grant trigger on all tables in schema public to {role};
         revoke {without} from {role}"
    ))
    .await;
    db.url_as(&role, "p")
}

#[tokio::test]
async fn listed_tables_are_tracked_by_a_run_and_changed_with_the_list() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, org text not null, secret text);
         create table other (id int primary key, org text);
         select observer.track('other', tenant => 'org')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        &listing("{table: public.orders, tenant: org, exclude: [secret]}"),
        &observer("a", "public.orders", &sink.url("/"), ""),
    );
    let process = Process::run(&config);
    is_tracked(
        &db,
        "public.orders {id} org {secret}\npublic.other {id} org {}",
    )
    .await;
    db.run("insert into orders values (7, 'acme', 'x')").await;
    assert_eq!(keys_of(&sink, "/", 1).await, ["7"]);
    let body = &told(&sink)[0].body;
    assert_eq!(body["tenant"], "acme");
    assert!(body["new"].get("secret").is_none(), "{body}");
    process.stop().await;
    config.change("tenant: org, exclude: [secret]", "key: [org, id]");
    let process = Process::run(&config);
    is_tracked(&db, "public.orders {org,id} - {}\npublic.other {id} org {}").await;
    let said = process.stop().await;
    assert!(!said.contains("is not tracked"), "{said}");
}

#[tokio::test]
async fn table_that_comes_later_is_tracked_then() {
    let db = database().await;
    let config = config(&db.url, "{table: public.orders}, {table: public.unwatched}");
    let mut process = Process::run(&config);
    process
        .says("there is no table public.unwatched; it is tracked once it is there")
        .await;
    process.says("there is no table public.orders").await;
    db.run("create table orders (id int primary key); create table unwatched (id int primary key)")
        .await;
    is_tracked(&db, "public.orders {id} - {}\npublic.unwatched {id} - {}").await;
    process
        .says("resolved: there is no table public.orders")
        .await;
    process.stop().await;
}

#[tokio::test]
async fn user_without_rights_is_told_the_statement_that_its_owner_runs() {
    for without in [
        "execute on function observer.track",
        "trigger on table orders",
    ] {
        let db = database().await;
        db.run("create table orders (id int primary key, org text, \"odd'\" text)")
            .await;
        let url = login(&db, without).await;
        let config = config(
            &url,
            "{table: public.orders, tenant: org, exclude: [\"odd'\"]}",
        );
        let mut process = Process::run(&config);
        process.says("have its owner run").await;
        let said = told_sql(&process.said());
        assert_eq!(tracked(&db).await, "");
        db.run(&said[0]).await;
        is_tracked(&db, "public.orders {id} org {odd'}").await;
        process
            .says("resolved: public.orders is not tracked as it is listed")
            .await;
        process.stop().await;
    }
}

#[tokio::test]
async fn column_that_is_missing_is_named() {
    let db = database().await;
    db.run("create table orders (id int primary key)").await;
    let config = config(&db.url, "{table: public.orders, tenant: org}");
    let mut process = Process::run(&config);
    process.says("public.orders has no column org").await;
    db.run("alter table orders add column org text").await;
    is_tracked(&db, "public.orders {id} org {}").await;
    process.stop().await;
}

#[tokio::test]
async fn table_with_an_open_writer_does_not_stop_the_listener() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key); create table other (id int primary key);
         select observer.track('other')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = [
        observer("a", "public.orders", NOBODY, ""),
        observer("b", "public.other", &sink.url("/"), ""),
    ];
    let config = Config::new(
        &db.url,
        &listing("{table: public.orders}"),
        &observers.concat(),
    );
    let mut writes = db.pool.begin().await.unwrap();
    sqlx::query("insert into orders values (1)")
        .execute(&mut *writes)
        .await
        .unwrap();
    let mut process = Process::run(&config);
    process
        .says("is not tracked as it is listed yet, as a transaction that writes to it is open")
        .await;
    db.run("insert into other values (5)").await;
    assert_eq!(keys_of(&sink, "/", 1).await, ["5"]);
    assert_eq!(tracked(&db).await, "public.other {id} - {}");
    writes.commit().await.unwrap();
    is_tracked(&db, "public.orders {id} - {}\npublic.other {id} - {}").await;
    process.stop().await;
}

#[tokio::test]
async fn first_run_with_a_backfill_tracks_before_it() {
    let db = database().await;
    db.run("create table orders (id int primary key); insert into orders values (1), (2)")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let reads =
        observer("a", "public.orders", &sink.url("/"), "").replace("[Insert", "[Read, Insert");
    let spec = format!("{}\n  startAt: Backfill", listing("{table: public.orders}"));
    let config = Config::new(&db.url, &spec, &reads);
    let process = Process::run(&config);
    let mut keys = keys_of(&sink, "/", 2).await;
    keys.sort();
    assert_eq!(keys, ["1", "2"]);
    let said = process.stop().await;
    let at = |text: &str| said.find(text).unwrap();
    assert!(at("tracked as it is listed") < at(": running"), "{said}");
}

#[tokio::test]
async fn check_takes_listed_tables_as_tracked() {
    let db = database().await;
    db.run("create table orders (id int primary key, org text)")
        .await;
    let config = config(&db.url, "{table: public.orders, tenant: org}");
    let path = config.path();
    let check = ["check", "--online", "-f", path.to_str().unwrap()];
    command(&check).await.ok();
    config.change("public.orders,", "public.order,");
    let ended = command(&check).await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    let missing = "spec.source.triggers.tables[0]: there is no table public.order;";
    assert!(ended.err.contains(missing), "{}", ended.said());
    assert!(
        ended.err.contains("public.orders is not tracked"),
        "{}",
        ended.said()
    );
    assert_eq!(tracked(&db).await, "");
}

#[tokio::test]
async fn command_tracks_what_is_listed_and_nothing_twice() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, org text, note text);
         create table parts (id int, org text, primary key (id)) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (10);
         create schema core;
         create table core.log (object_type text, modification_type text, object_id text, object_data jsonb)",
    )
    .await;
    let config = config(
        &db.url,
        "{table: public.orders, tenant: org, exclude: [note]}, {table: public.parts}, \
         {table: core.log, contents: EntityChanges}",
    );
    let calls = [
        "select observer.track('public.orders', tenant => 'org', exclude => '{note}');",
        "select observer.track('public.parts');",
        "select observer.track_entity_changes('core.log');",
    ];
    let said = track(&config, &["--dry-run"]).await.ok();
    assert_eq!(said.lines().collect::<Vec<_>>(), calls);
    assert_eq!(tracked(&db).await, "");
    let said = track(&config, &[]).await.ok();
    for (call, of) in calls
        .iter()
        .zip(["public.orders", "public.parts", "core.log"])
    {
        assert!(said.contains(&format!("{of}: done: {call}")), "{said}");
    }
    assert_eq!(
        tracked(&db).await,
        "public.orders {id} org {note}\npublic.parts {id} - {}"
    );
    let said = track(&config, &[]).await.ok();
    assert_eq!(said.matches(": there already\n").count(), 3, "{said}");
    // A partition that was attached is tracked with its root.
    db.run("create table parts_2 partition of parts for values from (10) to (20)")
        .await;
    let said = track(&config, &["--dry-run"]).await.ok();
    assert_eq!(
        said,
        "-- public.orders: there already\nselect observer.track('public.parts');\n-- core.log: there already\n"
    );
    track(&config, &[]).await.ok();
    let members: i64 = db
        .value("select count(*) from pg_trigger where tgrelid = 'parts_2'::regclass and tgname like 'observer_%'")
        .await;
    assert_eq!(members, 4);
    // What is left out is reset.
    config.change("tenant: org, exclude: [note]", "key: [org]");
    track(&config, &[]).await.ok();
    config.change("key: [org]", "contents: Rows");
    let said = track(&config, &[]).await.ok();
    assert!(
        said.contains("done: select observer.track('public.orders', key => '{}');"),
        "{said}"
    );
    assert_eq!(
        tracked(&db).await,
        "public.orders {id} - {}\npublic.parts {id} - {}"
    );
    // A log of entities becomes a table of rows.
    db.run("alter table core.log add column id int primary key")
        .await;
    config.change(", contents: EntityChanges", "");
    let said = track(&config, &[]).await.ok();
    let both = "select observer.untrack('core.log'); select observer.track('core.log');";
    assert!(said.contains(both), "{said}");
    let said = track(&config, &[]).await.ok();
    assert_eq!(said.matches(": there already\n").count(), 3, "{said}");
}

#[tokio::test]
async fn several_at_once_do_not_disturb_each_other() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key);
         create table parts (id int primary key) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (10);
         create table parts_2 partition of parts for values from (10) to (20)",
    )
    .await;
    let config = config(&db.url, "{table: public.parts}, {table: public.orders}");
    let all = futures::future::join_all((0..4).map(|_| track(&config, &[]))).await;
    for ended in all {
        ended.ok();
    }
    assert_eq!(
        tracked(&db).await,
        "public.orders {id} - {}\npublic.parts {id} - {}"
    );
}

#[tokio::test]
async fn user_who_does_not_own_a_table_cannot_change_its_contents() {
    let db = database().await;
    db.run(
        "create table orders (object_type text, modification_type text, object_id text primary key, object_data json);
         select observer.track('orders')",
    )
    .await;
    let url = login(&db, "execute on function observer.log_event").await;
    let config = config(&url, "{table: public.orders, contents: EntityChanges}");
    let ended = track(&config, &["--dry-run"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let sql = "select observer.untrack('public.orders'); select observer.track_entity_changes('public.orders');";
    assert!(ended.out.contains(sql), "{}", ended.said());
    db.run(sql).await;
    track(&config, &[]).await.ok();
}

#[tokio::test]
async fn command_ends_with_1_and_the_statement_where_rights_are_missing() {
    let db = database().await;
    db.run("create table orders (id int primary key); create table other (id int primary key)")
        .await;
    let url = login(&db, "trigger on table orders").await;
    let config = config(
        &url,
        "{table: public.orders}, {table: public.other}, {table: public.none}",
    );
    for more in [&["--dry-run"] as &[_], &[]] {
        let ended = track(&config, more).await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        assert!(
            ended.err.contains("2 things are missing"),
            "{}",
            ended.said()
        );
        assert!(
            ended.out.contains("there is no table public.none"),
            "{}",
            ended.said()
        );
        assert_eq!(
            told_sql(&ended.out),
            ["select observer.track('public.orders')"]
        );
    }
    assert_eq!(tracked(&db).await, "public.other {id} - {}");
    db.run("select observer.track('public.orders'); create table none (id int primary key)")
        .await;
    config.change(", {table: public.none}", "");
    track(&config, &[]).await.ok();
}

#[tokio::test]
async fn command_says_how_to_list_tables() {
    let db = database().await;
    let config = config(&db.url, "");
    let said = track(&config, &[]).await.ok();
    assert!(said.contains("spec.source.triggers.tables"), "{said}");
    config.change(
        "triggers: {tables: []}",
        "kafka: {brokers: [localhost], topics: [{topic: orders}]}",
    );
    let said = track(&config, &[]).await.ok();
    assert!(said.contains("nothing to prepare"), "{said}");
}
