//! Documents, and queries with the documents that they find.

use crds::config::Operation;
use observer_search::{DeliveryState, Document};

use crate::support::builders::{delivery, document, matched, not_matched, raw, with_new};

/// Listener of the documents.
pub(crate) const LISTENER: &str = "queries/table";

fn row(number: i64, name: &str, new: &str) -> Document {
    Document {
        id: name.to_owned(),
        ..with_new(LISTENER, number, new)
    }
}

/// The documents, the oldest first.
pub(crate) fn corpus() -> Vec<Document> {
    let failed = Document {
        operation: Operation::Update,
        old: Some(raw(r#"{"total": 1, "status": "open"}"#)),
        changed: vec!["total".to_owned()],
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        observers: vec![
            matched(
                "shop/mail",
                vec![delivery("send", DeliveryState::DeadLetter, 5)],
            ),
            not_matched("shop/audit", "when is false"),
        ],
        ..row(8, "failed", r#"{"total": 2, "status": "closed"}"#)
    };
    let deleted = Document {
        operation: Operation::Delete,
        old: Some(raw(r#"{"total": 55, "name": "Gone Girl"}"#)),
        new: None,
        ..row(7, "deleted", "{}")
    };
    let custom = Document {
        entity: "Signup.Completed".to_owned(),
        operation: Operation::Custom,
        key: None,
        tenant: Some("Globex".to_owned()),
        ..row(
            9,
            "odd",
            r#"{"a.b": {"c=d": "x"}, "we:ird": "y", "quote'": "o'brien", "back\\slash": "c:\\temp", "star": "5*5",
                "mood": "🎉 party", "": "empty"}"#,
        )
    };
    vec![
        Document {
            tenant: Some("acme".to_owned()),
            ..row(
                1,
                "ann",
                r#"{"id": 1001, "total": 100, "name": "Ann Lee", "email": "ann@example.com",
                    "note": "The quick brown fox", "tags": ["red", "green"],
                    "address": {"city": "Straße Köln", "zip": "04109"}, "paid": true, "closed": null,
                    "created": "2026-03-01T12:00:00+00:00"}"#,
            )
        },
        row(
            2,
            "bob",
            r#"{"total": 100.00, "name": "Bob O'Neil", "email": "bob@example.org", "note": "brown quick fox",
                "tags": ["blue"], "paid": false, "created": "2026-03-02", "empty": ""}"#,
        ),
        row(
            3,
            "big",
            r#"{"total": 9007199254740993, "name": "İSTANBUL Çelik", "created": "2026-03-02T23:30:00-02:00"}"#,
        ),
        row(
            4,
            "big-less",
            r#"{"total": 9007199254740992, "name": "東京タワー"}"#,
        ),
        row(5, "negative", r#"{"total": -5.25, "name": "cafe\u0301 Ω"}"#),
        row(6, "huge", r#"{"total": 1e400, "name": "שלום עולם"}"#),
        deleted,
        failed,
        custom,
        row(
            10,
            "nested",
            r#"{"lines": [{"sku": "A-1", "count": 2}, {"sku": "B-2", "count": 30}], "null_text": "null",
                "true_text": "true", "number_text": "0100"}"#,
        ),
        row(
            11,
            "hostile",
            r#"{"note": "Robert'); drop table students;-- & | ! <-> :*", "path": "/api/v1/orders",
                "json": "{\"match_all\": {}}"}"#,
        ),
        document_without_rows(),
    ]
}

fn document_without_rows() -> Document {
    Document {
        id: "emptied".to_owned(),
        operation: Operation::Truncate,
        key: None,
        observers: vec![matched(
            "shop/mail",
            vec![
                delivery("send", DeliveryState::Delivered, 1),
                delivery("log", DeliveryState::Queued, 0),
            ],
        )],
        ..document(LISTENER, 12)
    }
}

/// Queries, and the ids of the documents that they find, the oldest first.
pub(crate) const QUERIES: &[(&str, &str)] = &[
    ("", "all"),
    ("   ", "all"),
    ("*", "all"),
    // Words.
    ("quick", "ann bob"),
    ("QUICK", "ann bob"),
    ("quick fox", "ann bob"),
    ("quick AND fox", "ann bob"),
    ("quick nothing", ""),
    ("ann OR gone", "ann deleted"),
    ("lee OR neil", "ann"),
    ("lee OR o'neil", "ann bob"),
    ("quick NOT lee", "bob"),
    ("quick -lee", "bob"),
    ("-orders", "odd"),
    ("NOT orders", "odd"),
    ("NOT (orders OR signup)", ""),
    ("NOT NOT quick", "ann bob"),
    ("ann gone OR bob", "bob"),
    ("(ann OR bob) brown", "ann bob"),
    ("and", ""),
    (
        "orders",
        "ann bob big big-less negative huge deleted failed nested hostile emptied",
    ),
    ("signup.completed", "odd"),
    ("1001", "ann"),
    ("ann@example.com", "ann"),
    ("example", "ann bob"),
    // Phrases.
    ("\"quick brown\"", "ann"),
    ("\"brown quick fox\"", "bob"),
    ("\"fox red\"", ""),
    ("\"lee ann\"", ""),
    ("\"Quick, BROWN!\"", "ann"),
    ("-\"quick brown\" quick", "bob"),
    // Beginnings.
    ("qui*", "ann bob"),
    ("QUI*", "ann bob"),
    ("ann@exa*", "ann"),
    ("new.name:bo*", "bob"),
    ("new.email:ann@*", "ann"),
    ("new.note:the\\ qui*", "ann"),
    // Unicode.
    ("strasse", "ann"),
    ("STRASSE", "ann"),
    ("köln", "ann"),
    ("ko\u{308}ln", "ann"),
    ("istanbul", "big"),
    ("İstanbul", "big"),
    ("ÇELİK", "big"),
    ("東京", "big-less"),
    ("café", "negative"),
    ("CAFE\u{301}", "negative"),
    ("cafe", ""),
    ("ω", "negative"),
    ("שלום", "huge"),
    ("\"שלום עולם\"", "huge"),
    ("🎉", "odd"),
    ("new.mood:\"🎉 party\"", "odd"),
    // Fields.
    ("new.name:ann", "ann"),
    ("new.name:\"ann lee\"", "ann"),
    ("new.name:\"ann\"", ""),
    ("new.note:quick", "ann bob"),
    ("new.name:quick", ""),
    ("new.tags:red", "ann"),
    ("new.tags:\"green\"", "ann"),
    ("new.address.city:köln", "ann"),
    ("new.address.zip:04109", "ann"),
    ("new.lines.sku:A-1", "nested"),
    ("new.lines.count:>29", "nested"),
    ("new.lines.count:30", "nested"),
    ("new.paid:true", "ann"),
    ("new.paid:false", "bob"),
    ("new.closed:null", "ann"),
    ("new.closed:*", ""),
    ("new.null_text:null", "nested"),
    ("new.true_text:true", "nested"),
    ("new.created:*", "ann bob big"),
    ("NOT new.total:*", "deleted odd nested hostile emptied"),
    ("new.empty:\"\"", "bob"),
    ("new.empty:*", "bob"),
    ("old.name:gone", "deleted"),
    ("old.name:\"gone girl\"", "deleted"),
    ("old.status:open", "failed"),
    ("new.a\\.b.c\\=d:x", "odd"),
    ("new.a.b.c\\=d:x", ""),
    ("new.we\\:ird:y", "odd"),
    ("new.quote':o'brien", "odd"),
    ("new.back\\\\slash:\"c:\\\\temp\"", "odd"),
    ("new.star:5\\*5", "odd"),
    ("new.star:\"5*5\"", "odd"),
    ("entity:\"public.orders\" tenant:acme", "ann"),
    (
        "entity:orders operation:insert",
        "ann bob big big-less negative huge nested hostile",
    ),
    ("entity:signup*", "odd"),
    ("operation:Delete", "deleted"),
    ("operation:truncate", "emptied"),
    ("tenant:globex", "odd"),
    ("tenant:*", "ann odd"),
    ("key:3", "big"),
    (
        "key:*",
        "ann bob big big-less negative huge deleted failed nested hostile",
    ),
    ("id:big-less", "big-less"),
    ("id:\"big\"", "big"),
    ("traceId:4bf92f3577b34da6a3ce929d0e0e4736", "failed"),
    ("changed:total", "failed"),
    // What became of them.
    ("observer:shop/mail", "failed emptied"),
    ("observer:\"shop/mail\" state:deadLetter", "failed"),
    ("notMatched:shop/audit", "failed"),
    ("notMatched:\"when is false\"", "failed"),
    ("action:log", "emptied"),
    ("state:queued", "emptied"),
    ("status:503", "failed"),
    ("status:[500 TO 599]", "failed"),
    ("attempts:>3", "failed"),
    ("attempts:0", "emptied"),
    ("error:receiver", "failed"),
    ("\"receiver is not well\"", "failed"),
    // Numbers.
    ("new.total:100", "ann bob"),
    ("new.total:100.0", "ann bob"),
    ("new.total:1e2", "ann bob"),
    ("new.total:>100", "big big-less huge"),
    ("new.total:>=100", "ann bob big big-less huge"),
    ("new.total:<100", "negative failed"),
    ("new.total:<=100", "ann bob negative failed"),
    ("new.total:>-5.25", "ann bob big big-less huge failed"),
    ("new.total:-5.25", "negative"),
    ("new.total:<0", "negative"),
    ("new.total:9007199254740993", "big"),
    ("new.total:9007199254740992", "big-less"),
    ("new.total:>9007199254740992", "big huge"),
    (
        "new.total:<9007199254740993",
        "ann bob big-less negative failed",
    ),
    ("new.total:>1e399", "huge"),
    ("new.total:1e400", "huge"),
    ("new.total:<1e400", "ann bob big big-less negative failed"),
    ("new.total:[2 TO 100]", "ann bob failed"),
    ("new.total:{2 TO 100]", "ann bob"),
    ("new.total:[2 TO 100}", "failed"),
    ("new.total:{2 TO 100}", ""),
    ("new.total:[* TO 2]", "negative failed"),
    ("new.total:[100 TO *]", "ann bob big big-less huge"),
    (
        "new.total:[* TO *]",
        "ann bob big big-less negative huge failed",
    ),
    ("new.total:[100 TO 2]", ""),
    ("old.total:>50", "deleted"),
    ("NOT new.total:>100 new.total:*", "ann bob negative failed"),
    ("new.number_text:100", ""),
    ("new.number_text:0100", "nested"),
    ("new.number_text:>50", ""),
    // Times.
    ("new.created:2026-03-01", "ann"),
    // A day as its words: in whatever zone the time is written.
    ("new.created:2026-03-02", "bob big"),
    ("new.created:>2026-03-01", "bob big"),
    ("new.created:>=2026-03-01", "ann bob big"),
    ("new.created:<2026-03-02", "ann"),
    ("new.created:<=2026-03-02", "ann bob"),
    ("new.created:\"2026-03-02\"", "bob"),
    ("new.created:>2026-03-01T11:59:59Z", "ann bob big"),
    ("new.created:>2026-03-01T12:00:00Z", "bob big"),
    ("new.created:[2026-03-03 TO 2026-03-03]", "big"),
    (
        "new.created:[\"2026-03-01 13:00:00+01\" TO \"2026-03-01 13:00:00+01\"]",
        "ann",
    ),
    ("new.name:>2026-03-01", ""),
    // Attempts at something else.
    ("'; drop table observer.search_document; --", ""),
    ("drop table students", "hostile"),
    ("\"Robert'); drop table students;--\"", "hostile"),
    (
        "new.note:\"Robert'); drop table students;-- & | ! <-> :*\"",
        "hostile",
    ),
    ("quick & fox", "ann bob"),
    ("quick | lee", "ann"),
    ("quick <-> brown", "ann bob"),
    ("\"quick <-> brown\"", "ann"),
    ("quick\\:\\*", "ann bob"),
    ("\"{\\\"match_all\\\": {}}\"", "hostile"),
    ("new.json:\"{\\\"match_all\\\": {}}\"", "hostile"),
    ("\\{\\\"query\\\"\\:", ""),
    ("\"/api/v1\"", "hostile"),
    ("new.path:\"/api/v1/orders\"", "hostile"),
    ("new.path:/api/*", "hostile"),
    ("\" ¶ \" quick", "ann bob"),
    ("quick \"\"", "ann bob"),
    ("\\/new.paid\\=true", ""),
];
