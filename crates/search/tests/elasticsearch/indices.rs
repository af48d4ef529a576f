//! Indices: names that others have taken, many columns, an older mapping, and what is dropped.

use crds::config::{ElasticsearchConfig, Redacted};
use observer_search::elasticsearch::ElasticsearchIndex;
use observer_search::{Document, SearchError, SearchIndex};
use serde_json::json;
use testkit::servers::elasticsearch::SearchServer;

use super::{INDEX, index_at};
use crate::support::builders::{document, epoch, with_new};
use crate::support::{all_of, found, ids, request, until, write};

pub(super) async fn what_the_indices_keep_true(server: &SearchServer) {
    deep_queries_are_found_or_refused_as_queries(server).await;
    many_columns_add_no_field(server).await;
    documents_of_an_older_mapping_are_moved(server).await;
    ended_months_are_dropped(server).await;
    bad_document_is_rejected_and_bad_index_refused(server).await;
    index_that_others_make_again_is_refused(server).await;
    names_of_others_are_refused(server).await;
}

/// Servers refuse queries that are nested too deep, each from another depth on.
async fn deep_queries_are_found_or_refused_as_queries(server: &SearchServer) {
    let index = index_at(&server.url(), None);
    for depth in 1..=16 {
        let mut query = "x".to_owned();
        for level in 0..depth {
            query = format!("(a{level} OR b{level} -({query}))");
        }
        match index.search(&request("indices/deep", &query)).await {
            Ok(page) => assert_eq!(page.total, 0),
            Err(SearchError::Query { .. }) => assert!(depth > 5, "{query}"),
            Err(error) => panic!("{query}: {error}"),
        }
    }
}

async fn many_columns_add_no_field(server: &SearchServer) {
    let index = index_at(&server.url(), None);
    let listener = "indices/columns";
    let documents: Vec<Document> = (0..10)
        .map(|number| {
            let columns =
                (0..500).map(|column| format!("\"c{}\": {column}", number * 500 + column));
            let row = columns.collect::<Vec<_>>().join(",");
            with_new(listener, number, &format!("{{{row}}}"))
        })
        .collect();
    write(&index, &documents, 10).await;
    let page = index
        .search(&request(listener, "new.c4999:499"))
        .await
        .unwrap();
    assert_eq!(ids(&page), ["log-9"]);
    let mapping = server.must("GET", &format!("/{INDEX}/_mapping"), "").await;
    for (name, index) in mapping.as_object().unwrap() {
        let fields = index["mappings"]["properties"].as_object();
        let fields = fields.unwrap_or_else(|| panic!("{name}: {index}"));
        assert!(fields.len() < 20, "{name}: {}", fields.len());
    }
}

