//! How soon an event is found by a search for its key, under load.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use search::{Filters, SearchIndex};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::figures::{quantile, real};
use crate::place::{Bench, PATIENCE, Place, Setting, forever};
use crate::process::until;
use crate::search::target::{Kind, Servers, count, request};
use crate::steady::{Load, Offer, write};
use crate::subject::Subject;

/// Events a second that are searched for, among the others.
const PROBES: u64 = 20;

/// Keys of these events: those from here on.
const FIRST_KEY: u64 = 1_000_000;

/// Most keys of one search: as many as a query may have.
const KEYS: usize = 40;

/// Between two searches.
const PAUSE: Duration = Duration::from_millis(25);

/// How long an event is looked for.
const LOST: Duration = Duration::from_mins(2);

/// Upper bounds of the histogram, in milliseconds.
const BOUNDS: [u32; 10] = [100, 200, 300, 400, 500, 600, 800, 1000, 2000, 5000];

/// How soon events are found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findable {
    pub(crate) index: String,
    /// Events a second.
    pub(crate) rate: f64,
    /// Events that were searched for.
    pub(crate) searched: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// How many were found within so many milliseconds, and not before; the last one is the rest.
    pub(crate) histogram: Vec<(u32, usize)>,
    /// Events without a document in the end.
    pub(crate) missing: u64,
}

/// Events that are looked for, by their keys, with when their commit was asked for.
type Sought = Arc<Mutex<BTreeMap<u64, Instant>>>;

/// Writes rows at a rate, and searches for some of them.
pub(crate) async fn findable(
    bench: Bench<'_>,
    servers: &Servers,
    kind: Kind,
    (setting, (rate, seconds)): (&Setting, (u64, u64)),
) -> anyhow::Result<Findable> {
    let target = servers.target(kind).await?;
    let setting = Setting {
        search: target.spec(),
        ..setting.clone()
    };
    let load = Load {
        offer: Offer::At(rate.max(PROBES)),
        seconds,
        bytes: setting.bytes,
    };
    let mut place = Place::new(bench, Subject::Observers, &setting, load.events() + 1).await?;
    let process = place.warm().await?;
    let pool = PgPool::connect(&place.ground.url).await?;
    let index = target.open(&pool)?;
    let index = index.ok_or_else(|| anyhow::anyhow!("there is no index"))?;
    until("the first document is found", LOST, async || {
        Ok(count(&*index).await? > 0)
    })
    .await?;
    let sought = Sought::default();
    let (probes, began) = (seconds * PROBES, Instant::now());
    let seeking = tokio::spawn(seek(Arc::clone(&index), Arc::clone(&sought), probes));
    let url = place.ground.url.clone();
    let (written, probed) = tokio::join!(
        write(&place.ground, &place.sink.record, load),
        probe(&url, &setting, sought, probes)
    );
    let events = written?.len() as u64 + probes;
    probed?;
    let took = began.elapsed().as_secs_f64();
    let delays = seeking.await??;
    let record = &place.sink.record;
    ensure!(
        record
            .wait_for(load.events() + 1, forever(), PATIENCE)
            .await,
        "not all events were delivered: {}",
        process.said()
    );
    // All of them have documents within moments, or never.
    let wanted = events + 1;
    let mut there = 0;
    let end = Instant::now() + PATIENCE;
    while there < wanted && Instant::now() < end {
        tokio::time::sleep(PAUSE * 10).await;
        there = count(&*index).await?;
    }
    process.kill().await?;
    pool.close().await;
    servers.forget(&target).await?;
    place.ground.leave().await?;
    let mut histogram: Vec<(u32, usize)> = BOUNDS.map(|bound| (bound, 0)).into();
    histogram.push((u32::MAX, 0));
    for delay in &delays {
        let place = histogram
            .iter()
            .position(|(bound, _)| *delay <= f64::from(*bound));
        histogram[place.unwrap_or(BOUNDS.len())].1 += 1;
    }
    Ok(Findable {
        index: kind.name().to_owned(),
        rate: real(events) / took,
        searched: delays.len(),
        p50_ms: quantile(&delays, 500),
        p99_ms: quantile(&delays, 990),
        max_ms: delays.last().copied().unwrap_or(f64::NAN),
        histogram,
        missing: wanted.saturating_sub(there),
    })
}

/// Inserts rows that are searched for: they have keys of their own, and are delivered as the others.
async fn probe(url: &str, setting: &Setting, sought: Sought, probes: u64) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let note = "x".repeat(setting.bytes);
    let began = Instant::now();
    for number in 0..probes {
        let due = began + Duration::from_secs_f64(real(number) / real(PROBES));
        tokio::time::sleep_until(due.into()).await;
        let key = FIRST_KEY + number;
        let at = Instant::now();
        sqlx::query("insert into item (bench_id, lane, note) values ($1, $2, $3)")
            // The receiver knows no numbers so high, and leaves them out of its figures.
            .bind(i64::MAX)
            .bind(i32::try_from(key)?)
            .bind(&note)
            .execute(&mut connection)
            .await?;
        let mut sought = sought.lock().unwrap_or_else(PoisonError::into_inner);
        sought.insert(key, at);
    }
    Ok(connection.close().await?)
}

/// Searches until so many were found, and returns after how many milliseconds each was, in order.
async fn seek(
    index: Arc<dyn SearchIndex>,
    sought: Sought,
    probes: u64,
) -> anyhow::Result<Vec<f64>> {
    let mut delays = Vec::new();
    while (delays.len() as u64) < probes {
        tokio::time::sleep(PAUSE).await;
        let keys: BTreeMap<u64, Instant> = {
            let sought = sought.lock().unwrap_or_else(PoisonError::into_inner);
            sought
                .iter()
                .take(KEYS)
                .map(|(key, at)| (*key, *at))
                .collect()
        };
        let Some(oldest) = keys.values().min() else {
            continue;
        };
        ensure!(
            oldest.elapsed() < LOST,
            "an event is not found for {LOST:?}"
        );
        let parts: Vec<String> = keys.keys().map(|key| format!("key:{key}")).collect();
        let filters = Filters {
            query: Some(parts.join(" OR ")),
            ..Filters::default()
        };
        let limit = u32::try_from(KEYS)?;
        let page = index.search(&request(filters, limit)).await?;
        let mut sought = sought.lock().unwrap_or_else(PoisonError::into_inner);
        for hit in page.hits {
            let key = hit.document.key.as_deref().map(str::parse::<u64>);
            let Some(Ok(key)) = key else { continue };
            if let Some(at) = sought.remove(&key) {
                delays.push(at.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    delays.sort_unstable_by(f64::total_cmp);
    Ok(delays)
}
