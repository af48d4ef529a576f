//! How long a search with facets takes over many documents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use search::{DeliveryState, Filters, SearchIndex};
use serde::Serialize;
use sqlx::PgPool;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::figures::{quantile, real};
use crate::ground::Ground;
use crate::place::Bench;
use crate::search::documents::{ENTITIES, OBSERVERS, SPAN, WORDS, document};
use crate::search::target::{Kind, Servers, count, request};

/// Documents of one write.
const BATCH: u64 = 1000;

/// Writes at a time.
const WRITERS: usize = 2;

/// Searches of each kind that are measured, after one that is not.
const SEARCHES: u64 = 100;

/// Hits of a page.
const LIMIT: u32 = 20;

/// How long searches of one kind took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Queries {
    pub(crate) index: String,
    pub(crate) documents: u64,
    /// Documents a second that were written before.
    pub(crate) written_per_second: f64,
    pub(crate) search: String,
    /// Documents that matched the last one.
    pub(crate) matched: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// Kinds of search, and their filters by number.
type Search = (&'static str, fn(u64, DateTime<Utc>) -> Filters);

const SEARCH: [Search; 6] = [
    ("everything", |_, _| Filters::default()),
    ("one of 20 tables", |number, _| Filters {
        entity: Some(format!("public.table{}", number % ENTITIES)),
        ..Filters::default()
    }),
    ("an observer's dead letters of a day", |number, now| {
        Filters {
            observer: Some(format!("shop/observer{}", number % OBSERVERS)),
            states: vec![DeliveryState::DeadLetter],
            from: Some(now - SPAN / 30),
            ..Filters::default()
        }
    }),
    ("a word", |number, _| Filters {
        query: Some(format!("word{}", number * 37 % WORDS)),
        ..Filters::default()
    }),
    ("a tenant's orders above an amount", |number, _| Filters {
        tenant: Some(format!("tenant{}", number % 100)),
        query: Some("new.total:>900".to_owned()),
        ..Filters::default()
    }),
    ("one key", |number, _| Filters {
        key: Some((number * 7919).to_string()),
        ..Filters::default()
    }),
];

/// Writes so many documents, and searches them.
pub(crate) async fn queries(
    bench: Bench<'_>,
    servers: &Servers,
    kind: Kind,
    documents: u64,
) -> anyhow::Result<Vec<Queries>> {
    let mut ground = Ground::new(bench.server, 1).await?;
    let mut migrate = Command::new(&bench.programs.listener);
    migrate.args(["migrate", "--database-url", &ground.url]);
    ensure!(migrate.output().await?.status.success(), "cannot migrate");
    let target = servers.target(kind).await?;
    let pool = PgPool::connect(&ground.url).await?;
    let index = target.open(&pool)?.context("there is no index")?;
    index.prepare().await?;
    let now = Utc::now();
    let began = Instant::now();
    write(&index, documents, now).await?;
    let written_per_second = real(documents) / began.elapsed().as_secs_f64();
    eprintln!(
        "{}: {written_per_second:.0} documents/s written",
        kind.name()
    );
    // Until all are found, and as autovacuum would leave them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    if kind == Kind::Postgres {
        ground
            .run("vacuum (analyze) observer.search_document")
            .await?;
    }
    ensure!(count(&*index).await? == documents, "documents are missing");
    let mut all = Vec::new();
    for (search, filters) in SEARCH {
        let mut took = Vec::new();
        let mut matched = 0;
        for number in 0..=SEARCHES {
            let mut request = request(filters(number, now), LIMIT);
            request.facets = true;
            let began = Instant::now();
            matched = index.search(&request).await.context(search)?.total;
            if number > 0 {
                took.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        took.sort_unstable_by(f64::total_cmp);
        all.push(Queries {
            index: kind.name().to_owned(),
            documents,
            written_per_second,
            search: search.to_owned(),
            matched,
            p50_ms: quantile(&took, 500),
            p99_ms: quantile(&took, 990),
            max_ms: took.last().copied().unwrap_or(f64::NAN),
        });
    }
    pool.close().await;
    servers.forget(&target).await?;
    ground.leave().await?;
    Ok(all)
}

/// Writes documents in batches, a few at a time.
async fn write(
    index: &Arc<dyn SearchIndex>,
    documents: u64,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let mut writing = JoinSet::new();
    for from in (0..documents).step_by(usize::try_from(BATCH)?) {
        if writing.len() == WRITERS
            && let Some(done) = writing.join_next().await
        {
            done??;
        }
        let index = Arc::clone(index);
        writing.spawn(async move {
            let to = documents.min(from + BATCH);
            let batch = (from..to).map(|number| document(number, documents, now));
            let batch = batch.collect::<Result<Vec<_>, _>>()?;
            let report = index.write(&batch).await?;
            ensure!(report.written == batch.len(), "{report:?}");
            Ok(())
        });
    }
    while let Some(done) = writing.join_next().await {
        done??;
    }
    Ok(())
}
