#![allow(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use crds::config::{
    ActionKind, BatchConfig, Egress, MessageFormat, Redacted, SaslConfig, SaslMechanism, TlsConfig,
};

use super::super::Action;
use super::super::fixture::{action, delivery, fails_with, final_outcome, now, runtime};
use super::*;
use crate::admission::endpoint_gate::EndpointRegistry;
use crate::delivery::failure::FailureKind;
use crate::delivery::outcome::Outcome;
use crate::egress::test_tls::known;
use testkit::certs::Certs;
use testkit::servers::kafka::{Kafka as Server, LOGIN};

const NEW: &str = r#"{"id": 7, "region": "eu", "odd": "a b"}"#;

fn config(broker: (&str, u16)) -> KafkaConfig {
    KafkaConfig {
        brokers: vec![(broker.0.to_owned(), broker.1)],
        topic: "orders".to_owned(),
        key: None,
        message: None,
        format: MessageFormat::default(),
        content_type: "application/json".to_owned(),
        tls: None,
        sasl: None,
        batch: None,
    }
}

fn compiled(config: KafkaConfig) -> Action {
    let kind = ActionKind::Kafka(config);
    Action::compile(&action(kind), &runtime()).unwrap()
}

async fn server() -> (Server, Certs) {
    let certs = Certs::make();
    (Server::start(&certs.server, &certs.ca).await, certs)
}

