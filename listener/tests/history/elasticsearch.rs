//! The history in Elasticsearch, in one server for each test: these are few, and each is long.

mod faults;
mod kills;

use serde_json::{Value, json};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};

use crate::support::{TestDb, while_progressing};

/// Alias of the indices.
const INDEX: &str = "shop-events";

/// Documents that are read at once.
const PAGE: usize = 5000;

async fn server() -> SearchServer {
    SearchServer::start(SearchServerKind::Elasticsearch9, &[]).await
}

/// What a listener says of its history at a URL; `more` are further fields of the server.
fn search(url: &str, more: &str) -> String {
    format!(
        "  search: {{maxLag: 1h, elasticsearch: {{url: {{value: \"{url}\"}}, index: {INDEX}{more}}}}}\n"
    )
}

/// Counts the documents that match a query; nothing while a shard is not there yet.
async fn count(server: &SearchServer, query: Value) -> Option<i64> {
    let path = format!("/{INDEX}/_count?ignore_unavailable=true");
    let body = json!({"query": query}).to_string();
    match server.request("POST", &path, &body).await {
        (503, _) => None,
        (_, answer) => answer["count"].as_i64(),
    }
}

/// The numbers in the log of the events of all documents, in their order.
async fn stored_events(server: &SearchServer) -> Vec<i64> {
    let mut all: Vec<i64> = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut body = json!({
            "size": PAGE, "_source": ["logId"], "sort": [{"logId": "asc"}, {"id": "asc"}],
        });
        if !after.is_null() {
            body["search_after"] = after;
        }
        let path = format!("/{INDEX}/_search");
        let page = server.must("POST", &path, &body.to_string()).await;
        let hits = page["hits"]["hits"].as_array().unwrap();
        all.extend(
            hits.iter()
                .map(|hit| hit["_source"]["logId"].as_i64().unwrap()),
        );
        match hits.last() {
            Some(last) if hits.len() == PAGE => after = last["sort"].clone(),
            _ => return all,
        }
    }
}

/// Waits until each event of the log has a document that is final, and no other document is there; returns
/// how many.
async fn all_final(db: &TestDb, server: &SearchServer) -> usize {
    while_progressing("all events have documents that are final", async || {
        let refresh = format!("/{INDEX}/_refresh");
        server.must("POST", &refresh, "").await;
        let events: i64 = db.value("select count(*) from observer.change_log").await;
        let stored = count(server, json!({"match_all": {}})).await;
        let unfinished = count(server, json!({"term": {"unfinished": true}})).await;
        let (Some(stored), Some(unfinished)) = (stored, unfinished) else {
            return Err(u64::MAX);
        };
        match events.abs_diff(stored) + unfinished.unsigned_abs() {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    let ids = "select id from observer.change_log order by id";
    let events: Vec<i64> = sqlx::query_scalar(ids).fetch_all(&db.pool).await.unwrap();
    let stored = stored_events(server).await;
    let differ = events
        .iter()
        .zip(&stored)
        .find(|(event, stored)| event != stored);
    assert_eq!(
        differ,
        None,
        "{} events, {} documents",
        events.len(),
        stored.len()
    );
    assert_eq!(events.len(), stored.len());
    events.len()
}
