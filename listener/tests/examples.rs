//! The examples of the documentation, run as they are: what they send arrives.

use std::path::Path;

use redis::{AsyncCommands, Client};
use serde_json::Value;
use testkit::http_sink::{Behaviour, Received, Sink};
use testkit::servers::redis::{Options, PrivateRedis};

use crate::support::listener::Process;
use crate::support::{TestDb, comes, database, eventually, statement_login, while_progressing_or};
use testkit::certs::Certs;
use testkit::servers::kafka::{self, Kafka};
use testkit::servers::nats::Nats;
use testkit::servers::smtp::{LOGIN, Smtp};

/// Runs an example, whose receiver is this machine's, does something to orders, and gives what
/// was received first. `secrets` are those it needs besides the database's.
async fn run(example: &str, secrets: &[(&str, &str)], change: &str) -> Received {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hook = sink.url("/hook");
    let secrets = secrets.iter().map(|(name, key)| (*name, *key, &*hook));
    let secrets: Vec<_> = secrets.collect();
    let (db, process) = start(example, &secrets, &[]).await;
    db.run(change).await;
    sink.arrived(1).await;
    process.stop().await;
    sink.received().remove(0)
}

/// Runs an example. `secrets` are those it needs besides the database's: name, key and value.
/// `changes` are texts in its place that are to be others here.
async fn start(
    example: &str,
    secrets: &[(&str, &str, &str)],
    changes: &[(&str, &str)],
) -> (TestDb, Process) {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total numeric, customer text, status text);
         select observer.track('orders')",
    )
    .await;
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let text = std::fs::read_to_string(place.join(example)).unwrap();
    let text = changes
        .iter()
        .fold(text, |text, (from, to)| text.replacen(from, to, 1));
    // Receivers here are allowed only where a listener says so.
    let allowed = if text.contains("  egress:") {
        text
    } else {
        text.replacen(
            "spec:\n  database:",
            "spec:\n  egress: {allow: [127.0.0.0/8]}\n  database:",
            1,
        )
    };
    assert!(allowed.contains("  egress:"));
    let url = db.url.clone();
    let own = if allowed.contains("ownDatabase") {
        Some(statement_login(&db, "orders").await)
    } else {
        None
    };
    let own = own.iter().map(|url| ("shop-statements", "url", &**url));
    let secrets = std::iter::once(("shop-db", "url", &*url))
        .chain(own)
        .chain(secrets.iter().copied());
    let secrets = secrets.map(|(name, key, value)| {
        format!(
            "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{{key}: \"{value}\"}}\n"
        )
    });
    let file: String = std::iter::once(allowed).chain(secrets).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(example);
    std::fs::write(&path, file).unwrap();
    let mut process = Process::start(&["run", "--listen", "off", "-f"], &path);
    // The files are read before anything else is done.
    process.says("running").await;
    (db, process)
}

