//! Cached results of lookups and actions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};
use testkit::seed::seed;
use testkit::servers::redis::{Options, PrivateRedis};
use testkit::servers::redis_groups::{ClusterGroup, MASTER_NAME, SentinelGroup};

use crate::effects::{count, own_config};
use crate::enrich::{answers, lookup, observer};
use crate::support::listener::{Config, Process};
use crate::support::probe::{free_address, get};
use crate::support::program::command;
use crate::support::told::{letters, told};
use crate::support::{TestDb, all_is_behind, amounts_to, database, eventually};

/// Orders of customers, each with what the customer's balance was at least when it was committed.
async fn shop() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id int generated always as identity primary key, customer text, tenant text, least int);
         create table customer (id int primary key, balance int not null default 0);
         insert into customer select generate_series(1, 8);
         select observer.track('orders', tenant => 'tenant'), observer.track('customer')",
    )
    .await;
    db
}

const BALANCE: &str = "\n    - name: customer\n      postgres: {statement: \"select balance from customer where id = \
                       $1::int\", parameters: [\"{{ new.customer }}\"]}\n      cache: {ttl: 1h, invalidateOn: [{entity: \
                       public.customer, key: \"{{ new.customer }}\"}]}";

const BODY: &str =
    r#"{"key": {{ key }}, "least": {{ new.least }}, "balance": {{ enrich.customer.balance }}}"#;

/// A server of lookups that counts what it is asked.
async fn counting(
    answer: impl Fn(&str, u64) -> (u16, String) + Send + Sync + 'static,
) -> (Sink, impl Fn() -> u64) {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let api = answers(move |target, n| {
        count.fetch_add(1, Ordering::Relaxed);
        answer(target, n)
    })
    .await;
    (api, move || asked.load(Ordering::Relaxed))
}

/// A listener's spec with a Redis.
fn redis_spec(server: &PrivateRedis) -> String {
    format!("  redis: {{url: {{value: \"{}\"}}}}\n", server.url())
}

/// Adds a Redis to a listener.
fn with_redis(config: &Config, server: &PrivateRedis) {
    config.change(
        "spec:\n  database:",
        &format!("spec:\n{}  database:", redis_spec(server)),
    );
}

/// What the caches of all processes have served, by how; once the heartbeats tell of all requests.
async fn served(config: &Config, requests: u64) -> Value {
    let path = config.path();
    eventually("the heartbeats tell of all requests", async || {
        let said = command(&["cache", "stats", "-o", "json", "-f", path.to_str().unwrap()]).await;
        let all: Value = serde_json::from_str(&said.out).unwrap();
        let mut sums = serde_json::Map::new();
        for process in all.as_object().unwrap().values() {
            for (how, count) in process["served"].as_object().unwrap() {
                let sum = sums.get(how).and_then(Value::as_u64).unwrap_or(0);
                sums.insert(how.clone(), (sum + count.as_u64().unwrap()).into());
            }
        }
        let sum: u64 = sums.values().filter_map(Value::as_u64).sum();
        (sum >= requests).then_some(Value::from(sums))
    })
    .await
}

