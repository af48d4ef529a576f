//! Behind `PgBouncer`.

use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::pooler::Pooler;
use url::Url;

use crate::support::listener::{Config, Process, observer};
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
