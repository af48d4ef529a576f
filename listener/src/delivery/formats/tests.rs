#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::config::Operation;
use crds::v1alpha1::GROUP;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::actions::fixture::{delivery, now};
use crate::delivery::event::Event;

const LISTENER: &str = "shop/main";

/// As no reader of JSON would write them again.
const OLD: &str = r#"{"total" : 10.00, "a":"\u00e9"}"#;
const NEW: &str = r#"{"total":  12345678901234567890.10, "b":1e400}"#;

/// What all formats hold as the event.
const DATA: &str = r#"{"id":"a1b2-42","entity":"public.orders","operation":"Update","key":"7","tenant":null,"occurredAt":"2026-03-01T12:00:00Z","old":{"total" : 10.00, "a":"\u00e9"},"new":{"total":  12345678901234567890.10, "b":1e400},"changed":["a","b","total"],"observer":"default/big-orders","action":"notify"}"#;

fn event(change: impl FnOnce(&mut Event)) -> Delivery {
    let mut delivery = delivery(Some(OLD), Some(NEW));
    change(Arc::get_mut(&mut delivery.event).unwrap());
    delivery
}

fn body(format: MessageFormat, delivery: &Delivery) -> String {
    let later = now() + chrono::TimeDelta::milliseconds(1500);
    let body = MessageWriter::new(format, LISTENER).body(delivery, later);
    String::from_utf8(body.unwrap()).unwrap()
}

fn headers(format: MessageFormat, protocol: HeaderProtocol, delivery: &Delivery) -> Vec<String> {
    let headers = MessageWriter::new(format, LISTENER).headers(delivery, protocol);
    let shown = headers
        .into_iter()
        .map(|(name, value)| format!("{name}: {value}"));
    shown.collect()
}

#[test]
fn event_is_its_own_envelope() {
    let delivery = event(|_| {});
    assert_eq!(body(MessageFormat::Event, &delivery), DATA);
    assert_eq!(body(MessageFormat::CloudEventsBinary, &delivery), DATA);
}

/// What a source says of the table `public.orders`.
fn source(schema: &str, table: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#""source":{{"version":"{version}","connector":"postgresql","name":"shop/main","ts_ms":1772366400000,"snapshot":"false","schema":"{schema}","table":"{table}"}}"#
    )
}

#[test]
fn debezium_value_has_the_images_of_each_operation() {
    let source = source("public", "orders");
    for (operation, old, new, op) in [
        (Operation::Insert, None, Some(NEW), "c"),
        (Operation::Update, Some(OLD), Some(NEW), "u"),
        (Operation::Delete, Some(OLD), None, "d"),
        (Operation::Truncate, None, None, "t"),
    ] {
        let mut delivery = delivery(old, new);
        Arc::get_mut(&mut delivery.event).unwrap().operation = operation;
        let (before, after) = (old.unwrap_or("null"), new.unwrap_or("null"));
        assert_eq!(
            body(MessageFormat::Debezium, &delivery),
            format!(
                r#"{{"before":{before},"after":{after},{source},"op":"{op}","ts_ms":1772366401500}}"#
            )
        );
    }
}

