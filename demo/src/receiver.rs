//! What a request at the sink says, read as a receiver of the shop's webhooks would.

use std::fmt::Write as _;

use serde_json::Value;

use crate::tally::{Delivery, Observer};
use listener::dead_letters::admin::DeadLetterDetail;
use testkit::http_sink::Received;

/// Headers worth showing.
const SHOWN: [&str; 5] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "x-shop-entity",
    "x-shop-operation",
];

/// The delivery that a request is; nothing where no observer of the shop sends such a thing.
pub(crate) fn delivery(received: &Received) -> Option<Delivery> {
    let body: Value = serde_json::from_slice(&received.body).ok()?;
    if let Some(observer) = body.get("observer") {
        if body["entity"] != "shop.orders" {
            return None;
        }
        return Some(Delivery {
            observer: observer_of(observer.as_str()?)?,
            order: body["key"].as_str()?.parse().ok()?,
            revision: revision(&body["old"], &body["new"])?,
        });
    }
    // The message of the observer's own making, which must be signed.
    (received.signed == Some(true)).then_some(())?;
    Some(Delivery {
        observer: Observer::PaidOrders,
        order: body["order"].as_i64()?,
        revision: body["revision"].as_i64()?,
    })
}

/// The delivery that a dead letter stands for.
pub(crate) fn given_up(letter: &DeadLetterDetail) -> Option<Delivery> {
    let image = |image: &Option<Box<serde_json::value::RawValue>>| match image {
        Some(image) => serde_json::from_str(image.get()).ok(),
        None => Some(Value::Null),
    };
    Some(Delivery {
        observer: observer_of(&letter.row.observer)?,
        order: letter.row.key.as_ref()?.parse().ok()?,
        revision: revision(&image(&letter.old)?, &image(&letter.new)?)?,
    })
}

fn observer_of(identity: &str) -> Option<Observer> {
    Observer::named(identity.strip_prefix("default/")?)
}

/// An order's revision after a change; its removal counts as one.
fn revision(old: &Value, new: &Value) -> Option<i64> {
    match new {
        Value::Null => Some(old["revision"].as_i64()? + 1),
        new => new["revision"].as_i64(),
    }
}

/// A request as it came, for people.
pub(crate) fn sample(received: &Received, observer: Observer) -> String {
    let mut text = format!(
        "A first delivery of {}:\n  {}",
        observer.name(),
        received.line
    );
    for name in SHOWN {
        if let Some(value) = received.header(name) {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n  {name}: {value}");
        }
    }
    for line in String::from_utf8_lossy(&received.body).lines() {
        let _ = write!(text, "\n  {line}");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Instant;

    use super::*;

    fn received(body: &str, signed: bool) -> Option<Delivery> {
        delivery(&Received {
            line: "POST /orders".to_owned(),
            webhook_id: "id".to_owned(),
            headers: Vec::new(),
            body: body.to_owned().into(),
            at: Instant::now(),
            status: Some(200),
            signed: Some(signed),
        })
    }

    #[test]
    fn each_kind_of_body_is_told_apart() {
        let event = r#"{"observer": "default/order-audit", "entity": "shop.orders", "key": "7",
            "old": {"revision": 2}, "new": {"revision": 3}}"#;
        let told = received(event, false).unwrap();
        assert_eq!(
            (told.observer, told.order, told.revision),
            (Observer::OrderAudit, 7, 3)
        );
        let told = received(&event.replace(r#"{"revision": 3}"#, "null"), false).unwrap();
        assert_eq!((told.observer, told.revision), (Observer::OrderAudit, 3));
        let told = received(r#"{"order": 7, "revision": 4}"#, true).unwrap();
        assert_eq!(
            (told.observer, told.order, told.revision),
            (Observer::PaidOrders, 7, 4)
        );
    }

    #[test]
    fn what_no_observer_sends_is_no_delivery() {
        for (body, signed) in [
            (r#"{"order": 7, "revision": 4}"#, false),
            (r#"{"order": 7}"#, true),
            (
                r#"{"observer": "default/other", "entity": "shop.orders", "key": "7", "new": {"revision": 1}}"#,
                true,
            ),
            (
                r#"{"observer": "default/order-audit", "entity": "shop.orders", "key": "x", "new": {"revision": 1}}"#,
                true,
            ),
            ("no JSON", true),
        ] {
            assert_eq!(received(body, signed), None, "{body}");
        }
    }
}
