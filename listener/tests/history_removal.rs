//! The documents of a listener that is dropped go with its rows, wherever they are.

use std::time::{Duration, Instant};

use chrono::Utc;
use crds::config::{
    DocumentContent, ElasticsearchConfig, Operation, Redacted, SearchBackend, SearchConfig,
};
use observer_listener::runtime::cluster::{RemovalLimits, RemoveDocumentsError, remove_documents};
use search::{Document, Scope, SearchIndex};
use sqlx::PgPool;
use testkit::fault_proxy::{Answer, Fault, FaultProxy};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};

use crate::support::database;
use crate::support::listener::{Config, observer};
use crate::support::program::{Ended, command, command_reading};

/// The listener of [`Config`], and another one.
const LISTENERS: [&str; 2] = ["default/test", "default/other"];

fn index(backend: SearchBackend, pool: &PgPool) -> std::sync::Arc<dyn SearchIndex> {
    let config = SearchConfig {
        backend,
        retention: Duration::from_hours(1),
        documents: DocumentContent::Events,
        redact: Vec::new(),
        max_lag: Duration::from_hours(1),
    };
    search::open(&config, pool.clone()).unwrap()
}

fn elasticsearch(url: &str) -> SearchBackend {
    SearchBackend::Elasticsearch(ElasticsearchConfig {
        url: Redacted::new(url),
        index: "shop".to_owned(),
        tls: None,
        login: None,
    })
}

fn of(url: &str) -> String {
    format!("  search: {{elasticsearch: {{url: {{value: '{url}'}}, index: shop}}}}\n")
}

/// A port of the loopback address that nobody listens on.
fn closed_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Writes three documents of each listener.
async fn write(index: &dyn SearchIndex) {
    index.prepare().await.unwrap();
    let document = |listener: &str, number: i64| Document {
        id: format!("{}-{number}-6615e1afaa36c", listener.replace('/', "")),
        listener: listener.to_owned(),
        log_id: number,
        entity: "public.orders".to_owned(),
        operation: Operation::Insert,
        key: Some(number.to_string()),
        tenant: None,
        occurred_at: Utc::now(),
        trace_id: None,
        old: None,
        new: None,
        changed: Vec::new(),
        observers: Vec::new(),
    };
    let all = LISTENERS.map(|listener| [1, 2, 3].map(|number| document(listener, number)));
    let report = index.write(all.as_flattened()).await.unwrap();
    assert_eq!(report.written, 6);
}

/// How many of the three documents of each listener are left.
async fn left(index: &dyn SearchIndex) -> [usize; 2] {
    let mut left = [0, 0];
    for (count, listener) in left.iter_mut().zip(LISTENERS) {
        let scope = Scope {
            listener: listener.to_owned(),
            tenant: None,
        };
        for number in 1..=3 {
            let id = format!("{}-{number}-6615e1afaa36c", listener.replace('/', ""));
            *count += usize::from(index.get(&scope, &id).await.unwrap().is_some());
        }
    }
    left
}

async fn drop_gone(config: &Config) -> Ended {
    let path = config.path();
    let path = path.to_str().unwrap();
    command(&["drop-listener", "--yes", "--gone", "-f", path]).await
}

fn config(url: &str, search: &str) -> Config {
    let nowhere = observer("none", "public.orders", "http://127.0.0.1:9/x", "");
    Config::new(url, search, &nowhere)
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_in_the_database_go_with_the_rows() {
    let db = database().await;
    let index = index(SearchBackend::Postgres, &db.pool);
    write(&*index).await;
    assert_eq!(left(&*index).await, [3, 3]);
    drop_gone(&config(&db.url, "  search: {postgres: {}}\n"))
        .await
        .ok();
    assert_eq!(left(&*index).await, [0, 3]);
    // The function of the database removes them too.
    db.run("select observer.drop_listener('default/other')")
        .await;
    assert_eq!(left(&*index).await, [0, 0]);
    // Nothing was ever kept where there is no schema.
    db.run("drop schema observer cascade").await;
    drop_gone(&config(&db.url, "  search: {postgres: {}}\n"))
        .await
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_can_be_standard_input() {
    let db = database().await;
    let config = config(&db.url, "  search: {postgres: {}}\n");
    for args in [
        &["dead-letters", "list", "--observer", "none", "-f", "-"][..],
        &["drop-listener", "--yes", "--gone", "-f", "-"],
    ] {
        command_reading(args, &config.path()).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_in_elasticsearch_go_with_the_rows() {
    let server = SearchServer::start(SearchServerKind::Elasticsearch9, &[]).await;
    let db = database().await;
    let index = index(elasticsearch(&server.url()), &db.pool);
    write(&*index).await;
    assert_eq!(left(&*index).await, [3, 3]);
    let config = config(&db.url, &of(&server.url()));
    for _ in 0..2 {
        let said = drop_gone(&config).await.ok();
        assert!(said.contains("documents in the search index"), "{said}");
        assert_eq!(left(&*index).await, [0, 3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_where_the_search_server_refuses() {
    let db = database().await;
    db.run(
        "insert into observer.checkpoint (listener, shard, shards, epoch, holder, base_low_id, base_snapshot, base_high_id,
             system_identifier, database_oid)
         values ('default/test', 0, 1, 1, 'shop-0_uid_1', 0, '3:3:', 0, 1, 1)",
    )
    .await;
    let proxy = FaultProxy::before(closed_port()).await;
    proxy.set(Fault::Answer(std::sync::Arc::new(|_| {
        Some(Answer {
            status: 401,
            body: "{}".to_owned(),
        })
    })));
    let config = config(&db.url, &of(&proxy.url()));
    for _ in 0..2 {
        let ended = drop_gone(&config).await;
        assert_eq!(ended.code, Some(1), "{}", ended.said());
        for part in ["default/test were not removed", "with --gone"] {
            assert!(ended.err.contains(part), "{}", ended.said());
        }
        assert_eq!(
            db.value::<i64>("select count(*) from observer.checkpoint")
                .await,
            0
        );
    }
    assert!(!proxy.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn search_server_that_is_away_is_waited_for_not_for_ever() {
    let db = database().await;
    let url = format!("http://127.0.0.1:{}", closed_port());
    let index = index(elasticsearch(&url), &db.pool);
    let limits = RemovalLimits {
        patience: Duration::from_millis(600),
        total: Duration::from_mins(1),
    };
    let began = Instant::now();
    let error = remove_documents(&*index, "default/test", limits)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RemoveDocumentsError::Failed { .. }),
        "{error}"
    );
    // One attempt after a quarter of a second, and one after half a second more.
    assert!(began.elapsed() >= limits.patience, "{:?}", began.elapsed());
}
