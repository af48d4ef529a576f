//! Documents are stored, merged, listed and removed.

use chrono::TimeDelta;
use observer_search::{DeliveryState, Document, PageKey, SearchRequest};

use crate::support::builders::{
    delivery, document, epoch, json, matched, not_matched, raw, with_new,
};
use crate::support::{Fixture, all_of, found, ids, request, until, write};

pub(crate) async fn document_is_found_and_read_as_it_was_written(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "documents/read";
    // As a row may be that `jsonb` refuses.
    let new = r#"{"a": 1e400, "z": "\u0000", "b":  [0.10, -0], "": null, "ü": "\"", "a": "again", "half": "\ud800"}"#;
    let mut whole = Document {
        tenant: Some("acme".to_owned()),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        old: Some(raw("{}")),
        changed: vec!["a".to_owned()],
        observers: vec![
            matched(
                "shop/mail",
                vec![delivery("send", DeliveryState::Retrying, 2)],
            ),
            not_matched("shop/audit", "when is false"),
        ],
        ..with_new(listener, 1, new)
    };
    write(&*index, std::slice::from_ref(&whole), 1).await;
    whole.sort();

    let page = index.search(&request(listener, "")).await.unwrap();
    assert_eq!(json(&page.hits[0].document), json(&whole));
    assert_eq!(page.hits[0].document.new.as_ref().unwrap().get(), new);
    let read = index
        .get(&all_of(listener), "log-1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(json(&read), json(&whole));
    for (listener, id) in [
        (listener, "log-2"),
        ("documents/other", "log-1"),
        (listener, "log-1\0"),
        (listener, ""),
    ] {
        assert!(
            index.get(&all_of(listener), id).await.unwrap().is_none(),
            "{listener} {id}"
        );
    }
    assert!(index.write(&[]).await.unwrap().rejected.is_empty());
}

pub(crate) async fn writing_again_adds_and_never_goes_back(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "documents/again";
    let event = with_new(listener, 1, r#"{"name": "first"}"#);
    let outcome = |state, attempts| Document {
        observers: vec![matched(
            "shop/mail",
            vec![delivery("send", state, attempts)],
        )],
        ..event.clone()
    };
    let steps = [
        (event.clone(), "notMatched"),
        (outcome(DeliveryState::Retrying, 1), "retrying"),
        (outcome(DeliveryState::Delivered, 2), "delivered"),
        // Late, and again.
        (outcome(DeliveryState::Retrying, 1), "delivered"),
        (outcome(DeliveryState::DeadLetter, 2), "delivered"),
        (event.clone(), "delivered"),
        (outcome(DeliveryState::Delivered, 2), "delivered"),
    ];
    for (step, expected) in steps {
        let report = index.write(&[step]).await.unwrap();
        assert_eq!((report.written, report.rejected), (1, Vec::new()));
        let found = until(
            &*index,
            &SearchRequest {
                facets: true,
                ..request(listener, "first")
            },
            |page| {
                page.facets
                    .as_ref()
                    .unwrap()
                    .outcome
                    .iter()
                    .any(|one| one.value == expected)
            },
        )
        .await;
        assert_eq!(found.total, 1);
        assert_eq!(found.facets.unwrap().outcome.len(), 1);
    }
    let read = index
        .get(&all_of(listener), "log-1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(json(&read), json(&outcome(DeliveryState::Delivered, 2)));

    // Pieces of the same document in one call, and another process's.
    let piece = |observer: &str| Document {
        observers: vec![matched(
            observer,
            vec![delivery("send", DeliveryState::Delivered, 1)],
        )],
        ..event.clone()
    };
    let report = index
        .write(&[piece("shop/a"), piece("shop/b"), piece("shop/a")])
        .await
        .unwrap();
    assert_eq!(report.written, 3);
    fixture
        .open()
        .await
        .write(&[piece("shop/c")])
        .await
        .unwrap();
    let page = until(&*index, &request(listener, "observer:shop\\/c"), |page| {
        page.total == 1
    })
    .await;
    let observers: Vec<&str> = page.hits[0]
        .document
        .observers
        .iter()
        .map(|one| one.observer.as_str())
        .collect();
    assert_eq!(observers, ["shop/a", "shop/b", "shop/c", "shop/mail"]);
}

pub(crate) async fn document_that_cannot_be_stored_is_rejected_alone(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "documents/rejected";
    let huge = format!(r#"{{"text": "secret {}"}}"#, "x".repeat(17 * 1024 * 1024));
    let documents = [
        document(listener, 1),
        with_new(listener, 2, &huge),
        document(listener, 3),
    ];
    let report = index.write(&documents).await.unwrap();
    assert_eq!(report.written, 2);
    let rejected: Vec<&str> = report.rejected.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(rejected, ["log-2"]);
    assert!(
        !report.rejected[0].reason.contains("secret"),
        "{:?}",
        report.rejected
    );
    found(&*index, listener, 2).await;
}

pub(crate) async fn unfinished_documents_are_listed_oldest_first(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "documents/unfinished";
    let states = DeliveryState::ALL.into_iter().cycle();
    let documents: Vec<Document> = (0..21)
        .zip(states)
        .map(|(number, state)| Document {
            observers: vec![matched(
                "shop/mail",
                vec![
                    delivery("other", DeliveryState::Delivered, 1),
                    delivery("send", state, 1),
                ],
            )],
            // Several at once.
            occurred_at: epoch() + TimeDelta::seconds(number / 5),
            ..document(listener, number)
        })
        .collect();
    write(&*index, &documents, 21).await;
    let before = epoch() + TimeDelta::seconds(4);
    let mut listed = Vec::new();
    let mut after: Option<PageKey> = None;
    loop {
        let page = index
            .unfinished(listener, before, after.as_ref(), 4)
            .await
            .unwrap();
        assert!(page.len() <= 4);
        after = page.last().map(PageKey::of);
        listed.extend(page.into_iter().map(|one| one.log_id));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, [0, 1, 2, 7, 8, 9, 14, 15, 16]);
    assert!(
        index
            .unfinished("documents/other", before, None, 4)
            .await
            .unwrap()
            .is_empty()
    );
}

pub(crate) async fn expired_documents_are_removed(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "documents/expired";
    let documents: Vec<Document> = (0..30).map(|number| document(listener, number)).collect();
    write(&*index, &documents, 30).await;
    let other = document("documents/kept", 1);
    write(&*index, &[other], 1).await;
    let before = epoch() + TimeDelta::seconds(20);
    while index.remove_expired(listener, before).await.unwrap() {}
    found(&*index, listener, 10).await;
    let page = index.search(&request(listener, "")).await.unwrap();
    assert_eq!(ids(&page).last(), Some(&"log-20"));
    found(&*index, "documents/kept", 1).await;
}

pub(crate) async fn listener_is_removed_and_no_other(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    for listener in ["documents/gone", "documents/gone-not"] {
        let documents: Vec<Document> = (0..10).map(|number| document(listener, number)).collect();
        write(&*index, &documents, 10).await;
    }
    while index.remove_listener("documents/gone").await.unwrap() {}
    found(&*index, "documents/gone", 0).await;
    found(&*index, "documents/gone-not", 10).await;
}

pub(crate) async fn large_documents_are_bounded_in_a_page(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "documents/large";
    let text = "word ".repeat(1024 * 1024);
    for number in 0..9 {
        let new = format!(r#"{{"text": "{text}", "number": {number}}}"#);
        index
            .write(&[with_new(listener, number, &new)])
            .await
            .unwrap();
    }
    found(&*index, listener, 9).await;
    let mut asked = request(listener, "word");
    let mut read = Vec::new();
    loop {
        let page = index.search(&asked).await.unwrap();
        assert_eq!(page.total, 9);
        let bytes: usize = page
            .hits
            .iter()
            .map(|hit| hit.document.new.as_ref().unwrap().get().len())
            .sum();
        assert!(bytes <= 12 * 1024 * 1024, "{bytes}");
        assert!(!page.hits.is_empty());
        read.extend(page.hits.iter().map(|hit| hit.document.log_id));
        asked.after = page.next;
        if asked.after.is_none() {
            break;
        }
    }
    assert_eq!(read, [8, 7, 6, 5, 4, 3, 2, 1, 0]);
}