async fn documents_of_an_older_mapping_are_moved(server: &SearchServer) {
    let index = index_at(&server.url(), None);
    let listener = "indices/older";
    // A document that both indices have, and one of the old alone.
    let kept = with_new(listener, 1, r#"{"name": "both"}"#);
    let mut other_half = kept.clone();
    other_half.observers = vec![crate::support::builders::matched("shop/late", Vec::new())];
    index.write(&[kept]).await.unwrap();
    let old = format!("{INDEX}-v0-2026.03");
    let created = json!({
        "mappings": {"dynamic": false, "_meta": {"observers": {"mappingVersion": 0}}},
        "aliases": {INDEX: {}},
    });
    server
        .must("PUT", &format!("/{old}"), &created.to_string())
        .await;
    for one in [other_half, with_new(listener, 2, r#"{"name": "older"}"#)] {
        let body = json!({"body": serde_json::to_string(&one).unwrap()});
        let path = format!("/{old}/_doc/{}?refresh=true", one.id);
        server.must("PUT", &path, &body.to_string()).await;
    }
    index.prepare().await.unwrap();
    let (status, _) = server.request("GET", &format!("/{old}"), "").await;
    assert_eq!(status, 404);
    found(&index, listener, 2).await;
    let page = until(&index, &request(listener, "older"), |page| page.total == 1).await;
    assert_eq!(ids(&page), ["log-2"]);
    let both = index
        .get(&all_of(listener), "log-1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(both.observers.len(), 1);
}

async fn ended_months_are_dropped(server: &SearchServer) {
    let index = index_at(&server.url(), None);
    let listener = "indices/ended";
    let long_ago = Document {
        occurred_at: "2001-05-31T23:59:59Z".parse().unwrap(),
        ..document(listener, 1)
    };
    let shared = Document {
        listener: "indices/shared".to_owned(),
        ..long_ago.clone()
    };
    let name = format!("/{INDEX}-v1-2001.05");
    write(&index, std::slice::from_ref(&long_ago), 1).await;
    write(&index, &[shared], 1).await;
    let before = epoch();
    while index.remove_expired(listener, before).await.unwrap() {}
    found(&index, listener, 0).await;
    // The other listener's is still there, and so is the index.
    found(&index, "indices/shared", 1).await;
    while index.remove_listener("indices/shared").await.unwrap() {}
    while index.remove_expired(listener, before).await.unwrap() {}
    let (status, _) = server.request("GET", &name, "").await;
    assert_eq!(status, 404);
    // It is made again as soon as somebody needs it, with its mapping.
    write(&index, &[long_ago], 1).await;
    let mapping = server.must("GET", &format!("{name}/_mapping"), "").await;
    let mapping = &mapping[&name[1..]]["mappings"];
    assert_eq!(mapping["dynamic"], "false", "{mapping}");
}

/// An index with a name of its own.
fn index_of(server: &SearchServer, index: &str) -> ElasticsearchIndex {
    let config = ElasticsearchConfig {
        url: Redacted::new(server.url()),
        index: index.to_owned(),
        tls: None,
        login: None,
    };
    ElasticsearchIndex::new(&config).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, SearchError>) -> String {
    match result {
        Err(SearchError::Refused(told)) => told,
        other => panic!("{other:?}"),
    }
}

/// Somebody has added a field that not all documents fit.
async fn bad_document_is_rejected_and_bad_index_refused(server: &SearchServer) {
    let index = index_of(server, "added");
    let listener = "indices/added";
    write(&index, &[document(listener, 1)], 1).await;
    let number = |lenient: bool| {
        let number = json!({"type": "long", "ignore_malformed": lenient});
        let key = json!({"type": "keyword", "ignore_above": 1024, "fields": {"number": number}});
        json!({"properties": {"key": key}}).to_string()
    };
    let path = "/added-v1-2026.03/_mapping";
    server.must("PUT", path, &number(false)).await;
    let bad = |number: i64| Document {
        key: Some("one".to_owned()),
        ..document(listener, number)
    };
    let told = refused(index.write(&[bad(2), bad(3)]).await);
    assert!(told.contains("added-v1-2026.03"), "{told}");
    assert!(told.contains("parsing_exception"), "{told}");
    let told = refused(index.write(&[bad(2)]).await);
    assert!(told.contains("takes no document"), "{told}");
    for (beside, count) in [(document(listener, 4), 2), (document(listener, 4), 2)] {
        // The one beside it is new first, and the second time it is there already.
        let report = index.write(&[bad(2), beside, bad(3)]).await.unwrap();
        let rejected: Vec<&str> = report.rejected.iter().map(|one| one.id.as_str()).collect();
        assert_eq!((report.written, rejected), (1, vec!["log-2", "log-3"]));
        found(&index, listener, count).await;
    }
    server.must("PUT", path, &number(true)).await;
    write(&index, &[bad(2), bad(3)], 4).await;
}

/// An index that others replace, with another mapping, stops the history, and no document is lost.
async fn index_that_others_make_again_is_refused(server: &SearchServer) {
    let index = index_of(server, "again");
    let listener = "indices/again";
    write(&index, &[document(listener, 1)], 1).await;
    let path = "/again-v1-2026.03";
    let foreign = [
        json!({"properties": {"occurredAtMicros": {"type": "boolean"}}}),
        json!({"dynamic": "strict", "properties": {}}),
        // It calls itself ours.
        json!({"_meta": {"observers": {"mappingVersion": 1}}, "properties": {"logId": {"type": "ip"}}}),
    ];
    for mapping in foreign {
        server.must("DELETE", path, "").await;
        let body = json!({"mappings": mapping}).to_string();
        server.must("PUT", path, &body).await;
        // The first call has known the index, the second has not.
        for _ in 0..2 {
            let told = refused(index.write(&[document(listener, 2)]).await);
            assert!(
                told.contains("again-v1-2026.03 was made by others"),
                "{mapping}: {told}"
            );
            assert!(told.contains("remove it"), "{told}");
        }
        refused(index.prepare().await);
        server.must("DELETE", path, "").await;
        write(&index, &[document(listener, 2)], 1).await;
    }
    // Of one that takes some of them, none is given up either.
    server.must("DELETE", path, "").await;
    let body = r#"{"mappings": {"properties": {"key": {"type": "long"}}}}"#;
    server.must("PUT", path, body).await;
    let bad = Document {
        key: Some("one".to_owned()),
        ..document(listener, 3)
    };
    let told = refused(index.write(&[document(listener, 2), bad.clone()]).await);
    assert!(told.contains("was made by others"), "{told}");
    server.must("DELETE", path, "").await;
    write(&index, &[document(listener, 2), bad], 2).await;
}

async fn names_of_others_are_refused(server: &SearchServer) {
    server.must("PUT", "/orders", "{}").await;
    server
        .must(
            "PUT",
            "/stock-v1-2026.03",
            r#"{"mappings": {"properties": {"logId": {"type": "text"}}}}"#,
        )
        .await;
    for name in ["orders", "stock"] {
        let index = index_of(server, name);
        let told = refused(index.prepare().await);
        assert!(told.contains(name), "{told}");
        refused(index.write(&[document("indices/taken", 1)]).await);
    }
}
