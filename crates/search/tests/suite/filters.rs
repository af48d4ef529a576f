//! Filters.

use chrono::TimeDelta;
use crds::config::Operation;
use observer_search::{DeliveryState, Document, Filters};

use crate::support::builders::{delivery, document, epoch, matched, not_matched, with_new};
use crate::support::{Fixture, filtered, ids, write};

pub(crate) async fn each_filter_finds_its_documents(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "filters/each";
    let documents = [
        Document {
            tenant: Some("acme".to_owned()),
            ..with_new(listener, 1, r#"{"name": "first"}"#)
        },
        Document {
            entity: "public.Orders".to_owned(),
            operation: Operation::Update,
            key: Some("Key*'\"\\".to_owned()),
            tenant: Some("ACME".to_owned()),
            ..document(listener, 2)
        },
        Document {
            operation: Operation::Delete,
            key: Some("k".repeat(3000)),
            tenant: Some("t".repeat(3000)),
            observers: vec![not_matched("shop/mail", "when is false")],
            ..document(listener, 3)
        },
    ];
    write(&*index, &documents, 3).await;
    let text = |value: &str| Some(value.to_owned());
    let at = |micros| Some(epoch() + TimeDelta::microseconds(micros));
    let all = Filters::default;
    let cases: Vec<(Filters, &[i64])> = vec![
        (all(), &[3, 2, 1]),
        (
            Filters {
                query: text("first"),
                ..all()
            },
            &[1],
        ),
        (
            Filters {
                entity: text("public.orders"),
                ..all()
            },
            &[3, 1],
        ),
        (
            Filters {
                entity: text("public.Orders"),
                ..all()
            },
            &[2],
        ),
        (
            Filters {
                entity: text("orders"),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                operations: vec![Operation::Update],
                ..all()
            },
            &[2],
        ),
        (
            Filters {
                operations: vec![Operation::Update, Operation::Insert],
                ..all()
            },
            &[2, 1],
        ),
        (
            Filters {
                key: text("1"),
                ..all()
            },
            &[1],
        ),
        (
            Filters {
                key: text("Key*'\"\\"),
                ..all()
            },
            &[2],
        ),
        (
            Filters {
                key: text("key*'\"\\"),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                key: Some("k".repeat(3000)),
                ..all()
            },
            &[3],
        ),
        (
            Filters {
                key: Some("k".repeat(3001)),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                tenant: text("acme"),
                ..all()
            },
            &[1],
        ),
        (
            Filters {
                tenant: text("ACME"),
                ..all()
            },
            &[2],
        ),
        (
            Filters {
                tenant: Some("t".repeat(3000)),
                ..all()
            },
            &[3],
        ),
        (
            Filters {
                tenant: text(""),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                observer: text("shop/mail"),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                from: at(2_000_000),
                ..all()
            },
            &[3, 2],
        ),
        (
            Filters {
                from: at(2_000_001),
                ..all()
            },
            &[3],
        ),
        (
            Filters {
                to: at(2_000_000),
                ..all()
            },
            &[1],
        ),
        (
            Filters {
                from: at(2_000_000),
                to: at(2_000_001),
                ..all()
            },
            &[2],
        ),
        (
            Filters {
                from: at(2_000_001),
                to: at(2_000_000),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                query: text("first"),
                entity: text("public.Orders"),
                ..all()
            },
            &[],
        ),
        (
            Filters {
                key: text("a\0b"),
                ..all()
            },
            &[],
        ),
    ];
    for (filters, expected) in cases {
        let page = index
            .search(&filtered(listener, filters.clone()))
            .await
            .unwrap();
        let found: Vec<i64> = page.hits.iter().map(|hit| hit.document.log_id).collect();
        assert_eq!(found, expected, "{filters:?}");
        assert_eq!(page.total, expected.len() as u64);
    }
}

pub(crate) async fn observer_action_and_state_are_of_one_delivery(fixture: &dyn Fixture) {
    use DeliveryState::{DeadLetter, Delivered, Queued};
    let index = fixture.open().await;
    let listener = "filters/delivery";
    let documents = [
        Document {
            id: "a".to_owned(),
            observers: vec![
                matched(
                    "shop/mail",
                    vec![delivery("send", Delivered, 1), delivery("log", Queued, 0)],
                ),
                matched("shop/audit", vec![delivery("send", DeadLetter, 5)]),
            ],
            ..document(listener, 1)
        },
        Document {
            id: "b".to_owned(),
            observers: vec![matched("shop/mail", vec![delivery("send", DeadLetter, 5)])],
            ..document(listener, 2)
        },
        Document {
            id: "c".to_owned(),
            observers: vec![
                matched("shop/mail", Vec::new()),
                not_matched("shop/audit", "no"),
            ],
            ..document(listener, 3)
        },
    ];
    write(&*index, &documents, 3).await;
    let cases: [(&str, &str, &[DeliveryState], &str); 13] = [
        ("shop/mail", "", &[], "c b a"),
        ("shop/audit", "", &[], "a"),
        ("", "send", &[], "b a"),
        ("", "log", &[], "a"),
        ("", "", &[DeadLetter], "b a"),
        ("", "", &[Queued, Delivered], "a"),
        ("shop/mail", "", &[DeadLetter], "b"),
        ("shop/mail", "send", &[DeadLetter], "b"),
        ("shop/audit", "send", &[Delivered], ""),
        ("shop/mail", "log", &[Delivered], ""),
        ("shop/mail", "log", &[Delivered, Queued], "a"),
        ("", "send", &[Queued], ""),
        ("shop", "", &[], ""),
    ];
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    for (observer, action, states, expected) in cases {
        let filters = Filters {
            observer: some(observer),
            action: some(action),
            states: states.to_vec(),
            ..Filters::default()
        };
        let page = index
            .search(&filtered(listener, filters.clone()))
            .await
            .unwrap();
        assert_eq!(ids(&page).join(" "), expected, "{filters:?}");
    }
}