fn failure(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Retry { failure, .. } | Outcome::Rejected(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn record_partition_matches_kafka_clients_after_restart() {
    let (mut server, _) = server().await;
    server.topic("orders", 5).await;
    let write = compiled(KafkaConfig {
        message: Some("{\"order\": {{ new.id }}}".to_owned()),
        ..config(("127.0.0.1", server.port))
    });
    let mut event = delivery(None, Some(NEW));
    assert_eq!(final_outcome(&write, &event).await, Outcome::Delivered);
    // As `Utils.toPositive(Utils.murmur2("7")) % 5` says in Java.
    let records = server.records("orders", 4).await;
    // More than one of it where one was not answered in time.
    let [record, ..] = &*records else {
        panic!("nothing is where the key belongs")
    };
    assert!(records.iter().all(|one| one.headers == record.headers));
    assert_eq!(record.key.as_deref(), Some(&b"7"[..]));
    assert_eq!(record.value.as_deref(), Some(&br#"{"order": 7}"#[..]));
    assert_eq!(record.timestamp, now());
    assert_eq!(record.headers["webhook-id"], event.id().into_bytes());
    assert_eq!(record.headers["content-type"], b"application/json");
    assert!(!record.headers.contains_key("webhook-replay"));

    server.stop().await;
    let away = failure(write.attempt(&event, now()).await);
    assert!(
        matches!(away.kind, FailureKind::Connection | FailureKind::Timeout),
        "{away:?}"
    );
    server.resume().await;
    event.replay = Some("17".into());
    assert_eq!(final_outcome(&write, &event).await, Outcome::Delivered);
    let last = server.records("orders", 4).await.pop().unwrap();
    assert_eq!(last.headers["webhook-replay"], b"true");
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_bisects_to_the_rejected_items() {
    let (server, _) = server().await;
    server.topic("orders", 2).await;
    let mut event = delivery(None, Some(NEW));
    let nobody = compiled(KafkaConfig {
        topic: "orders.{{ new.region }}".to_owned(),
        ..config(("127.0.0.1", server.port))
    });
    fails_with(
        &nobody,
        &event,
        "kafka-topics.sh --create --topic orders.eu",
    )
    .await;
    let odd = compiled(KafkaConfig {
        topic: "{{ new.odd }}".to_owned(),
        ..config(("127.0.0.1", server.port))
    });
    let odd = failure(odd.attempt(&event, now()).await);
    assert_eq!(odd.kind, FailureKind::Template);

    let together = compiled(KafkaConfig {
        key: Some("{{ new.id }}".to_owned()),
        message: Some("{{ new.text }}".to_owned()),
        content_type: "text/plain".to_owned(),
        batch: Some(BatchConfig {
            max_events: 20,
            max_bytes: 1024 * 1024,
            linger: Duration::from_mins(1),
        }),
        ..config(("127.0.0.1", server.port))
    });
    let events: Vec<Delivery> = (0..20)
        .map(|n| {
            let text = if n == 13 {
                "x".repeat(200_000)
            } else {
                n.to_string()
            };
            event = delivery(None, Some(&format!(r#"{{"id": {n}, "text": "{text}"}}"#)));
            event.clone()
        })
        .collect();
    let attempts = events.iter().map(|event| together.attempt(event, now()));
    for (n, outcome) in join_all(attempts).await.into_iter().enumerate() {
        if n == 13 {
            let Outcome::Rejected(failure) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(failure.message.contains("message.max.bytes"), "{failure:?}");
        } else {
            assert_eq!(outcome, Outcome::Delivered, "{n}");
        }
    }
    let mut all = server.records("orders", 0).await;
    all.extend(server.records("orders", 1).await);
    let values = all.iter().map(|record| record.value.clone().unwrap());
    let mut values: Vec<u32> = values
        .map(|value| String::from_utf8(value).unwrap().parse().unwrap())
        .collect();
    values.sort_unstable();
    let expected: Vec<u32> = (0..20).filter(|n| *n != 13).collect();
    assert_eq!(values, expected, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_clients_are_accepted_or_told_why_not() {
    let (server, certs) = server().await;
    server.topic("orders", 1).await;
    let event = delivery(None, Some(NEW));
    let secured = |mechanism, password: &str, tls| KafkaConfig {
        tls: Some(tls),
        sasl: Some(SaslConfig {
            mechanism,
            username: Redacted::new(LOGIN.0),
            password: Redacted::new(password),
        }),
        ..config(("localhost", server.tls_port))
    };
    for mechanism in [
        SaslMechanism::Plain,
        SaslMechanism::ScramSha256,
        SaslMechanism::ScramSha512,
    ] {
        let let_in = compiled(secured(mechanism, LOGIN.1, known(&certs, false)));
        assert_eq!(final_outcome(&let_in, &event).await, Outcome::Delivered);
        let wrong = compiled(secured(mechanism, "hunter3-kafka", known(&certs, false)));
        let outcome = final_outcome(&wrong, &event).await;
        let Outcome::Rejected(failure) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(failure.message.contains("kafka.sasl"), "{failure:?}");
        assert!(!failure.message.contains("hunter"), "{failure:?}");
    }
    let shown = compiled(secured(
        SaslMechanism::ScramSha512,
        LOGIN.1,
        known(&certs, true),
    ));
    assert_eq!(final_outcome(&shown, &event).await, Outcome::Delivered);
    assert_eq!(server.records("orders", 0).await.len(), 4);

    let unknown = TlsConfig::default();
    let unknown = compiled(secured(SaslMechanism::Plain, LOGIN.1, unknown));
    let unknown = fails_with(&unknown, &event, "kafka.tls.ca").await;
    assert_eq!(unknown.kind, FailureKind::Connection);

    let nowhere = crate::admission::action_runtime::ActionRuntime::new(
        &Egress::default(),
        &EndpointRegistry::default(),
    )
    .unwrap();
    let kind = ActionKind::Kafka(config(("localhost", server.port)));
    let forbidden = Action::compile(&action(kind), &nowhere).unwrap();
    let outcome = forbidden.attempt(&event, now()).await;
    let Outcome::Rejected(failure) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(failure.kind, FailureKind::Egress);
}

#[test]
fn names_of_topics() {
    for (name, proper) in [
        ("orders", true),
        ("orders.eu_1-x", true),
        ("", false),
        (".", false),
        ("..", false),
        ("a b", false),
        ("é", false),
        (&"x".repeat(249), true),
        (&"x".repeat(250), false),
    ] {
        assert_eq!(is_topic(name), proper, "{name}");
    }
}
