//! Behind `PgBouncer`.

use std::path::Path;

use testkit::http_sink::{Behaviour, Sink};
use testkit::page::Page;
use testkit::servers::pooler::Pooler;
use url::Url;

use crate::support::listener::{Config, Process, observer};
use crate::support::program::command;
use crate::support::{TestDb, amounts_to, database};

/// A database, and a pooler before its server with so many connections to it.
async fn pooled(mode: &str, most: u32) -> (TestDb, Pooler, String) {
    let db = database().await;
    db.run(
        "create table orders (id int primary key); select observer.track('orders');
         create table first (id int); create table second (id int)",
    )
    .await;
    let pooler = Pooler::start(&Url::parse(&db.url).unwrap(), mode, most)
        .await
        .unwrap();
    let name: String = db.value("select current_database()::text").await;
    let url = pooler.url(&name);
    (db, pooler, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_poolers_are_refused_and_left_clean() {
    let (_db, _pooler, url) = pooled("transaction", 2).await;
    let hook = observer("hook", "public.orders", "http://127.0.0.1:9/", "");
    let config = Config::new(&url, "", &hook);
    let mut process = Process::run(&config);
    process.ends().await;
    let said = process.said();
    assert!(said.contains("pool_mode = session"), "{said}");
    let application = testkit::database::pool(&url).await;
    let changed: Vec<(String, String)> = sqlx::query_as(
        "select name, setting from pg_settings
         where name in ('enable_seqscan', 'jit', 'plan_cache_mode', 'search_path', 'statement_timeout')
             and source = 'session'",
    )
    .persistent(false)
    .fetch_all(&application)
    .await
    .unwrap();
    assert_eq!(changed, [], "of the listener's settings");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_sessions_will_do() {
    // As many as a process needs at once.
    let (db, _pooler, url) = pooled("session", 20).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hook = observer("hook", "public.orders", &sink.url("/"), "");
    let config = Config::new(&url, "", &hook);
    let process = Process::run(&config);
    db.run("insert into orders select generate_series(1, 20)")
        .await;
    sink.arrived(20).await;
    process.stop().await;
}

/// Two actions share the pooler's sessions, in which the name that one connection gave its statement may
/// be the other's.
#[tokio::test(flavor = "multi_thread")]
async fn each_action_runs_its_own_statement_behind_a_pooler() {
    let (db, _pooler, url) = pooled("transaction", 2).await;
    let action = |table: &str| {
        format!(
            "    - name: {table}\n      postgres:\n        url: {{value: {url:?}}}\n        \
             statement: insert into public.{table} values ($1::int)\n        parameters: [\"{{{{ new.id }}}}\"]\n      \
             retry: {{attempts: 50, initialBackoff: 20ms, maxBackoff: 100ms}}\n"
        )
    };
    let observers = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: two}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n{}{}",
        action("first"),
        action("second")
    );
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    for start in [0_u32, 200] {
        db.run(&format!(
            "insert into orders select generate_series({start} + 1, {start} + 200)"
        ))
        .await;
        for table in ["first", "second"] {
            let count = format!("select count(*) from {table}");
            amounts_to(table, u64::from(start) + 200, async || {
                db.value::<i64>(&count).await.unsigned_abs()
            })
            .await;
        }
    }
    process.stop().await;
    for table in ["first", "second"] {
        let count: i64 = db
            .value(&format!("select count(distinct id) from {table}"))
            .await;
        assert_eq!(count, 400, "of {table}");
    }
    let letters: i64 = db.value("select count(*) from observer.dead_letter").await;
    assert_eq!(letters, 0);
}

/// The settings that docs/how-to/pgbouncer.md prints, for a database of this server.
async fn documented(db: &TestDb) -> (Pooler, Url) {
    let server = Url::parse(&db.url).unwrap();
    let name: String = db.value("select current_database()::text").await;
    let at = format!(
        "host=127.0.0.1 port={} dbname={name}",
        server.port().unwrap()
    );
    let ini = |port: u16, users: &Path| {
        let changes = [
            ("host=10.0.0.5 port=5432 dbname=shop", at.as_str()),
            ("listen_port = 6432", &format!("listen_port = {port}")),
            ("/etc/pgbouncer/userlist.txt", users.to_str().unwrap()),
        ];
        Page::read("how-to/pgbouncer.md", &changes).blocks("ini")[0].to_owned()
    };
    let pooler = Pooler::start_as(&server, ini).await.unwrap();
    let mut url = server;
    url.set_port(Some(pooler.port())).unwrap();
    (pooler, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_settings_serve_application_listener_and_actions() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key); select observer.track('orders');
         create table mirrored (id int)",
    )
    .await;
    let (_pooler, mut url) = documented(&db).await;
    url.set_path("shop");
    let by_transaction = url.to_string();
    url.set_path("shop_sessions");
    let by_session = url.to_string();

    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let action = format!(
        "    - name: mirror\n      postgres:\n        url: {{value: {by_transaction:?}}}\n        \
         statement: insert into mirrored values ($1::int)\n        parameters: [\"{{{{ new.id }}}}\"]\n---\n"
    );
    let hook = observer("hook", "public.orders", &sink.url("/"), "").replace("---\n", &action);
    let config = Config::new(&by_session, "", &hook);
    let process = Process::run(&config);
    let application = testkit::database::pool(&by_transaction).await;
    for id in 1..=20 {
        let insert = format!("insert into orders values ({id})");
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert))
            .execute(&application)
            .await
            .unwrap();
    }
    sink.arrived(20).await;
    amounts_to("mirrored orders", 20, async || {
        let mirrored: i64 = db.value("select count(*) from mirrored").await;
        mirrored.unsigned_abs()
    })
    .await;
    let path = config.path();
    let files = path.to_str().unwrap();
    for command_line in [
        &["status", "-f", files][..],
        &["dead-letters", "list", "-f", files],
        &["migrate", "-f", files],
    ] {
        command(command_line).await.ok();
    }
    process.stop().await;

    config.change(
        &format!("url: {{value: \"{by_session}\"}}"),
        &format!("url: {{value: \"{by_transaction}\"}}"),
    );
    let mut process = Process::run(&config);
    process.ends().await;
    let said = process.said();
    assert!(said.contains("pool_mode = session"), "{said}");
}
