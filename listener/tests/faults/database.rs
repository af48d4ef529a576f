//! Databases, Redis and search servers that are away, and transactions that block.

use sqlx::Executor as _;
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};
use testkit::servers::redis::{Options, PrivateRedis};

use super::{Scene, Watch, load};
use crate::enrich::{answers, lookup};
use crate::support::fleet::LONG_LEASE;
use crate::support::listener::Config;
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{eventually, own_server};

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_is_away() {
    let watch = Watch::start(1).await;
    let (server, pool) = own_server().await;
    make_rows(&pool).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(&server.url("postgres"), LONG_LEASE, &rows_to(&sink, "/"));
    let mut process = watch.run(0, &config);
    change_rows(&pool, 1).await;
    all_told(&sink, 1).await;
    watch.reads_all().await;
    server.crash().await.unwrap();
    let firing = watch.tells("Postgres away", Some(&mut process)).await;
    // A long outage ends the session, and is counted all the same.
    eventually("attempts to begin a session are counted", async || {
        let counted = "observer_database_errors_total{operation=\"begin_session\"} > 1";
        (!watch.values(counted).await.is_empty()).then_some(())
    })
    .await;
    server.resume().await.unwrap();
    firing.ends().await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_holds_a_lock() {
    let spec = format!("{LONG_LEASE}  stalledAfter: 5s\n  delivery: {{drainTimeout: 1s}}\n");
    let mut scene = Scene::start(&spec, |observer| observer).await;
    let mut blocking = scene.db.connect().await;
    blocking.execute("begin").await.unwrap();
    let lock = "select from observer.checkpoint for update";
    blocking.execute(lock).await.unwrap();
    let load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Transaction blocks", Some(&mut scene.process))
        .await;
    drop(load);
    blocking.execute("rollback").await.unwrap();
    firing.ends().await;
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_of_the_queue_that_is_away() {
    let redis = PrivateRedis::start(&Options::default()).await.unwrap();
    let spec = format!("{LONG_LEASE}{}", crate::jobs::in_redis(&redis));
    let mut scene = Scene::start(&spec, |observer| observer).await;
    redis.crash().await.unwrap();
    let firing = scene
        .watch
        .tells("Redis away (queue)", Some(&mut scene.process))
        .await;
    redis.resume().await.unwrap();
    firing.ends().await;
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_of_the_cache_that_is_away() {
    let redis = PrivateRedis::start(&Options::default()).await.unwrap();
    let spec = format!(
        "{LONG_LEASE}  redis: {{url: {{value: \"{}\"}}}}\n",
        redis.url()
    );
    let api = answers(|_, _| (200, "0.19".to_owned())).await;
    let rate = lookup("rate", &api.url("/"), "") + "      cache: {ttl: 1s}\n";
    let mut scene = Scene::start(&spec, |observer| {
        let observer = observer.replace("  actions:\n", &format!("  enrich:{rate}  actions:\n"));
        let condition = "- name: post\n      when: enrich.rate > 0\n";
        observer.replace("- name: post\n", condition)
    })
    .await;
    redis.crash().await.unwrap();
    let load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Redis away (cache)", Some(&mut scene.process))
        .await;
    redis.resume().await.unwrap();
    firing.ends().await;
    drop(load);
    scene.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn elasticsearch_that_is_away() {
    let server = SearchServer::start(SearchServerKind::Elasticsearch9, &[]).await;
    let proxy = FaultProxy::before(server.port).await;
    let spec = format!(
        "{LONG_LEASE}  search: {{maxLag: 1h, elasticsearch: {{url: {{value: \"{}\"}}, index: faults}}}}\n",
        proxy.url()
    );
    let mut scene = Scene::start(&spec, |observer| observer).await;
    proxy.set(Fault::Away);
    let load = load(&scene.db.pool);
    let firing = scene
        .watch
        .tells("Search server away", Some(&mut scene.process))
        .await;
    drop(load);
    proxy.set(Fault::None);
    firing.ends().await;
    scene.process.stop().await;
}
