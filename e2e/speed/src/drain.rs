//! A backlog that is worked off, or as much of it as there is time for.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::figures::{per_thousand, real};
use crate::place::{Bench, PATIENCE, Place, Setting};
use crate::sink::Faults;
use crate::steady::{Load, Offer, write};
use crate::subject::Subject;

/// Rows a second that come while a transaction is open, before the backlog does.
const MEANWHILE: u64 = 10;

/// What working off a backlog took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drained {
    pub(crate) per_second: f64,
    /// Events that came, of the backlog, in the time that there was.
    pub(crate) events: u64,
    pub(crate) peak_mib: f64,
    /// Of the sender, per 1,000 events.
    pub(crate) cpu_seconds: f64,
    /// Of the database, per 1,000 events.
    pub(crate) server_cpu_seconds: f64,
    /// Written while the rows were added, per event.
    pub(crate) wal_bytes: f64,
    /// Written while they were worked off, per event.
    pub(crate) drain_wal_bytes: f64,
    pub(crate) requests: u64,
    /// Nothing is lost for coming later than there was time.
    #[serde(flatten)]
    pub(crate) faults: Faults,
}

/// Works off a backlog of so many rows, for as long as `limit` at most: from the first that arrives
/// to the last.
pub(crate) async fn drain(
    bench: Bench<'_>,
    subject: Subject,
    setting: &Setting,
    backlog: u64,
    limit: Duration,
) -> anyhow::Result<Drained> {
    let meanwhile = setting.open_transaction.map(|open| Load {
        offer: Offer::At(MEANWHILE),
        seconds: open.as_secs(),
        bytes: setting.bytes,
    });
    // The first row is number 0.
    let from = meanwhile.map_or(0, |load| load.events()) + 1;
    let mut place = Place::new(bench, subject, setting, from + backlog).await?;
    if subject.is_bare() {
        place.ground.run("create index on item (bench_id)").await?;
        place.ground.fill(0, 1, setting.bytes).await?;
    } else {
        let process = place.warm().await?;
        if let Some(load) = meanwhile {
            write(&place.ground, &place.sink.record, load).await?;
            place.begins(from, &process).await?;
        }
        // It starts where it was, behind all that comes now.
        process.stop().await?;
    }
    let wal = place.ground.wal().await?;
    place
        .ground
        .fill(from, from + backlog, setting.bytes)
        .await?;
    let filled = place.ground.wal().await?;
    let record = &place.sink.record;
    let began_with = record.distinct();
    let (requests, server_cpu) = (record.requests(), place.ground.cpu()?);
    let process = place.start()?;
    place.begins(began_with + 1, &process).await?;
    let (began, sender_cpu) = (Instant::now(), process.cpu()?);
    let wanted = began_with + backlog;
    let all = record.wait_for(wanted, began + limit, PATIENCE).await;
    let in_time = began.elapsed() < limit;
    let came = record.distinct() - began_with;
    let ended = if all { Instant::now() } else { record.latest() };
    let took = ended.saturating_duration_since(began).as_secs_f64();
    // A bare one ends when all is done.
    let peak_mib = process.memory("VmHWM").unwrap_or(f64::NAN);
    let spent = process.cpu().unwrap_or(f64::NAN) - sender_cpu;
    let drained = Drained {
        per_second: real(came - 1) / took,
        events: came,
        peak_mib,
        cpu_seconds: spent / per_thousand(came),
        server_cpu_seconds: (place.ground.cpu()? - server_cpu) / per_thousand(came),
        wal_bytes: (filled - wal) / real(backlog),
        drain_wal_bytes: (place.ground.wal().await? - filled) / real(came),
        requests: record.requests() - requests,
        faults: record.faults(if in_time { wanted } else { 0 }),
    };
    process.kill().await?;
    place.ground.leave().await?;
    Ok(drained)
}
