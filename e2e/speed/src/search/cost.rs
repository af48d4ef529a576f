//! Deliveries of a backlog with and without a history, and what that takes of the machine.

use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::PgPool;

use crate::figures::{per_thousand, real};
use crate::place::{Bench, PATIENCE, Place, Setting};
use crate::process::until;
use crate::search::target::{Kind, Servers, Target, count};
use crate::sink::Faults;
use crate::subject::Subject;

/// How long all documents may take.
const INDEXED: Duration = Duration::from_mins(10);

/// Between two counts of the documents, which themselves cost something.
const PAUSE: Duration = Duration::from_millis(500);

/// What a history costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cost {
    /// Deliveries a second, from the first that arrives to the last.
    pub(crate) per_second: f64,
    /// Documents a second, from the first delivery until all are found; nothing where not all are to be.
    pub(crate) indexed_per_second: Option<f64>,
    pub(crate) peak_mib: f64,
    /// Of the listener, per 1,000 events, until all is delivered and found.
    pub(crate) cpu_seconds: f64,
    /// Of the database.
    pub(crate) server_cpu_seconds: f64,
    /// Of the search server.
    pub(crate) search_cpu_seconds: f64,
    #[serde(flatten)]
    pub(crate) faults: Faults,
}

/// Delivers so many rows.
pub(crate) async fn cost(
    bench: Bench<'_>,
    servers: &Servers,
    kind: Kind,
    (setting, backlog, limit): (&Setting, u64, Duration),
) -> anyhow::Result<Cost> {
    let target = servers.target(kind).await?;
    let setting = Setting {
        search: target.spec(),
        ..setting.clone()
    };
    let mut place = Place::new(bench, Subject::Observers, &setting, backlog + 1).await?;
    let pool = PgPool::connect(&place.ground.url).await?;
    let index = target.open(&pool)?;
    let process = place.warm().await?;
    if kind.completes() || kind == Kind::ReadOnly {
        found(&target, &pool, 1).await?;
    }
    process.stop().await?;
    if kind == Kind::ReadOnly {
        servers.block(&target).await?;
    }
    place.ground.fill(1, backlog + 1, setting.bytes).await?;
    let record = &place.sink.record;
    let process = place.start()?;
    place.begins(2, &process).await?;
    let (began, sender, database, search) = (
        Instant::now(),
        process.cpu()?,
        place.ground.cpu()?,
        servers.cpu()?,
    );
    let all = record.wait_for(backlog + 1, began + limit, PATIENCE).await;
    let ended = if all { Instant::now() } else { record.latest() };
    let came = record.distinct() - 1;
    let took = ended.saturating_duration_since(began).as_secs_f64();
    let mut indexed_per_second = None;
    if index.is_some() && kind.completes() {
        found(&target, &pool, backlog + 1).await?;
        indexed_per_second = Some(real(backlog) / began.elapsed().as_secs_f64());
    }
    let events = per_thousand(came);
    let cost = Cost {
        per_second: real(came - 1) / took,
        indexed_per_second,
        peak_mib: process.memory("VmHWM")?,
        cpu_seconds: (process.cpu()? - sender) / events,
        server_cpu_seconds: (place.ground.cpu()? - database) / events,
        search_cpu_seconds: (servers.cpu()? - search) / events,
        faults: record.faults(if all { backlog + 1 } else { 0 }),
    };
    process.kill().await?;
    pool.close().await;
    servers.forget(&target).await?;
    place.ground.leave().await?;
    Ok(cost)
}

/// Waits until so many documents are found.
async fn found(target: &Target, pool: &PgPool, documents: u64) -> anyhow::Result<()> {
    let Some(index) = target.open(pool)? else {
        return Ok(());
    };
    until("all documents are found", INDEXED, async || {
        let found = count(&*index).await?;
        if found < documents {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(found >= documents)
    })
    .await
}
