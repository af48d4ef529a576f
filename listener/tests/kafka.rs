//! Topics of Kafka as the source of the change log.

use std::collections::BTreeMap;
use std::time::Duration;

use krafka::admin::{
    CreatePartitionsOptions, CreateTopicsOptions, DeleteRecordsOptions, DeleteTopicsOptions,
    NewTopic,
};
use krafka::consumer::TopicPartition;
use krafka::producer::Producer;
use krafka::{Kafka, Record};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use serde_json::{Value, json};
use testkit::certs::Certs;
use testkit::http_sink::{Behaviour, Sink};
use testkit::seed::seed;
use testkit::servers::kafka::{Kafka as Server, LOGIN};

use crate::support::backfills::{ALL_OPERATIONS, backfill};
use crate::support::counters::{accepted, all_told, check};
use crate::support::fleet::{LONG_LEASE, SHORT_LEASE, files};
use crate::support::listener::{Config, Process, observer};
use crate::support::program::command;
use crate::support::told::{keys_of, told};
use crate::support::{TestDb, database, eventually};

/// A broker, with a client of the test's own and a producer.
struct Broker {
    server: Server,
    certs: Certs,
    client: Kafka,
    producer: Producer,
}

impl Broker {
    async fn start() -> Self {
        let certs = Certs::make();
        let server = Server::start(&certs.server, &certs.ca).await;
        let client = Kafka::builder(format!("127.0.0.1:{}", server.port));
        let client = client.connect().await.unwrap();
        let producer = client.producer().build().await.unwrap();
        Self {
            server,
            certs,
            client,
            producer,
        }
    }

    async fn send(&self, topic: &str, key: Option<&str>, value: Option<&str>) {
        let sent = self.producer.send(record(topic, key, value)).await;
        assert!(sent.unwrap().is_persisted());
    }

    /// A topic that the broker stores with a compression of its own.
    async fn compressed(&self, name: &str, compression: &str) {
        let topic = NewTopic::new(name, 1, 1).unwrap();
        let topic = topic.with_config("compression.type", compression);
        let made = self.client.admin();
        let made = made.create_topics([topic], CreateTopicsOptions::default());
        made.await.unwrap().into_values().for_each(Result::unwrap);
    }

    async fn delete(&self, topic: &str) {
        let admin = self.client.admin();
        let deleted = admin.delete_topics([topic], DeleteTopicsOptions::default());
        deleted
            .await
            .unwrap()
            .into_values()
            .for_each(Result::unwrap);
        eventually("the topic is gone", async || {
            let topics = self.server.client().await.list_topics().await.ok()?;
            topics.iter().all(|one| one.name != topic).then_some(())
        })
        .await;
    }

    /// Removes the records before an offset, as the retention of the topic does.
    async fn delete_records(&self, topic: &str, before: i64) {
        let admin = self.client.admin();
        let before = [(TopicPartition::new(topic, 0), before)];
        let deleted = admin.delete_records(before, DeleteRecordsOptions::default());
        for result in deleted.await.unwrap().into_values() {
            result.unwrap();
        }
    }

    /// The part of a listener's spec that names the source, with these topics and further fields.
    fn spec(&self, topics: &str, more: &str) -> String {
        format!(
            "  source:\n    kafka:\n      brokers: [\"127.0.0.1:{}\"]\n      initialOffset: Earliest\n      \
             topics: [{topics}]\n{more}",
            self.server.port
        )
    }
}

fn record(topic: &str, key: Option<&str>, value: Option<&str>) -> Record {
    let record = Record::new(topic, value.unwrap_or_default().to_owned());
    let record = match value {
        Some(_) => record,
        None => record.without_value(),
    };
    match key {
        Some(key) => record.key(key.to_owned()),
        None => record,
    }
}

fn reading(entity: &str, name: &str, sink: &Sink, path: &str) -> String {
    let all = ALL_OPERATIONS.replace("Read", "Read, Truncate, Custom");
    observer(name, entity, &sink.url(path), "")
        .replace("[Insert, Update, Delete, Truncate, Custom]", &all)
}

/// A listener of a topic of events, and its receiver.
async fn events(db: &TestDb, broker: &Broker) -> (Sink, Config) {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = reading("events", "events", &sink, "/");
    let spec = broker.spec("{topic: events, contents: Events}", LONG_LEASE);
    let config = Config::new(&db.url, &spec, &observers);
    (sink, config)
}

