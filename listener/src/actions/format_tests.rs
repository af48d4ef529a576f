//! What servers receive in formats other than the event's own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use crds::config::{
    ActionKind, BatchConfig, KafkaConfig, MessageFormat, NatsConfig, Redacted, RedisCommand,
    RedisConfig, WebhookConfig,
};
use testkit::certs::Certs;
use testkit::http_sink::{Behaviour, Received, Sink};
use testkit::servers::kafka::Kafka;
use testkit::servers::nats::Nats;

use super::Action;
use super::fixture::{action, delivery, final_outcome, now, runtime, webhook};
use crate::delivery::outcome::Outcome;

const OLD: &str = r#"{"total" : 10.00}"#;
const NEW: &str = r#"{"total":  12345678901234567890.10}"#;

fn compiled(kind: ActionKind) -> Action {
    Action::compile(&action(kind), &runtime().with_listener("shop/main")).unwrap()
}

/// What a sink receives from a webhook configured so.
async fn sent(configure: impl FnOnce(&mut WebhookConfig)) -> Received {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let mut config = webhook(sink.url("/"));
    configure(&mut config);
    let delivery = delivery(Some(OLD), Some(NEW));
    let action = compiled(ActionKind::Webhook(config));
    assert_eq!(action.attempt(&delivery, now()).await, Outcome::Delivered);
    sink.received().remove(0)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn webhook_sends_binary_mode_beside_its_own_headers() {
    let received = sent(|config| {
        config.format = MessageFormat::CloudEventsBinary;
        config.signing_secrets = vec![Redacted::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    });
    let received = received.await;
    let id = delivery(Some(OLD), Some(NEW)).id();
    for (name, value) in [
        ("ce-id", "a1b2-42"),
        ("ce-source", "/observers/shop/main"),
        ("ce-type", "dev.fraiseql.observers.update"),
        ("ce-subject", "public.orders/7"),
        ("content-type", "application/json"),
        ("webhook-id", &id),
    ] {
        assert_eq!(received.header(name), Some(value), "{name}");
    }
    assert!(received.header("webhook-signature").is_some());
    assert!(received.header("ce-datacontenttype").is_none());
    let images = format!(r#""old":{OLD},"new":{NEW},"#);
    assert!(text(&received.body).contains(&images), "{received:?}");
}

#[tokio::test]
async fn webhook_sends_a_batch_of_a_format_as_an_array() {
    let received = sent(|config| {
        config.format = MessageFormat::Debezium;
        config.batch = Some(BatchConfig {
            max_events: 4,
            max_bytes: 100_000,
            linger: Duration::from_millis(1),
        });
    });
    let received = received.await;
    let body = text(&received.body);
    let change = format!(r#"[{{"before":{OLD},"after":{NEW},"source":{{"#);
    assert!(body.starts_with(&change) && body.ends_with("}]"), "{body}");
    assert!(body.contains(r#""name":"shop/main""#), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn record_has_its_attributes_as_headers() {
    let certs = Certs::make();
    let server = Kafka::start(&certs.server, &certs.ca).await;
    server.topic("orders", 1).await;
    let write = compiled(ActionKind::Kafka(KafkaConfig {
        brokers: vec![("127.0.0.1".to_owned(), server.port)],
        topic: "orders".to_owned(),
        key: None,
        message: None,
        format: MessageFormat::CloudEventsBinary,
        content_type: "application/json".to_owned(),
        tls: None,
        sasl: None,
        batch: None,
    }));
    let event = delivery(Some(OLD), Some(NEW));
    assert_eq!(final_outcome(&write, &event).await, Outcome::Delivered);
    let record = server.records("orders", 0).await.remove(0);
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_partitionkey", "7"),
        ("ce_source", "/observers/shop/main"),
        ("content-type", "application/json"),
        ("webhook-id", &event.id()),
    ] {
        assert_eq!(text(&record.headers[name]), value, "{name}");
    }
    assert!(text(&record.value.unwrap()).contains(NEW));
}

#[tokio::test]
async fn message_has_its_attributes_as_headers() {
    let server = Nats::start().await;
    let stream = server.stream().await;
    for (n, format) in [MessageFormat::CloudEventsBinary, MessageFormat::CloudEvents]
        .into_iter()
        .enumerate()
    {
        let publish = compiled(ActionKind::Nats(NatsConfig {
            url: Redacted::new(server.url()),
            tls: None,
            credentials: None,
            subject: "orders.eu".to_owned(),
            message: None,
            format,
            content_type: format.content_type(false).to_owned(),
        }));
        let mut event = delivery(Some(OLD), Some(NEW));
        event.action = format!("notify-{n}").into();
        assert_eq!(final_outcome(&publish, &event).await, Outcome::Delivered);
        let id = event.id();
        let sequence = u64::try_from(n).unwrap() + 1;
        let kept = stream.get_raw_message(sequence).await.unwrap();
        let header = |name| {
            kept.headers
                .get(name)
                .map(|value| value.as_str().to_owned())
        };
        assert_eq!(header("Nats-Msg-Id"), Some(id));
        assert!(text(&kept.payload).contains(NEW));
        let (data, whole) = (header("ce-datacontenttype"), header("Content-Type"));
        if format == MessageFormat::CloudEventsBinary {
            assert_eq!(header("ce-subject").as_deref(), Some("public.orders/7"));
            assert_eq!((data.as_deref(), whole), (Some("application/json"), None));
        } else {
            let structured = "application/cloudevents+json; charset=utf-8";
            assert_eq!((data, whole.as_deref()), (None, Some(structured)));
        }
    }
}

#[test]
fn entry_of_a_stream_holds_its_format() {
    let add = compiled(ActionKind::Redis(RedisConfig {
        url: Redacted::new("redis://127.0.0.1:1"),
        tls: None,
        command: RedisCommand::AppendToStream {
            stream: "orders".to_owned(),
            message: None,
            format: MessageFormat::CloudEvents,
            max_length: None,
        },
        content_type: "application/json".to_owned(),
    }));
    let preview = add.preview(&delivery(Some(OLD), Some(NEW)), now()).unwrap();
    let command = &preview[0].1;
    let event = r#" event {"specversion":"1.0","id":"a1b2-42","source":"/observers/shop/main","#;
    assert!(command.contains(event), "{command}");
    assert!(command.contains(NEW), "{command}");
}

/// Shown with all that is sent beside the body.
#[test]
fn preview_of_a_message_shows_its_headers() {
    let publish = compiled(ActionKind::Nats(NatsConfig {
        url: Redacted::new("nats://127.0.0.1:4222"),
        tls: None,
        credentials: None,
        subject: "orders".to_owned(),
        message: None,
        format: MessageFormat::CloudEventsBinary,
        content_type: "application/json".to_owned(),
    }));
    let preview = publish.preview(&delivery(None, Some(NEW)), now()).unwrap();
    assert_eq!(preview[0], ("ce-specversion".to_owned(), "1.0".to_owned()));
    let (to, message) = preview.last().unwrap();
    assert_eq!(to, "127.0.0.1:4222 orders");
    assert!(message.contains(NEW), "{message}");
}