/// Changes customers and makes orders of them, which say what the balance was at least.
async fn buy(db: &TestDb, customers: std::ops::RangeInclusive<i32>, orders: usize, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..orders {
        let customer = random.random_range(customers.clone());
        let change = format!("update customer set balance = balance + 1 where id = {customer}");
        let order = format!(
            "insert into orders (customer, least) select id, balance from customer where id = {customer}"
        );
        match random.random_range(0..4) {
            0 => db.run(&format!("begin; {change}; {order}; commit")).await,
            1 => {
                db.run(&change).await;
                db.run(&order).await;
            }
            _ => db.run(&order).await,
        }
        // Some deliveries are made in between.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    }
}

async fn nothing_old_is_delivered(redis: Option<&PrivateRedis>, per_mille: u16) {
    const EACH: usize = 120;
    let (db, seed) = (shop().await, seed());
    let sink = Sink::start(Behaviour::FailShare {
        per_mille,
        seed,
        status: 503,
    })
    .await
    .unwrap();
    let observer = observer("post", BALANCE, "", &sink.url("/"), BODY);
    let config = own_config(&db, &observer, "customer").await;
    if let Some(server) = redis {
        with_redis(&config, server);
    }
    let mut processes = [Process::run(&config), Process::run(&config)];
    // What is bought before they are at work says nothing.
    for process in &mut processes {
        process.says("shard lease acquired").await;
    }
    let buying = [1..=2, 3..=4, 5..=6, 7..=8].map(|customers| {
        let first: i32 = *customers.start();
        let seed = seed.wrapping_add(u64::from(first.unsigned_abs()));
        buy(&db, customers, EACH, seed)
    });
    futures::future::join_all(buying).await;
    let all = (4 * EACH) as u64;
    amounts_to("deliveries", all, async || told(&sink).len() as u64).await;
    for one in told(&sink) {
        let (least, balance) = (one.body["least"].as_i64(), one.body["balance"].as_i64());
        assert!(balance >= least, "seed {seed}: {}", one.body);
    }
    all_is_behind(&db).await;
    assert_eq!(count(&db, "observer.dead_letter").await, 0);
    let served = served(&config, all).await;
    println!("seed {seed}: {served}");
    assert!(
        served["memory"].as_u64().unwrap_or(0) > all / 10,
        "{served}"
    );
    for process in processes {
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn change_is_known_before_any_later_event_is_delivered() {
    nothing_old_is_delivered(None, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_is_known_before_jobs_of_later_events_with_a_shared_cache() {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    nothing_old_is_delivered(Some(&server), 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_of_three_processes_are_made_once() {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    equal_requests_are_made_once(&redis_spec(&server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_are_made_once_with_a_redis_cluster() {
    let cluster = ClusterGroup::start().await.unwrap();
    let url = cluster.url();
    equal_requests_are_made_once(&format!(
        "  redis: {{url: {{value: \"{url}\"}}, cluster: {{}}}}\n"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_are_made_once_with_a_sentinel() {
    let group = SentinelGroup::start().await.unwrap();
    let (url, password) = (group.url(), group.password());
    equal_requests_are_made_once(&format!(
        "  redis:\n    url: {{value: \"{url}\"}}\n    \
         sentinel: {{masterName: {MASTER_NAME}, password: {{value: {password}}}}}\n"
    ))
    .await;
}

/// Deliveries of three processes that need the same lookup, with jobs too in Redis.
async fn equal_requests_are_made_once(redis: &str) {
    const ORDERS: u64 = 1000;
    let db = shop().await;
    let (api, asked) = counting(|_, _| (200, "0.19".to_owned())).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let rate = lookup("rate", &api.url("/rate"), "") + "      cache: {ttl: 1h}\n";
    let body = r#"{"key": {{ key }}, "rate": {{ enrich.rate }}}"#;
    let observer = observer("post", &rate, "", &sink.url("/"), body);
    let spec = format!("{redis}  queue: {{backend: Redis}}\n");
    let config = Config::new(&db.url, &spec, &observer);
    let mut processes = [(); 3].map(|()| Process::run(&config));
    for process in &mut processes {
        process.says("running").await;
    }
    db.run(&format!(
        "insert into orders (customer) select 1 from generate_series(1, {ORDERS})"
    ))
    .await;
    sink.arrived(ORDERS).await;
    let asked = asked();
    println!("{ORDERS} deliveries of three processes made {asked} requests");
    assert!((1..=3).contains(&asked), "{asked}");
    for process in processes {
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_actions_are_sent_once_and_again_after_a_change() {
    let db = shop().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let body = r#"{"refresh": {{ new.customer }}}"#;
    let observer = observer("post", " []", "", &sink.url("/"), body).replace(
        "      retry:",
        "      cache: {ttl: 1h, invalidateOn: [{entity: public.customer, key: \"{{ new.customer }}\"}]}\n      retry:",
    );
    let config = Config::new(&db.url, "  search: {postgres: {}}\n", &observer);
    let process = Process::run(&config);
    let orders = "insert into orders (customer) select 1 + n % 2 from generate_series(1, 40) n";
    db.run(orders).await;
    sink.arrived(2).await;
    all_is_behind(&db).await;
    db.run(orders).await;
    all_is_behind(&db).await;
    let sent_to = |customer: &str| {
        let all = told(&sink).into_iter();
        all.filter(|one| one.body["refresh"] == customer).count()
    };
    // Once each; and again where transactions of other databases of the server, which were open at the start, have
    // ended since: what they have written may be removed already.
    let before = [sent_to("1"), sent_to("2")];
    assert!(
        before.iter().all(|sent| (1..=4).contains(sent)),
        "{before:?}"
    );
    db.run("update customer set balance = 1 where id = 1").await;
    db.run(orders).await;
    all_is_behind(&db).await;
    let sent = [sent_to("1"), sent_to("2")];
    assert!(sent[0] > before[0] && sent[1] <= 4, "{before:?}, {sent:?}");
    let sent = sent.iter().sum::<usize>() as u64;
    let served = served(&config, 120).await;
    let made = ["miss", "bypassed"].map(|how| served[how].as_u64().unwrap_or(0));
    assert_eq!(made.iter().sum::<u64>(), sent, "{served}");
    // A replay is sent again.
    let file = config.path();
    let file = file.to_str().unwrap();
    let replay = [
        "replay",
        "--observer",
        "post",
        "--from",
        "1h",
        "--yes",
        "-f",
        file,
    ];
    let said = command(&replay).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    sink.arrived(sent + 120).await;
    // The history says which were sent.
    amounts_to("deliveries that were not sent", 120 - sent, async || {
        count(
            &db,
            "observer.search_document where body like '%\"kind\":\"cached\"%'",
        )
        .await
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_action_is_not_cached() {
    let db = shop().await;
    let sink = Sink::start(Behaviour::FailFirst {
        times: 1,
        status: 503,
    })
    .await
    .unwrap();
    let body = r#"{"refresh": {{ new.customer }}}"#;
    let observer = observer("post", " []", "", &sink.url("/"), body)
        .replace("      retry:", "      cache: {}\n      retry:");
    let config = Config::new(&db.url, "", &observer);
    let process = Process::run(&config);
    db.run("insert into orders (customer) values (1)").await;
    sink.arrived(2).await;
    all_is_behind(&db).await;
    db.run("insert into orders (customer) values (1)").await;
    all_is_behind(&db).await;
    let counts = sink.counts();
    assert_eq!((counts.requests, counts.succeeded), (2, 1));
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_of_one_tenant_one_observer_and_one_generation() {
    let db = shop().await;
    let (api, asked) = counting(|_, n| (200, n.to_string())).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let rate = lookup("rate", &api.url("/rate"), "") + "      cache: {ttl: 1h}\n";
    let body = r#"{"key": {{ key }}, "rate": {{ enrich.rate }}}"#;
    let of = |name: &str| observer(name, &rate, "", &sink.url(&format!("/{name}")), body);
    let config = Config::new(&db.url, "", &(of("one") + &of("other")));
    let process = Process::run(&config);
    let orders = "insert into orders (customer, tenant) select 1, t from unnest(array['a', 'b', null]) t, \
                  generate_series(1, 5)";
    db.run(orders).await;
    sink.arrived(30).await;
    assert_eq!(asked(), 6);
    // Another spec, if by a word that changes nothing.
    config.change(
        "\"rate\": {{ enrich.rate }}}'",
        "\"rate\":  {{ enrich.rate }}}'",
    );
    process.stop().await;
    let process = Process::run(&config);
    db.run(orders).await;
    sink.arrived(60).await;
    assert_eq!(asked(), 12);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_dropped_by_hand_and_outlive_a_restart_in_redis() {
    let db = shop().await;
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let (api, asked) = counting(|_, n| (200, n.to_string())).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let rate = lookup("rate", &api.url("/rate"), "") + "      cache: {ttl: 1h}\n";
    let body = r#"{"key": {{ key }}, "rate": {{ enrich.rate }}}"#;
    let observer = observer("post", &rate, "", &sink.url("/"), body);
    let config = Config::new(&db.url, &redis_spec(&server), &observer);
    let file = config.path();
    let cache = async |args: &[&str]| {
        let end = ["-f", file.to_str().unwrap()];
        command(&[&["cache"], args, &end].concat()).await
    };
    let order = async |db: &TestDb| {
        let before = sink.counts().requests;
        db.run("insert into orders (customer) values (1)").await;
        sink.arrived(before + 1).await;
    };
    let process = Process::run(&config);
    order(&db).await;
    order(&db).await;
    process.stop().await;
    let process = Process::run(&config);
    order(&db).await;
    assert_eq!(asked(), 1, "it is in Redis");
    let found = served(&config, 1).await;
    assert_eq!(found["redis"], 1, "{found}");
    for args in [
        ["invalidate", "--observer", "nobody"].as_slice(),
        &["invalidate", "--observer", "post", "--name", "nothing"],
        &["invalidate", "--observer", ""],
        &["invalidate", "--name", "rate"],
        &["invalidate"],
    ] {
        let said = cache(args).await;
        assert_eq!(said.code, Some(2), "{args:?}: {}", said.err);
    }
    order(&db).await;
    assert_eq!(asked(), 1);
    for (n, args) in [
        ["invalidate", "--all"].as_slice(),
        &["invalidate", "--observer", "post"],
        &["invalidate", "--observer", "post", "--name", "rate"],
    ]
    .into_iter()
    .enumerate()
    {
        let said = cache(args).await;
        assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
        let made = n as u64 + 2;
        amounts_to("requests", made, async || {
            order(&db).await;
            asked()
        })
        .await;
    }
    process.stop().await;
    // One that starts later knows of it too.
    cache(&["invalidate", "--all"]).await;
    let process = Process::run(&config);
    order(&db).await;
    assert_eq!(asked(), 5);
    let table = cache(&["stats"]).await.out;
    assert!(table.starts_with("PROCESS"), "{table}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_dies_costs_no_delivery() {
    const ORDERS: u64 = 400;
    let db = shop().await;
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let api = answers(|_, _| (200, "1".to_owned())).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let rate =
        lookup("rate", &api.url("/"), "path: \"/{{ new.id }}\"") + "      cache: {ttl: 1h}\n";
    let body = r#"{"key": {{ key }}, "rate": {{ enrich.rate }}}"#;
    let observer = observer("post", &rate, "", &sink.url("/"), body);
    let config = Config::new(&db.url, &redis_spec(&server), &observer);
    let process = Process::run(&config);
    let orders =
        format!("insert into orders (customer) select 1 from generate_series(1, {ORDERS})");
    db.run(&orders).await;
    sink.arrived(ORDERS / 2).await;
    server.crash().await.unwrap();
    db.run(&orders).await;
    sink.arrived(2 * ORDERS).await;
    assert_eq!(count(&db, "observer.dead_letter").await, 0);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secret_of_a_lookup_is_nowhere() {
    const CANARY: &str = "canary-7f3a9c";
    let db = shop().await;
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let (api, asked) = counting(|target, n| match (target.contains(CANARY), n % 3) {
        (false, _) => (404, String::new()),
        (_, 0) => (200, "1".to_owned()),
        (_, 1) => (500, format!("what is {target}?")),
        _ => (422, format!("what is {target}?")),
    })
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let secret = "path: \"/{{ new.id }}\", headers: {authorization: {secretKeyRef: {name: crm, key: token}}}";
    let rate = lookup("rate", "", secret).replace(
        "url: {value: \"\"}",
        "url: {secretKeyRef: {name: crm, key: url}}",
    ) + "      cache: {ttl: 1h, staleIfError: 1h}\n";
    let body = r#"{"key": {{ key }}, "rate": {{ enrich.rate }}}"#;
    let observers = observer("post", &rate, "", &sink.url("/"), body)
        .replace("attempts: 20", "attempts: 2")
        + &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: crm}}\nstringData: {{token: \"Bearer {CANARY}\", url: \
             \"{}\"}}\n",
            api.url(&format!("/{CANARY}"))
        );
    let spec = redis_spec(&server) + "  search: {postgres: {}}\n";
    let config = Config::new(&db.url, &spec, &observers);
    let address = free_address();
    let mut process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    process.says("running").await;
    db.run("insert into orders (customer) select 1 from generate_series(1, 60)")
        .await;
    all_is_behind(&db).await;
    letters(&db, 1).await;
    assert!(asked() > 30);
    let mut texts = vec![("the metrics", get(&address, "/metrics").await.unwrap().1)];
    for table in [
        "dead_letter",
        "search_document",
        "job",
        "member",
        "cache_invalidation",
        "config",
    ] {
        let rows: Option<String> = db
            .value(&format!(
                "select string_agg(t::text, ' ') from observer.{table} t"
            ))
            .await;
        texts.push((table, rows.unwrap_or_default()));
    }
    let client = redis::Client::open(server.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query_async(&mut raw)
        .await
        .unwrap();
    assert!(keys.iter().any(|key| key.contains(":cache:")), "{keys:?}");
    for key in &keys {
        let value: Result<Vec<u8>, _> = redis::cmd("GET").arg(key).query_async(&mut raw).await;
        texts.push((
            "a value in Redis",
            String::from_utf8_lossy(&value.unwrap_or_default()).into_owned(),
        ));
    }
    texts.push(("the keys in Redis", keys.join(" ")));
    texts.push(("the log", process.stop().await));
    for (what, text) in texts {
        assert!(!text.contains(CANARY), "{what}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_result_serves_while_the_source_is_away() {
    let db = shop().await;
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let api = answers(move |_, _| {
        let status = if is_away.load(Ordering::Relaxed) {
            503
        } else {
            200
        };
        (status, "7".to_owned())
    })
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let rate =
        lookup("rate", &api.url("/rate"), "") + "      cache: {ttl: 1s}\n      onError: Stale\n";
    let body = r#"{"key": {{ key }}, "rate": {{ enrich.rate }}}"#;
    let observer = observer("post", &rate, "", &sink.url("/"), body);
    let config = Config::new(&db.url, "", &observer);
    let process = Process::run(&config);
    db.run("insert into orders (customer) values (1)").await;
    sink.arrived(1).await;
    away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    db.run("insert into orders (customer) values (1)").await;
    sink.arrived(2).await;
    assert!(told(&sink).iter().all(|one| one.body["rate"] == 7));
    let served = served(&config, 2).await;
    assert_eq!(served["stale"], 1, "{served}");
    process.stop().await;
}
