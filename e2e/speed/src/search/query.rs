//! How long a search with facets takes over many documents.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use search::{DeliveryState, Filters, SearchError, SearchIndex};
use serde::Serialize;
use sqlx::PgPool;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::figures::quantile;
use crate::ground::Ground;
use crate::place::Bench;
use crate::process::until;
use crate::search::documents::{ENTITIES, OBSERVERS, SPAN, STATES, WORDS, document};
use crate::search::target::{Backend, Kind, Servers, count, request};

/// Documents of one write.
const BATCH: u64 = 1000;

/// Writes at a time.
const WRITERS: usize = 2;

/// How often a write is repeated that fails, and after how long.
const RETRIES: u32 = 10;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Searches of each kind that are measured, after one that is not: so many, or as many as there is time
/// for.
const SEARCHES: u64 = 200;
const FOR: Duration = Duration::from_secs(40);

/// Hits of a page.
const LIMIT: u32 = 20;

/// How long all documents may take to be found, once they are written.
const SETTLED: Duration = Duration::from_mins(2);

/// Documents that were written, and how long searches of them took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Loaded {
    pub(crate) index: String,
    pub(crate) documents: u64,
    /// Seconds in which they were written.
    pub(crate) seconds: f64,
    /// On disk.
    pub(crate) megabytes: f64,
    pub(crate) queries: Vec<Queries>,
}

/// How long searches of one kind took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Queries {
    pub(crate) search: String,
    /// Documents that matched the last one.
    pub(crate) matched: u64,
    /// Searches that were measured.
    pub(crate) searches: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// Kinds of search, and their filters by number.
type Search = (&'static str, fn(u64, DateTime<Utc>) -> Filters);

const SEARCH: [Search; 8] = [
    ("everything", |_, _| Filters::default()),
    ("one of 20 tables", |number, _| Filters {
        entity: Some(format!("public.table{}", number % ENTITIES)),
        ..Filters::default()
    }),
    ("a word of every fourth row", |number, _| {
        let number = usize::try_from(number).unwrap_or_default();
        Filters {
            query: Some(STATES[number % STATES.len()].to_owned()),
            ..Filters::default()
        }
    }),
    ("a word of few rows", |number, _| Filters {
        query: Some(format!("word{}", number * 37 % WORDS)),
        ..Filters::default()
    }),
    ("rows whose total is in a range", |number, _| {
        let from = number % 9 * 100;
        Filters {
            query: Some(format!("new.total:[{from} TO {}]", from + 100)),
            ..Filters::default()
        }
    }),
    ("a tenant's rows above a total", |number, _| Filters {
        tenant: Some(format!("tenant{}", number % 100)),
        query: Some("new.total:>900".to_owned()),
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
) -> anyhow::Result<Loaded> {
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
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("{}: loaded in {seconds:.0} s", kind.name());
    until("all documents are found", SETTLED, async || {
        Ok(count(&*index).await? == documents)
    })
    .await?;
    let megabytes = if kind == Kind::Healthy(Backend::Postgres) {
        // As autovacuum leaves them.
        let vacuum = "vacuum (analyze) observer.search_document";
        ground.run(vacuum).await?;
        ground.megabytes("observer.search_document").await?
    } else {
        servers.megabytes(&target).await?
    };
    let mut queries = Vec::new();
    for (search, filters) in SEARCH {
        let one = run(&*index, search, |number| filters(number, now)).await?;
        let (p50, p99) = (one.p50_ms, one.p99_ms);
        eprintln!(
            "{}: {search}: p50 {p50:.0} ms, p99 {p99:.0} ms",
            kind.name()
        );
        queries.push(one);
    }
    pool.close().await;
    servers.forget(&target).await?;
    ground.leave().await?;
    Ok(Loaded {
        index: kind.name().to_owned(),
        documents,
        seconds,
        megabytes,
        queries,
    })
}

/// Runs searches of one kind, each for a first page and facets.
async fn run(
    index: &dyn SearchIndex,
    search: &str,
    filters: impl Fn(u64) -> Filters,
) -> anyhow::Result<Queries> {
    let mut took = Vec::new();
    let mut matched = 0;
    let mut measured = Duration::ZERO;
    for number in 0..=SEARCHES {
        let mut request = request(filters(number), LIMIT);
        request.facets = true;
        let began = Instant::now();
        matched = index
            .search(&request)
            .await
            .with_context(|| search.to_owned())?
            .total;
        let elapsed = began.elapsed();
        if number > 0 {
            took.push(elapsed.as_secs_f64() * 1e3);
            measured += elapsed;
        }
        if measured >= FOR {
            break;
        }
    }
    took.sort_unstable_by(f64::total_cmp);
    Ok(Queries {
        search: search.to_owned(),
        matched,
        searches: took.len(),
        p50_ms: quantile(&took, 500),
        p99_ms: quantile(&took, 990),
        max_ms: took.last().copied().unwrap_or(f64::NAN),
    })
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
            // As a listener does, it repeats what a busy server has not done.
            let mut written = index.write(&batch).await;
            for _ in 0..RETRIES {
                if !matches!(written, Err(SearchError::Unavailable(_))) {
                    break;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
                written = index.write(&batch).await;
            }
            let report = written?;
            ensure!(report.written == batch.len(), "{report:?}");
            Ok(())
        });
    }
    while let Some(done) = writing.join_next().await {
        done??;
    }
    Ok(())
}
