//! How soon an event is found as delivered, under load: from when its commit was answered until a search
//! returns its document.
//!
//! Each [`EVERY`]th event is searched for, by its number. Those that are not found yet are in one search, so
//! that searching costs about the same however late events are found.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use search::{DeliveryState, Document, Filters, SearchIndex};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::figures::{quantile, real};
use crate::place::{Bench, PATIENCE, Place, Setting, forever};
use crate::process::until;
use crate::search::target::{Kind, Servers, count, request};
use crate::steady::{Load, Offer, Written, write};
use crate::subject::Subject;

/// Between two searches.
const PAUSE: Duration = Duration::from_millis(25);

/// One event of so many is searched for.
const EVERY: u64 = 25;

/// For how long events come before those that count: a server that has just started compiles its code, and
/// an index is made.
const WARM_UP: Duration = Duration::from_secs(10);

/// Most events in one search, the first ones.
const MOST: usize = 40;

/// For how long nothing may be found before what is left counts as missing.
const LOST: Duration = Duration::from_mins(2);

/// Upper bounds of the histogram, in milliseconds.
const BOUNDS: [u32; 10] = [100, 200, 300, 400, 500, 600, 800, 1000, 2000, 5000];

/// How soon events are found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findable {
    pub(crate) index: String,
    /// Events a second.
    pub(crate) rate: f64,
    /// Events that were searched for after [`WARM_UP`], of which none is left out.
    pub(crate) events: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// How many were found within so many milliseconds, and not before; the last one is the rest.
    pub(crate) histogram: Vec<(u32, usize)>,
    /// Events that were never found as delivered.
    pub(crate) missing: usize,
    /// How long a search took.
    pub(crate) search_p50_ms: f64,
}

/// When each event was found first, by its number.
type FoundAt = HashMap<u64, Instant>;

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
        offer: Offer::At(rate.max(1)),
        seconds: seconds + WARM_UP.as_secs(),
        bytes: setting.bytes,
    };
    let mut place = Place::new(bench, Subject::Observers, &setting, load.events() + 1).await?;
    let process = place.warm().await?;
    let pool = PgPool::connect(&place.ground.url).await?;
    let index = target.open(&pool)?.context("there is no index")?;
    until("the first document is found", LOST, async || {
        Ok(count(&*index).await? > 0)
    })
    .await?;
    let began = Instant::now();
    let seeking = tokio::spawn(seek(Arc::clone(&index), load.events(), rate.max(1)));
    let record = &place.sink.record;
    let written = write(&place.ground, record, load).await?;
    let took = began.elapsed().as_secs_f64();
    // What is delivered never cannot be found as delivered.
    let delivered = record.wait_for(load.events() + 1, forever(), PATIENCE);
    anyhow::ensure!(delivered.await, "not all arrive: {}", process.said());
    let (found, searches) = seeking.await??;
    process.kill().await?;
    pool.close().await;
    servers.forget(&target).await?;
    place.ground.leave().await?;
    let written: Vec<Written> = written
        .into_iter()
        .filter(|row| row.id % EVERY == 0 && row.committed >= began + WARM_UP)
        .collect();
    let delays = delays(&written, &found);
    Ok(Findable {
        index: kind.name().to_owned(),
        rate: real(load.events()) / took,
        events: written.len(),
        p50_ms: quantile(&delays, 500),
        p99_ms: quantile(&delays, 990),
        max_ms: delays.last().copied().unwrap_or(f64::NAN),
        histogram: histogram(&delays),
        missing: written.len() - delays.len(),
        search_p50_ms: quantile(&searches, 500),
    })
}

/// After how many milliseconds each was found, in order.
fn delays(written: &[Written], found: &FoundAt) -> Vec<f64> {
    let mut delays: Vec<f64> = written
        .iter()
        .filter_map(|row| {
            let delay = found.get(&row.id)?.saturating_duration_since(row.committed);
            Some(delay.as_secs_f64() * 1e3)
        })
        .collect();
    delays.sort_unstable_by(f64::total_cmp);
    delays
}

fn histogram(delays: &[f64]) -> Vec<(u32, usize)> {
    let mut histogram: Vec<(u32, usize)> = BOUNDS.map(|bound| (bound, 0)).into();
    histogram.push((u32::MAX, 0));
    for delay in delays {
        let place = histogram
            .iter()
            .position(|(bound, _)| *delay <= f64::from(*bound));
        histogram[place.unwrap_or(BOUNDS.len())].1 += 1;
    }
    histogram
}

/// Searches until the last of so many events was found, which come at a rate, or no more are. Returns when
/// each was found first, and how many milliseconds each search took, in order.
async fn seek(
    index: Arc<dyn SearchIndex>,
    events: u64,
    rate: u64,
) -> anyhow::Result<(FoundAt, Vec<f64>)> {
    let (mut found, mut searches) = (FoundAt::new(), Vec::new());
    let mut left: VecDeque<u64> = (1..=events).filter(|id| id % EVERY == 0).collect();
    let began = Instant::now();
    let mut latest = began;
    while !left.is_empty() && latest.elapsed() < LOST {
        tokio::time::sleep(PAUSE).await;
        // None comes before its time.
        let come = began.elapsed().as_secs_f64() * real(rate);
        let wanted: Vec<String> = left
            .iter()
            .take_while(|id| real(**id) <= come)
            .take(MOST)
            .map(|id| format!("new.bench_id:{id}"))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let filters = Filters {
            query: Some(wanted.join(" OR ")),
            states: vec![DeliveryState::Delivered],
            ..Filters::default()
        };
        let asked = Instant::now();
        let page = index
            .search(&request(filters, u32::try_from(MOST).unwrap_or(u32::MAX)))
            .await?;
        searches.push(asked.elapsed().as_secs_f64() * 1e3);
        let now = Instant::now();
        for hit in &page.hits {
            latest = now;
            found.insert(number(&hit.document)?, now);
        }
        left.retain(|id| !found.contains_key(id));
    }
    searches.sort_unstable_by(f64::total_cmp);
    Ok((found, searches))
}

/// The number of the row that a document is of.
fn number(document: &Document) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Row {
        bench_id: u64,
    }
    let row = document.new.as_ref().context("a document without a row")?;
    Ok(serde_json::from_str::<Row>(row.get())?.bench_id)
}
