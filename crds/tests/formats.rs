//! Rules for formats, and what follows from a format.

use observer_crds::config::{ActionKind, MessageFormat};
use observer_crds::loader::load;
use observer_crds::manifest::SourceFile;

use crate::rules::{LISTENER, OBSERVER, breaks_observer, problems};

const WEBHOOK: &str = "webhook:\n        url: {value: 'https://hooks.example.com/x'}";
const KAFKA: &str = "kafka:\n        brokers: [k]\n        topic: orders";
const NATS: &str = "nats:\n        url: {value: 'nats://n'}\n        subject: orders";

/// A stream's entry with these fields.
fn redis(more: &str) -> String {
    format!(
        "redis:\n        url: {{value: 'redis://r'}}\n        appendToStream: {{stream: orders{more}}}"
    )
}

/// An action of a kind with some more fields.
fn with(kind: &str, fields: &[&str]) -> String {
    let fields = fields.iter().map(|field| format!("\n        {field}"));
    format!("{kind}{}", fields.collect::<String>())
}

#[track_caller]
fn breaks(action: &str, expected: &str) {
    let expected = format!("spec.actions[0].{expected}");
    breaks_observer(WEBHOOK, action, &expected);
}

#[test]
fn format_and_template_exclude_each_other() {
    let why = |name| format!("says what is sent, and so does `{name}`; leave out one of them");
    for format in ["Debezium", "CloudEvents", "CloudEventsBinary"] {
        let format = format!("format: {format}");
        breaks(
            &with(WEBHOOK, &[&format, "body: '{}'"]),
            &format!("webhook.format: {}", why("body")),
        );
        breaks(
            &with(KAFKA, &[&format, "message: '{}'"]),
            &format!("kafka.format: {}", why("message")),
        );
        breaks(
            &with(NATS, &[&format, "message: '{}'"]),
            &format!("nats.format: {}", why("message")),
        );
    }
    breaks(
        &redis(", format: Debezium, message: '{}'"),
        &format!("redis.appendToStream.format: {}", why("message")),
    );
}

#[test]
fn format_decides_the_content_type() {
    let fields = ["format: CloudEvents", "contentType: application/x+json"];
    for (kind, name) in [(WEBHOOK, "webhook"), (KAFKA, "kafka"), (NATS, "nats")] {
        breaks(
            &with(kind, &fields),
            &format!("{name}.contentType: is decided by `format`; leave it out"),
        );
    }
    breaks(
        &with(
            WEBHOOK,
            &["batch: {}", "format: Debezium", "contentType: text/plain"],
        ),
        "webhook.contentType: is decided by `format`; leave it out",
    );
}

#[test]
fn binary_mode_is_for_one_event_and_has_headers_of_its_own() {
    let binary = "format: CloudEventsBinary";
    breaks(
        &with(WEBHOOK, &[binary, "batch: {}"]),
        "webhook.format: has headers of one event, but one request is for several with `batch`; make it \
         CloudEvents, or leave out `batch`",
    );
    breaks(
        &with(WEBHOOK, &[binary, "headers: {Ce-Id: {value: x}}"]),
        "webhook.headers.Ce-Id: is for the attributes that `format: CloudEventsBinary` sets; leave it out",
    );
    breaks(
        &redis(", format: CloudEventsBinary"),
        "redis.appendToStream.format: needs headers, and entries of a stream have none; make it CloudEvents",
    );
}

#[test]
fn action_that_is_loaded_has_its_format_and_its_content_type() {
    let ce = "application/cloudevents+json; charset=utf-8";
    let batch = "application/cloudevents-batch+json; charset=utf-8";
    let json = "application/json";
    for (action, format, content_type) in [
        (with(WEBHOOK, &[]), MessageFormat::Event, json),
        (
            with(WEBHOOK, &["contentType: application/x+json"]),
            MessageFormat::Event,
            "application/x+json",
        ),
        (
            with(WEBHOOK, &["headers: {ce-id: {value: x}}"]),
            MessageFormat::Event,
            json,
        ),
        (
            with(WEBHOOK, &["format: CloudEvents"]),
            MessageFormat::CloudEvents,
            ce,
        ),
        (
            with(WEBHOOK, &["format: CloudEvents", "batch: {}"]),
            MessageFormat::CloudEvents,
            batch,
        ),
        (
            with(WEBHOOK, &["format: Debezium", "batch: {}"]),
            MessageFormat::Debezium,
            json,
        ),
        (
            with(KAFKA, &["format: CloudEvents", "batch: {}"]),
            MessageFormat::CloudEvents,
            ce,
        ),
        (
            with(KAFKA, &["format: CloudEventsBinary", "batch: {}"]),
            MessageFormat::CloudEventsBinary,
            json,
        ),
        (
            with(NATS, &["format: CloudEvents"]),
            MessageFormat::CloudEvents,
            ce,
        ),
    ] {
        let text = format!("{LISTENER}---{}", OBSERVER.replace(WEBHOOK, &action));
        assert_eq!(problems(&text), [""; 0], "{action}");
        let file = SourceFile {
            path: "f.yaml".into(),
            text,
        };
        let loaded = load(&[file], &|_, _| None, None).unwrap();
        let found = match &loaded.bundle.observers[0].actions[0].kind {
            ActionKind::Webhook(config) => (config.format, &config.content_type),
            ActionKind::Kafka(config) => (config.format, &config.content_type),
            ActionKind::Nats(config) => (config.format, &config.content_type),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, (format, &content_type.to_owned()), "{action}");
    }
}
