//! Highlights.

use observer_search::{DeliveryState, Document, SearchRequest};

use crate::support::builders::{delivery, matched, with_new};
use crate::support::{Fixture, request, write};

pub(crate) async fn highlights_show_where_the_text_is_found(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "highlights/show";
    let long = format!("{}needle{}", "before ".repeat(50), " after".repeat(50));
    let document = Document {
        observers: vec![matched(
            "shop/mail",
            vec![delivery("send", DeliveryState::DeadLetter, 2)],
        )],
        ..with_new(
            listener,
            1,
            &serde_json::json!({
                "name": "Ann Lee of the QUICK-Brown fox_den",
                "city": "Straße Köln",
                "total": 100.5,
                "note": "quick",
                "long": long,
                "many": ["quick", "quick"],
                "a": "quick", "b": "quick", "c": "quick", "d": "quick",
            })
            .to_string(),
        )
    };
    write(&*index, &[document], 1).await;
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        (
            "lee",
            &[("new.name", "Ann «Lee» of the QUICK-Brown fox_den")],
        ),
        (
            "lee den",
            &[("new.name", "Ann «Lee» of the QUICK-Brown fox_«den»")],
        ),
        ("strasse", &[("new.city", "«Straße» Köln")]),
        ("ko*", &[]),
        ("kö*", &[("new.city", "Straße «Köln»")]),
        ("new.total:>100", &[("new.total", "«100.5»")]),
        ("new.total:100.50", &[("new.total", "«100.5»")]),
        (
            "new.name:brown",
            &[("new.name", "Ann Lee of the QUICK-«Brown» fox_den")],
        ),
        (
            "new.city:\"strasse köln\"",
            &[("new.city", "«Straße Köln»")],
        ),
        ("status:503", &[("status", "«503»")]),
        ("receiver", &[("error", "the «receiver» is not well")]),
        (
            "lee NOT nothing",
            &[("new.name", "Ann «Lee» of the QUICK-Brown fox_den")],
        ),
    ];
    for (query, expected) in cases {
        let asked = SearchRequest {
            highlight: true,
            ..request(listener, query)
        };
        let page = index.search(&asked).await.unwrap();
        let hits: Vec<(&str, &str)> = page
            .hits
            .iter()
            .flat_map(|hit| &hit.highlights)
            .map(|one| (one.field.as_str(), one.text.as_str()))
            .collect();
        assert_eq!(&hits, expected, "{query}");
    }
    let asked = SearchRequest {
        highlight: true,
        ..request(listener, "quick OR needle")
    };
    let page = index.search(&asked).await.unwrap();
    assert_eq!(page.hits[0].highlights.len(), 5);
    let asked = SearchRequest {
        highlight: true,
        ..request(listener, "needle")
    };
    let page = index.search(&asked).await.unwrap();
    let text = &page.hits[0].highlights[0].text;
    assert!(
        text.starts_with('…') && text.ends_with('…') && text.contains("before «needle» after"),
        "{text}"
    );
    assert!(text.chars().count() <= 164, "{text}");
    let plain = SearchRequest {
        highlight: false,
        ..asked
    };
    assert!(
        index.search(&plain).await.unwrap().hits[0]
            .highlights
            .is_empty()
    );
}