fn json(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slack() {
    let order = "insert into orders values (7, 1000.50, 'Ada <!channel>', 'new')";
    let received = run("slack.yaml", &[("shop-slack", "url")], order).await;
    let message = json(&received);
    assert_eq!(message["text"], "Order 7 over 1000.50");
    assert_eq!(
        message["blocks"][1]["text"]["text"],
        "*Ada &lt;!channel&gt;* ordered for 1000.50"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn teams() {
    let order = "insert into orders values (7, 1.50, 'Ada \"X\"', 'new');
                 update orders set status = 'cancelled'";
    let received = run("teams.yaml", &[("shop-teams", "url")], order).await;
    let body = &json(&received)["attachments"][0]["content"]["body"];
    assert_eq!(body[0]["text"], "Order 7 was cancelled");
    assert_eq!(body[1]["facts"][0]["value"], "Ada \"X\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch() {
    let orders = "insert into orders select n, 1, 'ada', 'new' from generate_series(1, 3) n";
    let received = run("batch.yaml", &[("shop-hooks", "orders-url")], orders).await;
    let events = json(&received);
    assert!(events[0].is_object(), "an array of events: {events}");
    assert_eq!(events[0]["operation"], "Insert");
}

#[tokio::test(flavor = "multi_thread")]
async fn formats() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hook = sink.url("/hook");
    let secrets = [("shop-hooks", "orders-url", &*hook)];
    let (db, process) = start("formats.yaml", &secrets, &[]).await;
    db.run("insert into orders values (7, 12345678901234567890.10, 'ada', 'new')")
        .await;
    sink.arrived(2).await;
    process.stop().await;
    let received = sink.received();
    let of = |kind: &str| {
        let one = received
            .iter()
            .find(|one| one.header("content-type") == Some(kind));
        one.unwrap_or_else(|| panic!("{kind} in {received:?}"))
    };
    let whole = of("application/cloudevents+json; charset=utf-8");
    let event = json(whole);
    assert_eq!(event["source"], "/observers/default/formats");
    assert_eq!(event["type"], "dev.fraiseql.observers.insert");
    assert_eq!(event["data"]["id"], event["id"]);
    let changes = of("application/json");
    let change = &json(changes)[0];
    assert_eq!(
        (&change["op"], &change["before"]),
        (&"c".into(), &Value::Null)
    );
    assert_eq!(change["source"]["name"], "default/formats");
    assert_eq!(change["source"]["table"], "orders");
    for one in [whole, changes] {
        let body = String::from_utf8_lossy(&one.body);
        assert!(
            body.contains(r#""total":12345678901234567890.10"#),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backfill() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hook = sink.url("/hook");
    let secrets = [("shop-hooks", "orders-url", &*hook)];
    let (db, process) = start("backfill.yaml", &secrets, &[]).await;
    eventually("the table is backfilled", async || {
        let state = "select max(state) from observer.backfill where entity = 'public.orders' and is_initial";
        let state: Option<String> = db.value(state).await;
        (state.as_deref() == Some("Completed")).then_some(())
    })
    .await;
    db.run("insert into orders values (7, 1, 'ada', 'new')")
        .await;
    // As the file's own comment does, for a backfill later.
    db.run("insert into observer.backfill (listener, entity) values ('default/backfill', 'public.orders')")
        .await;
    sink.arrived(2).await;
    process.stop().await;
    let operations: Vec<Value> = sink
        .received()
        .iter()
        .map(|one| json(one)["operation"].take())
        .collect();
    assert_eq!(operations, ["Insert", "Read"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let client = Client::open(server.url()).unwrap();
    let mut cache = client.get_multiplexed_async_connection().await.unwrap();
    let _: () = cache.set("order:7", "cached").await.unwrap();
    let _: () = cache.set("order:8", "cached").await.unwrap();
    let _: () = cache.set("page:1", "cached").await.unwrap();
    let _: () = cache.sadd("customer:ada:keys", "page:1").await.unwrap();
    let url = server.url();
    let (db, process) = start("redis.yaml", &[("shop-redis", "url", &url)], &[]).await;
    db.run("insert into orders values (7, 1, 'ada', 'new')")
        .await;
    eventually("what is stale is gone", async || {
        let mut cache = cache.clone();
        let mut left: Vec<String> = cache.keys("*").await.unwrap();
        left.sort_unstable();
        (left == ["order:8"]).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let (db, process) = start("postgres.yaml", &[], &[]).await;
    db.run(
        "create table spent (customer text primary key, total numeric not null, orders bigint not null);
         grant select, insert, update on spent to public",
    )
    .await;
    db.run("insert into orders values (7, 1.50, 'ada', 'new'), (8, 2.25, 'ada', 'new'), (9, 1, 'bob', 'new')")
        .await;
    eventually("all is counted", async || {
        let spent: String = db
            .value("select coalesce(string_agg(format('%s %s %s', customer, total, orders), ', ' order by customer), '') from spent")
            .await;
        (spent == "ada 3.75 2, bob 1 1").then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn email() {
    let mut server = Smtp::start("starttls").await;
    let secrets = [
        ("shop-mail", "username", LOGIN.0),
        ("shop-mail-password", "password", LOGIN.1),
    ];
    let port = server.port;
    let ca = server.ca.trim().replace('\n', "\\n");
    let here =
        format!("host: localhost\n          port: {port}\n          ca: {{value: \"{ca}\\n\"}}");
    let changes = [
        ("host: smtp.example.com", &*here),
        (
            "name: shop-mail, key: password",
            "name: shop-mail-password, key: password",
        ),
    ];
    let (db, process) = start("email.yaml", &secrets, &changes).await;
    db.run("insert into orders values (7, 1234.5, 'ada@example.com', 'paid')")
        .await;
    let message = comes("the message", server.next()).await;
    assert_eq!(message["to"][0], "ada@example.com");
    let text = message["text"].as_str().unwrap();
    assert!(text.contains("Subject: Thank you for order 7"), "{text}");
    assert!(
        text.contains("Your order 7 over 1,234.50 EUR is paid."),
        "{text}"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats() {
    let server = Nats::start().await;
    let stream = server.stream().await;
    let url = server.url();
    let (db, process) = start("nats.yaml", &[("shop-nats", "url", &url)], &[]).await;
    db.run("insert into orders values (7, 1, 'ada', 'new'); update orders set status = 'paid'")
        .await;
    eventually("two messages", async || {
        let stream = stream.get_info().await.unwrap();
        (stream.state.messages == 2).then_some(())
    })
    .await;
    let last = stream.get_raw_message(2).await.unwrap();
    assert_eq!(last.subject.as_str(), "orders.update");
    let event: Value = serde_json::from_slice(&last.payload).unwrap();
    assert_eq!(event["new"]["status"], "paid");
    process.stop().await;
}

/// Secrets of an example with brokers.
const KAFKA_SECRETS: [(&str, &str, &str); 2] = [
    ("shop-kafka", "username", kafka::LOGIN.0),
    ("shop-kafka-password", "password", kafka::LOGIN.1),
];

/// Texts of an example that are to name a broker of this machine.
fn kafka_here(server: &Kafka, certs: &Certs) -> [(&'static str, String); 3] {
    let ca = certs.ca.trim().replace('\n', "\\n");
    [
        (
            "brokers: [kafka.example.com:9092]",
            format!("brokers: [\"localhost:{}\"]", server.tls_port),
        ),
        ("tls: {}", format!("tls: {{ca: {{value: \"{ca}\\n\"}}}}")),
        (
            "name: shop-kafka, key: password",
            "name: shop-kafka-password, key: password".to_owned(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_source() {
    let certs = Certs::make();
    let server = Kafka::start(&certs.server, &certs.ca).await;
    server.topic("shop.public.orders", 1).await;
    server.topic("billing", 1).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (here, hook) = (kafka_here(&server, &certs), sink.url("/"));
    let mut changes: Vec<(&str, &str)> = here.iter().map(|(from, to)| (*from, &**to)).collect();
    changes.push(("https://shipping.example.com/orders", &hook));
    let (_db, mut process) = start("kafka-source.yaml", &KAFKA_SECRETS, &changes).await;
    process.says("reading topics of Kafka").await;
    let client = krafka::Kafka::builder(format!("127.0.0.1:{}", server.port));
    let producer = client.connect().await.unwrap().producer().build();
    let change = r#"{"op": "u", "before": {"id": 7, "status": "new"}, "after": {"id": 7, "status": "paid"},
                     "source": {"schema": "public", "table": "orders", "ts_ms": 1700000000123}}"#;
    let record = krafka::Record::new("shop.public.orders", change).key(r#"{"id": 7}"#);
    let sent = producer.await.unwrap().send(record).await;
    assert!(sent.unwrap().is_persisted());
    sink.arrived(1).await;
    let event = json(&sink.received()[0]);
    assert_eq!(
        (&event["key"], &event["new"]["status"]),
        (&"7".into(), &"paid".into())
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka() {
    let certs = Certs::make();
    let server = Kafka::start(&certs.server, &certs.ca).await;
    server.topic("orders", 3).await;
    let here = kafka_here(&server, &certs);
    let changes: Vec<(&str, &str)> = here.iter().map(|(from, to)| (*from, &**to)).collect();
    let (db, process) = start("kafka.yaml", &KAFKA_SECRETS, &changes).await;
    db.run("insert into orders values (7, 1, 'ada', 'new'); update orders set status = 'paid'")
        .await;
    // A record whose answer comes too late for a busy machine is sent once more.
    let records = async || {
        let mut records: Vec<(Option<Vec<u8>>, Value)> = Vec::new();
        for partition in 0..3 {
            for record in server.records("orders", partition).await {
                let event: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
                if records.iter().all(|(_, known)| known["id"] != event["id"]) {
                    records.push((record.key, event));
                }
            }
        }
        records
    };
    let look = async || {
        let records = records().await;
        if records.len() >= 2 {
            Ok(records)
        } else {
            Err(records.len())
        }
    };
    let records = while_progressing_or(look, async || {
        format!(
            "two records, and there are {:?}; {}",
            records().await,
            process.said()
        )
    })
    .await;
    assert_eq!(records.len(), 2, "{records:?}");
    for ((key, event), status) in records.iter().zip(["new", "paid"]) {
        assert_eq!(key.as_deref(), Some(&b"7"[..]));
        assert_eq!(event["new"]["status"], status);
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrich() {
    // Answers as a service of prices does, and takes what is sent.
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (prices, hook) = (sink.url("/prices"), sink.url("/hook"));
    let secrets = [
        ("shop-prices", "url", &*prices),
        ("shop-hooks", "orders-url", &*hook),
    ];
    let allow = [(
        "    ownDatabase:",
        "    allow: [127.0.0.0/8]\n    ownDatabase:",
    )];
    let (db, process) = start("enrich.yaml", &secrets, &allow).await;
    db.run(
        "create table customers (id text primary key, name text, tier text, price_list text);
         grant select on customers to public;
         insert into customers values ('ada', 'Ada \"X\"', 'gold', 'a/b'), ('bob', 'Bob', 'silver', 'c');
         insert into orders values (6, 1, 'bob', 'new'), (7, 1, 'ada', 'new')",
    )
    .await;
    let received = eventually("the order", async || {
        let all = sink.received();
        all.into_iter().find(|one| one.line == "POST /hook")
    })
    .await;
    let body = json(&received);
    assert_eq!(
        (&body["order"], &body["customer"]),
        (&7.into(), &"Ada \"X\"".into())
    );
    process.stop().await;
    let asked = sink.received().into_iter().map(|one| one.line);
    let asked: Vec<String> = asked.filter(|line| line != "POST /hook").collect();
    assert_eq!(asked, ["GET /prices/lists/a%2Fb"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cache() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let (redis, hook) = (server.url(), sink.url("/hook"));
    let secrets = [
        ("shop-redis", "url", &*redis),
        ("shop-hooks", "pages-url", &*hook),
    ];
    let allow = [(
        "    ownDatabase:",
        "    allow: [127.0.0.0/8]\n    ownDatabase:",
    )];
    let (db, process) = start("cache.yaml", &secrets, &allow).await;
    db.run(
        "create table customers (id text primary key, name text, tier text);
         grant select on customers to public;
         select observer.track('customers');
         insert into customers values ('ada', 'Ada', 'silver');
         insert into orders select n, 1, 'ada', 'new' from generate_series(1, 5) n",
    )
    .await;
    sink.arrived(1).await;
    db.run(
        "update customers set tier = 'gold';
         insert into orders select n, 1, 'ada', 'new' from generate_series(6, 9) n",
    )
    .await;
    sink.arrived(2).await;
    crate::support::all_is_behind(&db).await;
    let tiers: Vec<Value> = sink
        .received()
        .iter()
        .map(|one| json(one)["tier"].clone())
        .collect();
    assert_eq!(tiers, ["silver", "gold"]);
    process.stop().await;
}