#[test]
fn debezium_splits_quoted_entities_and_keeps_other_names_whole() {
    for (entity, schema, table) in [
        (r#""a.b"."c""d""#, "a.b", r#"c\"d"#),
        ("Orders", "", "Orders"),
    ] {
        let delivery = event(|event| event.entity = entity.into());
        let body = body(MessageFormat::Debezium, &delivery);
        assert!(body.contains(&source(schema, table)), "{body}");
    }
}

#[test]
fn debezium_writes_a_custom_event_as_a_logical_message() {
    let custom = |new: Option<&str>| {
        let mut delivery = delivery(None, new);
        let event = Arc::get_mut(&mut delivery.event).unwrap();
        event.operation = Operation::Custom;
        event.entity = "billing.due".into();
        body(MessageFormat::Debezium, &delivery)
    };
    let source = source("", "");
    assert_eq!(
        custom(Some(r#"{"n": 1.0}"#)),
        format!(
            r#"{{{source},"message":{{"prefix":"billing.due","content":"eyJuIjogMS4wfQ=="}},"op":"m","ts_ms":1772366401500}}"#
        )
    );
    assert!(custom(None).contains(r#""content":null"#));
}

#[test]
fn structured_cloud_event_holds_the_envelope_as_data() {
    let attributes = r#""specversion":"1.0","id":"a1b2-42","source":"/observers/shop/main","type":"dev.fraiseql.observers.update","subject":"public.orders/7","time":"2026-03-01T12:00:00Z","datacontenttype":"application/json","partitionkey":"7","observer":"default/big-orders","action":"notify""#;
    let delivery = event(|_| {});
    assert_eq!(
        body(MessageFormat::CloudEvents, &delivery),
        format!(r#"{{{attributes},"data":{DATA}}}"#)
    );
}

#[test]
fn binary_cloud_event_has_its_attributes_as_headers() {
    let binary = MessageFormat::CloudEventsBinary;
    let delivery = event(|event| {
        event.key = Some("50% \"é€😀\n".to_owned());
        event.tenant = Some("Ada Ltd".to_owned());
    });
    let http = [
        "ce-specversion: 1.0",
        "ce-id: a1b2-42",
        "ce-source: /observers/shop/main",
        "ce-type: dev.fraiseql.observers.update",
        "ce-subject: public.orders/50%25%20%22%C3%A9%E2%82%AC%F0%9F%98%80%250A",
        "ce-time: 2026-03-01T12:00:00Z",
        "ce-partitionkey: 50%25%20%22%C3%A9%E2%82%AC%F0%9F%98%80%250A",
        "ce-tenant: Ada%20Ltd",
        "ce-observer: default/big-orders",
        "ce-action: notify",
    ];
    assert_eq!(headers(binary, HeaderProtocol::Http, &delivery), http);
    // NATS says by its content type that a message is not binary.
    let mut nats = http.to_vec();
    nats.insert(6, "ce-datacontenttype: application/json");
    assert_eq!(headers(binary, HeaderProtocol::Nats, &delivery), nats);
    let kafka = headers(binary, HeaderProtocol::Kafka, &delivery);
    assert_eq!(kafka.len(), http.len());
    assert_eq!(kafka[6], "ce_partitionkey: 50% \"é€😀%0A");
    assert_eq!(kafka[7], "ce_tenant: Ada Ltd");
}

#[test]
fn only_binary_mode_has_headers_save_for_the_content_type_of_nats() {
    let delivery = event(|_| {});
    for format in [
        MessageFormat::Event,
        MessageFormat::Debezium,
        MessageFormat::CloudEvents,
    ] {
        assert_eq!(headers(format, HeaderProtocol::Http, &delivery), [""; 0]);
        assert_eq!(headers(format, HeaderProtocol::Kafka, &delivery), [""; 0]);
        let nats = headers(format, HeaderProtocol::Nats, &delivery);
        if format == MessageFormat::CloudEvents {
            assert_eq!(
                nats,
                ["Content-Type: application/cloudevents+json; charset=utf-8"]
            );
        } else {
            assert_eq!(nats, [""; 0]);
        }
    }
}

#[test]
fn attributes_without_a_value_are_left_out() {
    let delivery = event(|event| {
        event.key = None;
        event.tenant = Some(String::new());
        event.operation = Operation::Truncate;
    });
    let body: Value = serde_json::from_str(
        &MessageWriter::new(MessageFormat::CloudEvents, "shop/own name?")
            .body(&delivery, now())
            .map(|body| String::from_utf8(body).unwrap())
            .unwrap()
            // The one number that this reader does not take.
            .replace("1e400", "1"),
    )
    .unwrap();
    assert_eq!(body["subject"], "public.orders");
    assert_eq!(body["source"], "/observers/shop/own%20name%3F");
    assert_eq!(body["type"], "dev.fraiseql.observers.truncate");
    assert!(body.get("partitionkey").is_none() && body.get("tenant").is_none());
}

#[test]
fn names_of_attributes_and_types_are_proper() {
    let mut reversed: Vec<&str> = GROUP.split('.').collect();
    reversed.reverse();
    let names = headers(
        MessageFormat::CloudEventsBinary,
        HeaderProtocol::Nats,
        &event(|_| {}),
    );
    for name in names
        .iter()
        .map(|header| header.split_once(": ").unwrap().0)
    {
        let name = name.strip_prefix("ce-").unwrap();
        assert!(
            name.len() <= 20 && name.bytes().all(|byte| byte.is_ascii_lowercase()),
            "{name}"
        );
    }
    let prefix = format!("ce-type: {}.update", reversed.join("."));
    assert!(names.contains(&prefix), "{names:?}");
}

/// A value as JSON, with spaces, escapes and digits that no writer would choose.
fn image() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?[1-9][0-9]{0,40}\\.[0-9]{1,20}(e[+-]?[0-9]{1,3})?",
        "\"([a-zé ]|\\\\u00e9|\\\\/|\\\\n){0,8}\"",
        Just("null".to_owned()),
    ];
    proptest::collection::vec((leaf, " {0,2}"), 0..5).prop_map(|fields| {
        let fields = fields.into_iter().enumerate();
        let fields = fields.map(|(n, (value, space))| format!("\"f{n}\"{space}:{space}{value}"));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(" , "))
    })
}

proptest! {
    /// Images are in every format byte for byte.
    #[test]
    fn images_are_kept_byte_for_byte(old in image(), new in image()) {
        let delivery = delivery(Some(&old), Some(&new));
        for (format, before, after) in [
            (MessageFormat::Event, "\"old\":", "\"new\":"),
            (MessageFormat::Debezium, "\"before\":", "\"after\":"),
            (MessageFormat::CloudEvents, "\"old\":", "\"new\":"),
            (MessageFormat::CloudEventsBinary, "\"old\":", "\"new\":"),
        ] {
            let body = body(format, &delivery);
            let images = format!("{before}{old},{after}{new},");
            prop_assert!(body.contains(&images), "{} in {}", images, body);
        }
    }

    /// A value in binary mode is printable ASCII, and one decoding brings the attribute back.
    #[test]
    fn header_values_are_printable_and_come_back(key in "\\PC{1,12}|[\\x00-\\x7f]{1,8}") {
        let delivery = event(|event| event.key = Some(key.clone()));
        let of = |protocol| {
            let writer = MessageWriter::new(MessageFormat::CloudEventsBinary, LISTENER);
            let mut headers = writer.headers(&delivery, protocol).into_iter();
            headers.find(|(name, _)| name.ends_with("partitionkey")).unwrap().1
        };
        let (http, kafka) = (of(HeaderProtocol::Http), of(HeaderProtocol::Kafka));
        prop_assert!(http.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'), "{}", http);
        let decoded = percent_encoding::percent_decode_str(&http).decode_utf8().unwrap();
        prop_assert_eq!(&*decoded, &kafka);
        prop_assert!(!kafka.chars().any(char::is_control));
        if !key.chars().any(char::is_control) {
            prop_assert_eq!(&kafka, &key);
        }
    }
}
