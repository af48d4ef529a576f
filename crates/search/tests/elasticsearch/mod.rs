//! The suite for the backend in Elasticsearch, on each of the servers, and what only that one has. Each
//! server takes seconds to start: so a test of these is many.

mod failures;
mod indices;

use std::sync::Arc;

use async_trait::async_trait;
use crds::config::{ElasticsearchConfig, Redacted, SearchLogin};
use observer_search::SearchIndex;
use observer_search::elasticsearch::ElasticsearchIndex;
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};

use crate::support::Fixture;

/// Beginning of the names of indices.
const INDEX: &str = "shop-events";

/// Documents of 5 MiB are more than a tenth of so small a heap, which is all that writes may take else.
const PRESSURE: &str = "indexing_pressure.memory.limit=60%";

pub(crate) struct Elasticsearch {
    server: SearchServer,
}

/// The index at a URL.
fn index_at(url: &str, login: Option<SearchLogin>) -> ElasticsearchIndex {
    let config = ElasticsearchConfig {
        url: Redacted::new(url),
        index: INDEX.to_owned(),
        tls: None,
        login,
    };
    ElasticsearchIndex::new(&config).unwrap()
}

#[async_trait]
impl Fixture for Elasticsearch {
    async fn open(&self) -> Arc<dyn SearchIndex> {
        let index = index_at(&self.server.url(), None);
        index.prepare().await.unwrap();
        Arc::new(index)
    }
}

async fn suite_on(kind: SearchServerKind) {
    let began = std::time::Instant::now();
    let fixture = Elasticsearch {
        server: SearchServer::start(kind, &[PRESSURE]).await,
    };
    println!("{kind:?} started in {:?}", began.elapsed());
    crate::suite::suite!(run fixture);
    println!(
        "{kind:?} has {} KiB at the end",
        fixture.server.memory_kib()
    );
    indices::what_the_indices_keep_true(&fixture.server).await;
    failures::what_passes_is_told_from_what_lasts(fixture.server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_holds_on_elasticsearch_7() {
    suite_on(SearchServerKind::Elasticsearch7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_holds_on_elasticsearch_8() {
    suite_on(SearchServerKind::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_holds_on_elasticsearch_9() {
    suite_on(SearchServerKind::Elasticsearch9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suite_holds_on_opensearch_3() {
    suite_on(SearchServerKind::OpenSearch3).await;
}
