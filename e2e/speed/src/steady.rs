//! Rows that are written while a system is at work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;

use crate::figures::{per_thousand, quantile, real};
use crate::ground::Ground;
use crate::place::{Bench, PATIENCE, Place, Setting, forever};
use crate::sink::{Faults, Record};
use crate::subject::Subject;

/// Connections that write.
const WRITERS: u64 = 8;

/// Rows under way beyond which writers wait, where they write as fast as rows are delivered.
const UNDER_WAY: u64 = 1000;

/// How long they then wait at a time.
const PAUSE: Duration = Duration::from_millis(2);

/// Most rows that may be written in a second.
const MOST: u64 = 50_000;

/// Rows that are written singly, in transactions of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) offer: Offer,
    pub(crate) seconds: u64,
    /// Of a row's text.
    pub(crate) bytes: usize,
}

/// How fast rows are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Offer {
    /// So many a second.
    At(u64),
    /// As fast as they are delivered.
    Most,
}

impl Load {
    /// The most rows that it can have.
    pub(crate) fn events(&self) -> u64 {
        let rate = match self.offer {
            Offer::At(rate) => rate,
            Offer::Most => MOST,
        };
        rate * self.seconds
    }
}

/// A row that was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) id: u64,
    /// When its `insert` was sent.
    pub(crate) sent: Instant,
    /// When its commit was answered.
    pub(crate) committed: Instant,
}

/// What steady rows took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Steady {
    pub(crate) written_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) peak_mib: f64,
    /// Of the sender, per 1,000 events.
    pub(crate) cpu_seconds: f64,
    /// Of the database with its writers, per 1,000 events.
    pub(crate) server_cpu_seconds: f64,
    #[serde(flatten)]
    pub(crate) faults: Faults,
}

/// Rows that come for so many seconds while it is at work.
pub(crate) async fn steady(
    bench: Bench<'_>,
    subject: Subject,
    setting: &Setting,
    load: Load,
) -> anyhow::Result<Steady> {
    let mut place = Place::new(bench, subject, setting, load.events() + 1).await?;
    let process = place.warm().await?;
    let (sender_cpu, server_cpu) = (process.cpu()?, place.ground.cpu()?);
    let record = &place.sink.record;
    let began = Instant::now();
    let written = write(&place.ground, record, load).await?;
    let took = began.elapsed().as_secs_f64();
    let events = written.len() as u64;
    // What has not come by then is lost.
    let _all = record.wait_for(events + 1, forever(), PATIENCE).await;
    let mut delays: Vec<f64> = written
        .iter()
        .filter_map(|row| {
            let arrived = record.at(row.id)?;
            Some(arrived.saturating_duration_since(row.sent).as_secs_f64() * 1e3)
        })
        .collect();
    delays.sort_unstable_by(f64::total_cmp);
    let steady = Steady {
        written_per_second: real(events) / took,
        p50_ms: quantile(&delays, 500),
        p99_ms: quantile(&delays, 990),
        p999_ms: quantile(&delays, 999),
        peak_mib: process.memory("VmHWM")?,
        cpu_seconds: (process.cpu()? - sender_cpu) / per_thousand(events),
        server_cpu_seconds: (place.ground.cpu()? - server_cpu) / per_thousand(events),
        faults: record.faults(events + 1),
    };
    process.kill().await?;
    place.ground.leave().await?;
    Ok(steady)
}

/// Writes rows from number 1 on. What is measured from when they were sent has the commit in it.
pub(crate) async fn write(
    ground: &Ground<'_>,
    record: &Arc<Record>,
    load: Load,
) -> anyhow::Result<Vec<Written>> {
    let mut writers = JoinSet::new();
    let began = Instant::now();
    let end = began + Duration::from_secs(load.seconds);
    for writer in 0..WRITERS {
        let (url, lanes, record) = (ground.url.clone(), ground.lanes, Arc::clone(record));
        writers.spawn(async move {
            let mut connection = PgConnection::connect(&url).await?;
            let note = "x".repeat(load.bytes);
            let mut written = Vec::new();
            // One lane is one writer's, so that numbers in it go up as they are committed.
            let own = |id: &u64| *id % lanes as u64 % WRITERS == writer;
            for id in (1..=load.events()).filter(own) {
                match load.offer {
                    Offer::At(rate) => {
                        let due = began + Duration::from_secs_f64(real(id) / real(rate));
                        tokio::time::sleep_until(due.into()).await;
                    }
                    Offer::Most => {
                        let all = written.len() as u64 * WRITERS;
                        while all > record.distinct() + UNDER_WAY && Instant::now() < end {
                            tokio::time::sleep(PAUSE).await;
                        }
                        if Instant::now() >= end {
                            break;
                        }
                    }
                }
                let sent = Instant::now();
                let lane = i32::try_from(id % lanes as u64)?;
                sqlx::query("insert into item (bench_id, lane, note) values ($1, $2, $3)")
                    .bind(i64::try_from(id)?)
                    .bind(lane)
                    .bind(&note)
                    .execute(&mut connection)
                    .await?;
                written.push(Written {
                    id,
                    sent,
                    committed: Instant::now(),
                });
            }
            connection.close().await?;
            anyhow::Ok(written)
        });
    }
    let mut all = Vec::new();
    while let Some(written) = writers.join_next().await {
        all.extend(written??);
    }
    Ok(all)
}