/// A state of a counter.
fn state(key: i64, value: i64) -> String {
    format!("{{\"k\": {key}, \"v\": {value}}}")
}

async fn gaps(db: &TestDb) -> Vec<(String, i32, String, i64, i64, i64)> {
    sqlx::query_as(
        "select topic, partition, reason, from_offset, to_offset, records from observer.source_gap order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap()
}

async fn rows(db: &TestDb, rows: i64) {
    eventually(&format!("{rows} rows are in the change log"), async || {
        let count: i64 = db.value("select count(*) from observer.change_log").await;
        (count >= rows).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_states_and_events_are_delivered_in_order() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("shop.public.orders", 2).await;
    broker.server.topic("stock", 1).await;
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        broker.compressed(codec, codec).await;
    }
    let source = r#""source": {"schema": "public", "table": "orders", "ts_ms": 1700000000123}"#;
    let key = r#"{"schema": {"type": "struct"}, "payload": {"id": 7}}"#;
    for (op, before, after) in [
        ("r", "null", r#"{"id": 7, "total": 1.50}"#),
        (
            "u",
            r#"{"id": 7, "total": 1.50}"#,
            r#"{"id": 7, "total": 2e400}"#,
        ),
        ("d", r#"{"id": 7, "total": 2e400}"#, "null"),
    ] {
        let value = format!(
            r#"{{"schema": {{}}, "payload": {{"op": "{op}", "before": {before}, "after": {after}, {source}}}}}"#
        );
        broker
            .send("shop.public.orders", Some(key), Some(&value))
            .await;
    }
    broker.send("shop.public.orders", Some(key), None).await;
    broker
        .send(
            "stock",
            Some("apple"),
            Some(r#"{"left": 3, "org": "acme"}"#),
        )
        .await;
    broker.send("stock", Some("apple"), None).await;
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let value = format!(r#"{{"codec": "{codec}", "text": "{}"}}"#, "a".repeat(5000));
        broker.send(codec, Some(codec), Some(&value)).await;
    }
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = reading("public.orders", "orders", &sink, "/orders")
        + &reading("stock", "stock", &sink, "/stock")
        + &reading("codecs", "codecs", &sink, "/codecs");
    let codecs = ["gzip", "snappy", "lz4", "zstd"]
        .map(|codec| format!("{{topic: {codec}, contents: Events, entity: codecs}}"))
        .join(", ");
    let topics =
        format!("{{topic: shop.public.orders}}, {{topic: stock, contents: Rows}}, {codecs}");
    let config = Config::new(&db.url, &broker.spec(&topics, LONG_LEASE), &observers);
    let mut process = Process::run(&config);
    process.says("reading topics of Kafka").await;
    keys_of(&sink, "/orders", 3).await;
    keys_of(&sink, "/stock", 2).await;
    let mut codecs = keys_of(&sink, "/codecs", 4).await;
    codecs.sort();
    assert_eq!(codecs, ["gzip", "lz4", "snappy", "zstd"]);
    let of = |path: &str| -> Vec<Value> {
        let told = told(&sink).into_iter().filter(|one| one.path == path);
        told.map(|one| one.body).collect()
    };
    let orders = of("/orders");
    let operations: Vec<&Value> = orders.iter().map(|body| &body["operation"]).collect();
    assert_eq!(operations, ["Read", "Update", "Delete"]);
    assert!(orders.iter().all(|body| body["key"] == "7"));
    assert_eq!(orders[0]["occurredAt"], "2023-11-14T22:13:20.123Z");
    let exact: String = db
        .value("select new::text from observer.change_log where operation = 'u' and entity = 'public.orders'")
        .await;
    assert_eq!(exact, r#"{"id": 7, "total": 2e400}"#);
    let stock: Vec<_> = of("/stock")
        .into_iter()
        .map(|body| (body["operation"].clone(), body["new"].clone()))
        .collect();
    let left = json!({"left": 3, "org": "acme"});
    assert_eq!(
        stock,
        [(json!("Update"), left), (json!("Delete"), Value::Null)]
    );
    let refused = backfill(&config, &["start", "--yes", "--table", "public.orders"]).await;
    assert!(
        refused.said().contains("topics have no tables"),
        "{}",
        refused.said()
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_committed_records_are_read() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("events", 1).await;
    let (sink, config) = events(&db, &broker).await;
    let process = Process::run(&config);
    let producer = broker
        .client
        .producer()
        .build_transactional("test")
        .await
        .unwrap();
    for round in 0..6 {
        producer.begin().unwrap();
        let kept = round % 2 == 1;
        for n in 0..3 {
            let key = format!("{kept}-{round}-{n}");
            let sent = producer
                .send(record("events", Some(&key), Some("{}")))
                .await;
            assert!(sent.unwrap().is_persisted());
        }
        if kept {
            producer.commit().await.unwrap();
        } else {
            producer.abort().await.unwrap();
        }
    }
    keys_of(&sink, "/", 9).await;
    // One that is open does not come, and holds back what comes after it; a process that begins anew in the middle
    // of all this reads the same.
    producer.begin().unwrap();
    let sent = producer
        .send(record("events", Some("open"), Some("{}")))
        .await;
    assert!(sent.unwrap().is_persisted());
    broker.send("events", Some("after"), Some("{}")).await;
    process.stop().await;
    let process = Process::run(&config);
    producer.abort().await.unwrap();
    let keys = keys_of(&sink, "/", 10).await;
    assert_eq!(
        keys.iter().filter(|key| key.starts_with("true-")).count(),
        9,
        "{keys:?}"
    );
    assert_eq!((keys.len(), &*keys[9]), (10, "after"));
    // The marks of transactions are passed over, too: nothing seems to be lost if all is removed.
    let partition = broker.server.client().await;
    let partition = partition.partition_client("events", 0, UnknownTopicHandling::Retry);
    let end = partition
        .await
        .unwrap()
        .get_offset(OffsetAt::Latest)
        .await
        .unwrap();
    eventually("all is read", async || {
        let next: i64 = db
            .value("select next_offset from observer.source_offset")
            .await;
        (next == end).then_some(())
    })
    .await;
    process.stop().await;
    broker.delete_records("events", end).await;
    let process = Process::run(&config);
    broker.send("events", Some("last"), Some("{}")).await;
    assert_eq!(keys_of(&sink, "/", 11).await[10], "last");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_kills_and_restarts_of_the_broker() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (db, mut broker) = (database().await, Broker::start().await);
    broker.server.topic("counters", 4).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let topics = "{topic: counters, contents: Rows, entity: public.kv}";
    let configs = ["/a", "/b"].map(|path| {
        let spec = broker.spec(topics, SHORT_LEASE);
        files(&db.url, &spec, &sink, path)
    });
    let mut expected = BTreeMap::<i64, i64>::new();
    let mut processes = configs.each_ref().map(Process::run);
    for round in 0..6 {
        for _ in 0..800 {
            let key = random.random_range(1..=40);
            let value = expected.entry(key).or_default();
            *value += 1;
            let record = record(
                "counters",
                Some(&key.to_string()),
                Some(&state(key, *value)),
            );
            let _enqueued = broker.producer.enqueue(record).await.unwrap();
        }
        broker.producer.flush().await.unwrap();
        let before = sink.counts().requests;
        sink.arrived(before + random.random_range(1..300)).await;
        match round {
            2 => {
                broker.server.stop().await;
                tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
                broker.server.resume().await;
            }
            4 => {
                processes[0].signal("STOP").await;
                tokio::time::sleep(Duration::from_secs(4)).await;
                processes[0].signal("CONT").await;
            }
            _ => {
                let killed = usize::from(round % 2 == 0);
                let next = Process::run(&configs[killed]);
                std::mem::replace(&mut processes[killed], next).kill().await;
            }
        }
    }
    all_told(&sink, &expected).await;
    let repeats = check(&accepted(&sink.received()), &expected).len();
    println!("{repeats} repeats");
    let twice: i64 = db
        .value(
            "select count(*) from (
                 select from observer.change_log group by new ->> 'k', new ->> 'v' having count(*) > 1) twice",
        )
        .await;
    assert_eq!(twice, 0, "each record is in the log once");
    for process in processes {
        process.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_recorded_and_holds_nothing_up() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("orders", 1).await;
    let good =
        r#"{"op": "c", "after": {"id": 1}, "source": {"schema": "public", "table": "orders"}}"#;
    let nul_key = r#"{"id": "\u0000"}"#;
    let nul_text = r#"{"op": "c", "after": {"id": "\u0000"}, "source": {"schema": "public", "table": "orders"}}"#;
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let deep = format!(r#"{{"op": "c", "after": {deep}}}"#);
    for (key, value) in [
        ("1", good),
        ("2", "no json"),
        ("3", "\u{0}\u{0}\u{0}\u{0}\u{5}avro"),
        ("4", r#"{"id": 4}"#),
        (nul_key, good),
        ("6", &deep),
        ("7", nul_text),
        ("8", good),
    ] {
        broker.send("orders", Some(key), Some(value)).await;
    }
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = reading("public.orders", "orders", &sink, "/");
    let spec = broker.spec("{topic: orders}", LONG_LEASE);
    let config = Config::new(&db.url, &spec, &observers);
    let mut process = Process::run(&config);
    let mut keys = keys_of(&sink, "/", 3).await;
    keys.sort();
    assert_eq!(keys, ["1", "7", "8"]);
    let found: Vec<_> = gaps(&db)
        .await
        .into_iter()
        .map(|(topic, partition, reason, from, to, count)| {
            assert_eq!((&*topic, partition), ("orders", 0));
            (reason, from, to, count)
        })
        .collect();
    let reason = |text: &str| {
        found
            .iter()
            .find(|one| one.0.contains(text))
            .cloned()
            .unwrap()
    };
    assert_eq!(found.len(), 3, "{found:?}");
    let what = |one: (String, i64, i64, i64)| (one.1, one.2, one.3);
    assert_eq!(what(reason("not JSON")), (1, 3, 2));
    assert_eq!(what(reason("no change of Debezium")), (3, 4, 1));
    assert_eq!(what(reason("NUL")), (4, 6, 2));
    process
        .says("records that are no events are passed over; of the first, its value is not JSON")
        .await;
    // More of the same takes no further row.
    for _ in 0..10 {
        broker.send("orders", Some("9"), Some("no json")).await;
    }
    broker.send("orders", Some("10"), Some(good)).await;
    keys_of(&sink, "/", 4).await;
    assert_eq!(gaps(&db).await.len(), 3);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_stop_the_source_or_are_recorded() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("events", 1).await;
    let (sink, config) = events(&db, &broker).await;
    let process = Process::run(&config);
    for n in 0..3 {
        broker
            .send("events", Some(&n.to_string()), Some("{}"))
            .await;
    }
    keys_of(&sink, "/", 3).await;
    process.stop().await;
    for n in 3..9 {
        broker
            .send("events", Some(&n.to_string()), Some("{}"))
            .await;
    }
    broker.delete_records("events", 6).await;
    let mut process = Process::run(&config);
    process
        .says("partition 0 of the topic events begins at 6, as older records were removed, and the next record to read is 3")
        .await;
    process.stop().await;
    config.change(
        "initialOffset: Earliest",
        "initialOffset: Earliest\n      onOffsetLost: Earliest",
    );
    let process = Process::run(&config);
    let mut keys = keys_of(&sink, "/", 6).await.split_off(3);
    keys.sort();
    assert_eq!(keys, ["6", "7", "8"]);
    process.stop().await;

    // Another topic of the same name has other records at the same offsets.
    broker.delete("events").await;
    broker.server.topic("events", 1).await;
    for n in 20..35 {
        broker
            .send("events", Some(&n.to_string()), Some("{}"))
            .await;
    }
    let mut process = Process::run(&config);
    process.says("was deleted and made again").await;
    let keys = keys_of(&sink, "/", 21).await;
    assert!(keys.contains(&"20".to_owned()), "{keys:?}");
    process.stop().await;
    let found = gaps(&db).await;
    assert_eq!(
        (found.len(), found[0].3, found[0].4, found[0].5),
        (2, 3, 6, 3),
        "{found:?}"
    );
    let dropped = command(&[
        "drop-listener",
        "--yes",
        "-f",
        config.path().to_str().unwrap(),
    ])
    .await;
    assert!(
        dropped.said().contains("the source kafka/kafka is dropped"),
        "{}",
        dropped.said()
    );
    let left: i64 = db
        .value("select count(*) from observer.source_offset")
        .await;
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_partitions_that_are_added_are_read_from_their_beginning() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("old", 1).await;
    broker.send("old", Some("before"), Some("{}")).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = reading("events", "events", &sink, "/");
    let topics =
        ["old", "new"].map(|topic| format!("{{topic: {topic}, contents: Events, entity: events}}"));
    let spec = broker.spec(&topics.join(", "), LONG_LEASE);
    let config = Config::new(&db.url, &spec.replace("Earliest", "Latest"), &observers);
    let mut process = Process::run(&config);
    process
        .says("there is no topic new, or it may not be seen; the others are read")
        .await;
    broker.send("old", Some("1"), Some("{}")).await;
    assert_eq!(keys_of(&sink, "/", 1).await, ["1"], "from then on");
    broker.server.topic("new", 1).await;
    broker.send("new", Some("2"), Some("{}")).await;
    assert_eq!(keys_of(&sink, "/", 2).await, ["1", "2"]);
    let admin = broker.client.admin();
    let more = admin.create_partitions([("old", 3)], CreatePartitionsOptions::default());
    more.await.unwrap().into_values().for_each(Result::unwrap);
    // One that knows only the partitions of now.
    let producer = eventually("the new partitions have leaders", async || {
        let client = Kafka::builder(format!("127.0.0.1:{}", broker.server.port));
        let client = client.connect().await.ok()?;
        let producer = client.producer().build().await.ok()?;
        let record = record("old", Some("p2"), Some("{}")).partition(2);
        let sent = producer.send(record).await;
        sent.ok()?.is_persisted().then_some(producer)
    })
    .await;
    for partition in 0..2 {
        let record = record("old", Some(&format!("p{partition}")), Some("{}"));
        let sent = producer.send(record.partition(partition)).await;
        assert!(sent.unwrap().is_persisted());
    }
    let mut keys = keys_of(&sink, "/", 5).await.split_off(2);
    keys.sort();
    assert_eq!(keys, ["p0", "p1", "p2"]);
    rows(&db, 5).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_told_apart_and_logged_in_to() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("events", 1).await;
    broker.send("events", Some("1"), Some("{}")).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let ca = broker.certs.ca.trim().replace('\n', "\\n");
    let spec = broker
        .spec("{topic: events, contents: Events}", LONG_LEASE)
        .replace(
            &format!("brokers: [\"127.0.0.1:{}\"]", broker.server.port),
            &format!(
                "brokers: [\"localhost:{}\"]\n      tls: {{ca: {{value: \"{ca}\\n\"}}}}\n      \
             sasl: {{username: {{value: {}}}, password: {{value: {}}}}}",
                broker.server.tls_port, LOGIN.0, LOGIN.1
            ),
        );
    let config = Config::new(&db.url, &spec, &reading("events", "events", &sink, "/"));
    let process = Process::run(&config);
    keys_of(&sink, "/", 1).await;
    let said = process.stop().await;
    assert!(!said.contains(LOGIN.1), "{said}");
    config.change(
        &format!("password: {{value: {}}}", LOGIN.1),
        "password: {value: wrong-password}",
    );
    let mut process = Process::run(&config);
    process
        .says("nothing is read from the source: the brokers: authentication error")
        .await;
    let said = process.stop().await;
    assert!(!said.contains("wrong-password"), "{said}");
    config.change("wrong-password", LOGIN.1);
    db.run("update observer.source set cluster = 'another'")
        .await;
    let mut process = Process::run(&config);
    process
        .says("what is in the change log is of another: point spec.source.kafka.brokers at that")
        .await;
    // What it says is enough, without another start.
    db.run("delete from observer.source").await;
    rows(&db, 2).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_share_a_source_list_the_same_topics() {
    let (db, broker) = (database().await, Broker::start().await);
    broker.server.topic("a", 1).await;
    broker.server.topic("b", 1).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = reading("b", "b", &sink, "/");
    let config = |topics: &str| Config::new(&db.url, &broker.spec(topics, LONG_LEASE), &observers);
    let first = config("{topic: a}");
    let mut reader = Process::run(&first);
    reader.says("reading topics of Kafka").await;
    let second = config("{topic: a}, {topic: b, contents: Events}");
    second.change("metadata: {name: test}", "metadata: {name: other}");
    let mut process = Process::run(&second);
    process
        .says(
            "the topic b is not read: the listener that reads the source kafka lists other topics",
        )
        .await;
    broker.send("b", Some("1"), Some("{}")).await;
    reader.stop().await;
    keys_of(&sink, "/", 1).await;
    process.stop().await;
}
