#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

const NOW: i64 = 1_790_000_000_000;

fn topic(contents: TopicContents) -> KafkaTopicConfig {
    KafkaTopicConfig {
        topic: "shop.orders".to_owned(),
        contents,
        entity: None,
        key: Vec::new(),
        tenant: None,
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(NOW).unwrap()
}

fn read_texts(
    topic: &KafkaTopicConfig,
    key: Option<&str>,
    value: Option<&str>,
) -> Result<Option<LogRow>, Malformed> {
    let record = Record {
        key: key.map(str::as_bytes),
        value: value.map(str::as_bytes),
        timestamp: NOW - 1000,
        traceparent: None,
    };
    read(topic, record, now())
}

/// Operation, entity, key and images.
fn told(row: LogRow) -> (char, String, Option<String>, Option<String>, Option<String>) {
    (
        row.operation,
        row.entity.to_string(),
        row.key,
        row.old,
        row.new,
    )
}

#[allow(clippy::unnecessary_wraps, reason = "what is compared has none or one")]
fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn changes_are_read_with_and_without_their_schema() {
    let envelope = r#"{"before": {"id": 7, "v":1.0}, "after": {"id": 7, "v": 1e400},
        "source": {"schema": "public", "table": "orders", "ts_ms": 1700000000123}, "op": "u", "ts_ms": 1700000000999}"#;
    let wrapped = format!(r#"{{"schema": {{"type": "struct"}}, "payload": {envelope}}}"#);
    for value in [envelope, &wrapped] {
        for key in [
            r#"{"id": 7}"#,
            r#"{"schema": {}, "payload": {"id":7}}"#,
            "7",
        ] {
            let row = read_texts(&topic(TopicContents::Debezium), Some(key), Some(value));
            let row = row.unwrap().unwrap();
            assert_eq!(row.occurred_at.timestamp_millis(), 1_700_000_000_123);
            assert_eq!(
                told(row),
                (
                    'u',
                    "public.orders".to_owned(),
                    text("7"),
                    text(r#"{"id": 7, "v":1.0}"#),
                    text(r#"{"id": 7, "v": 1e400}"#)
                )
            );
        }
    }
}

#[test]
fn header_gives_the_trace() {
    let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (header, trace) in [
        (Some(text), Some(text.to_owned())),
        (Some("00-x"), None),
        (None, None),
    ] {
        let record = Record {
            key: None,
            value: Some(b"{}"),
            timestamp: NOW,
            traceparent: header,
        };
        let row = read(&topic(TopicContents::Events), record, now());
        let found = row.unwrap().unwrap().trace;
        assert_eq!(found.map(|trace| trace.to_string()), trace);
    }
}

#[test]
fn operations_are_those_of_debezium() {
    let read = |op: &str| {
        let value = format!(
            r#"{{"op": "{op}", "before": {{"id": 1}}, "after": {{"id": 2}}, "source": {{"db": "shop", "collection": "a.b"}}}}"#
        );
        told(
            read_texts(&topic(TopicContents::Debezium), Some("1"), Some(&value))
                .unwrap()
                .unwrap(),
        )
    };
    let entity = || "shop.\"a.b\"".to_owned();
    let (before, after, key) = (text(r#"{"id": 1}"#), text(r#"{"id": 2}"#), text("1"));
    for (op, code, images) in [
        ("c", 'i', (None, after.clone())),
        ("r", 'r', (None, after.clone())),
        ("u", 'u', (before.clone(), after)),
        ("d", 'd', (before, None)),
    ] {
        assert_eq!(read(op), (code, entity(), key.clone(), images.0, images.1));
    }
    let message =
        r#"{"op": "m", "message": {"prefix": "p", "content": "YQ=="}, "source": {"schema": ""}}"#;
    let message = read_texts(&topic(TopicContents::Debezium), None, Some(message));
    assert_eq!(message.unwrap().unwrap().operation, 'c');
    assert_eq!(read("t"), ('t', entity(), None, None, None));
    let other = read("m");
    assert_eq!(other.0, 'c');
    assert!(other.4.unwrap().contains(r#""op": "m""#));
}

#[test]
fn tombstones_say_nothing_new() {
    let topic = topic(TopicContents::Debezium);
    for value in [
        None,
        Some("null"),
        Some(r#"{"schema": null, "payload": null}"#),
    ] {
        assert_eq!(read_texts(&topic, Some("1"), value), Ok(None));
    }
}

#[test]
fn states_and_events_are_read_as_they_are() {
    let rows = topic(TopicContents::Rows);
    let row = |value| told(read_texts(&rows, Some("\"a\""), value).unwrap().unwrap());
    let entity = || "shop.orders".to_owned();
    let value = r#"{ "x" : 1 }"#;
    assert_eq!(
        row(Some(value)),
        ('u', entity(), text("a"), None, text(value))
    );
    assert_eq!(row(None), ('d', entity(), text("a"), None, None));
    let events = KafkaTopicConfig {
        entity: text("billing.closed"),
        tenant: text("org"),
        key: vec!["org".to_owned(), "n".to_owned()],
        ..topic(TopicContents::Events)
    };
    let event = read_texts(&events, None, Some(r#"{"n": 7, "org": "acme"}"#))
        .unwrap()
        .unwrap();
    assert_eq!(event.tenant.as_deref(), Some("acme"));
    assert_eq!(event.occurred_at.timestamp_millis(), NOW - 1000);
    let told = told(event);
    assert_eq!(
        (told.0, &*told.1, told.2),
        ('c', "billing.closed", text(r#"["acme", 7]"#))
    );
}

#[test]
fn keys_are_those_of_the_change_log() {
    for (key, expected) in [
        ("7", "7"),
        (r#""a b""#, "a b"),
        ("plain text", "plain text"),
        (r#"{"org": "b", "id": 2}"#, r#"["b", 2]"#),
        (r#"{"id": 2, "org": null}"#, "[2, null]"),
        ("[1,2]", "[1,2]"),
        ("\0\0\0\u{7}", "\\x00000007"),
    ] {
        assert_eq!(
            record_key(key.as_bytes()).as_deref(),
            Some(expected),
            "{key:?}"
        );
    }
    assert_eq!(record_key(b"null"), None);
    assert_eq!(record_key(&[0xff, 0x01]).as_deref(), Some("\\xff01"));
}

#[test]
fn what_is_no_event_says_why() {
    let changes = topic(TopicContents::Debezium);
    let why =
        |topic: &KafkaTopicConfig, value: &str| read_texts(topic, None, Some(value)).unwrap_err();
    assert_eq!(why(&changes, "\u{1}avro"), Malformed::NotJson);
    assert_eq!(why(&changes, "{} {}"), Malformed::NotJson);
    for value in [
        "[]",
        "7",
        r#"{"id": 7}"#,
        r#"{"op": 7, "after": {}}"#,
        r#"{"op": "c"}"#,
    ] {
        assert_eq!(why(&changes, value), Malformed::NoChange, "{value}");
    }
    let keyed = KafkaTopicConfig {
        key: vec!["id".to_owned()],
        ..topic(TopicContents::Rows)
    };
    assert_eq!(why(&keyed, "[7]"), Malformed::NoObject);
    assert_eq!(why(&keyed, r#"{"id": "\u0000"}"#), Malformed::NotStorable);
    let deep = "[".repeat(2000) + &"]".repeat(2000);
    assert_eq!(
        why(&topic(TopicContents::Events), &deep),
        Malformed::NotStorable
    );
}

#[test]
fn no_event_is_from_the_future() {
    let value = r#"{"op": "c", "after": {}, "source": {"table": "t", "ts_ms": 9000000000000}}"#;
    let row = read_texts(&topic(TopicContents::Debezium), None, Some(value))
        .unwrap()
        .unwrap();
    assert_eq!(row.occurred_at, now());
}
