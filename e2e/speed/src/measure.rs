//! The measurements, each of one system on a database of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::bare;
use crate::ground::{Ground, Server};
use crate::process::{Process, cpu, memory};
use crate::sink::{Behaviour, Faults, Sink};
use crate::subject::{Programs, START, Start, Subject};

/// How long nothing may come before a measurement has failed.
const PATIENCE: Duration = Duration::from_mins(1);

/// Connections that write at a steady rate.
const WRITERS: u64 = 8;

/// How a system is measured.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Lanes of the rows.
    pub(crate) lanes: usize,
    /// Bytes of a row's text.
    pub(crate) bytes: usize,
    pub(crate) behaviour: Behaviour,
    pub(crate) listener_spec: String,
    pub(crate) idle_observers: usize,
    /// Whether a transaction is open from before the first row on.
    pub(crate) open_transaction: bool,
}

/// What working off a backlog took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Drained {
    pub(crate) per_second: f64,
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
    #[serde(flatten)]
    pub(crate) faults: Faults,
}

/// What a steady rate took.
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

/// What doing nothing takes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) resident_mib: f64,
    /// Of the process.
    pub(crate) cpu_percent: f64,
    /// Of the database.
    pub(crate) server_cpu_percent: f64,
}

/// One system on its ground.
struct Place<'a> {
    subject: Subject,
    programs: &'a Programs,
    setting: &'a Setting,
    ground: Ground<'a>,
    folder: TempDir,
    sink: Sink,
    _open: Option<PgConnection>,
}

impl<'a> Place<'a> {
    async fn new(
        server: &'a Server,
        programs: &'a Programs,
        subject: Subject,
        setting: &'a Setting,
        events: u64,
    ) -> anyhow::Result<Self> {
        let mut ground = Ground::new(server, setting.lanes).await?;
        let mut open = None;
        if setting.open_transaction {
            let mut connection = PgConnection::connect(&server.url("postgres")).await?;
            sqlx::raw_sql("begin; select pg_current_xact_id()")
                .execute(&mut connection)
                .await?;
            open = Some(connection);
        }
        subject.prepare(&mut ground, programs).await?;
        Ok(Self {
            subject,
            programs,
            setting,
            ground,
            folder: TempDir::with_prefix("speed-")?,
            sink: Sink::start(events, setting.lanes, setting.behaviour).await?,
            _open: open,
        })
    }

    fn start(&self) -> anyhow::Result<Process> {
        self.subject.start(&Start {
            programs: self.programs,
            folder: self.folder.path(),
            database_url: &self.ground.url,
            sink_url: &self.sink.url,
            listener_spec: &self.setting.listener_spec,
            idle_observers: self.setting.idle_observers,
        })
    }

    /// Starts it and sees the first row through.
    async fn warm(&mut self) -> anyhow::Result<Process> {
        let process = self.start()?;
        // What reads the server's log sees what is written once it has a slot.
        if matches!(self.subject, Subject::Debezium | Subject::DebeziumBatched) {
            let slot = "select exists (select from pg_replication_slots where active)";
            let there = self.ground.until(slot, START).await;
            there.with_context(|| process.said())?;
        }
        self.ground.fill(0, 1, self.setting.bytes).await?;
        self.begins(1, &process).await?;
        Ok(process)
    }

    /// Fails unless so many arrive: then it does not work at all.
    async fn begins(&self, count: u64, process: &Process) -> anyhow::Result<()> {
        let arrived = self.sink.record.wait_for(count, PATIENCE).await;
        ensure!(arrived, "nothing arrives: {}", process.said());
        Ok(())
    }
}

/// Works off a backlog of so many rows, or the first of it: from the first that arrives to the last.
pub(crate) async fn drain(
    server: &Server,
    programs: &Programs,
    subject: Subject,
    setting: &Setting,
    backlog: u64,
    first: u64,
) -> anyhow::Result<Drained> {
    let mut place = Place::new(server, programs, subject, setting, backlog + 1).await?;
    if subject.is_bare() {
        place.ground.run("create index on item (bench_id)").await?;
        place.ground.fill(0, 1, setting.bytes).await?;
    } else {
        // It starts where it was, behind all that comes now.
        place.warm().await?.stop().await?;
    }
    let wal = place.ground.wal().await?;
    place.ground.fill(1, backlog + 1, setting.bytes).await?;
    let filled = place.ground.wal().await?;
    let began_with = place.sink.record.distinct();
    let (requests, server_cpu) = (place.sink.record.requests(), place.ground.cpu()?);
    let process = place.start()?;
    let pid = process.pid()?;
    place.begins(began_with + 1, &process).await?;
    let (began, sender_cpu) = (Instant::now(), cpu(pid)?);
    let wanted = began_with + first;
    let record = &place.sink.record;
    let ended = if record.wait_for(wanted, PATIENCE).await {
        Instant::now()
    } else {
        record.latest()
    };
    let took = ended.saturating_duration_since(began).as_secs_f64();
    // A bare one ends when all is done.
    let peak_mib = memory(pid, "VmHWM").unwrap_or(f64::NAN);
    let spent = cpu(pid).unwrap_or(f64::NAN) - sender_cpu;
    let came = per_thousand(record.distinct() - began_with);
    let drained = Drained {
        per_second: real((record.distinct() - began_with).min(first) - 1) / took,
        peak_mib,
        cpu_seconds: spent / came,
        server_cpu_seconds: (place.ground.cpu()? - server_cpu) / came,
        wal_bytes: (filled - wal) / real(backlog),
        drain_wal_bytes: (place.ground.wal().await? - filled) / real(first),
        requests: record.requests() - requests,
        faults: record.faults(wanted),
    };
    process.kill().await?;
    place.ground.leave().await?;
    Ok(drained)
}

/// Rows that are written at a steady rate while it is at work.
pub(crate) async fn steady(
    server: &Server,
    programs: &Programs,
    subject: Subject,
    setting: &Setting,
    rate: u64,
    seconds: u64,
) -> anyhow::Result<Steady> {
    let events = rate * seconds;
    let mut place = Place::new(server, programs, subject, setting, events + 1).await?;
    let process = place.warm().await?;
    let pid = process.pid()?;
    let (sender_cpu, server_cpu) = (cpu(pid)?, place.ground.cpu()?);
    let began = Instant::now();
    let written = write(&place.ground, rate, events, setting.bytes).await?;
    let took = began.elapsed().as_secs_f64();
    let record = &place.sink.record;
    // What has not come by then is lost.
    let _all = record.wait_for(events + 1, PATIENCE).await;
    let mut delays: Vec<f64> = written
        .iter()
        .filter_map(|(id, at)| {
            let arrived = record.at(*id)?;
            Some(arrived.saturating_duration_since(*at).as_secs_f64() * 1e3)
        })
        .collect();
    delays.sort_unstable_by(f64::total_cmp);
    let steady = Steady {
        written_per_second: real(events) / took,
        p50_ms: quantile(&delays, 500),
        p99_ms: quantile(&delays, 990),
        p999_ms: quantile(&delays, 999),
        peak_mib: memory(pid, "VmHWM")?,
        cpu_seconds: (cpu(pid)? - sender_cpu) / per_thousand(events),
        server_cpu_seconds: (place.ground.cpu()? - server_cpu) / per_thousand(events),
        faults: record.faults(events + 1),
    };
    process.kill().await?;
    place.ground.leave().await?;
    Ok(steady)
}

/// Writes rows singly, in transactions of their own, each at its time. When each commit was asked
/// for: what is measured from there has the commit in it.
async fn write(
    ground: &Ground<'_>,
    rate: u64,
    events: u64,
    bytes: usize,
) -> anyhow::Result<Vec<(u64, Instant)>> {
    let mut writers = JoinSet::new();
    let began = Instant::now();
    for writer in 0..WRITERS {
        let (url, lanes) = (ground.url.clone(), ground.lanes);
        writers.spawn(async move {
            let mut connection = PgConnection::connect(&url).await?;
            let note = "x".repeat(bytes);
            let mut written = Vec::new();
            // One lane is one writer's, so that numbers in it go up as they are committed.
            for id in 1..=events {
                let lane = usize::try_from(id)? % lanes;
                if lane as u64 % WRITERS != writer {
                    continue;
                }
                let due = began + Duration::from_secs_f64(real(id) / real(rate));
                tokio::time::sleep_until(due.into()).await;
                let at = Instant::now();
                sqlx::query("insert into item (bench_id, lane, note) values ($1, $2, $3)")
                    .bind(i64::try_from(id)?)
                    .bind(i32::try_from(lane)?)
                    .bind(&note)
                    .execute(&mut connection)
                    .await?;
                written.push((id, at));
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

/// Watches it do nothing, once it has done so for a while.
pub(crate) async fn idle(
    server: &Server,
    programs: &Programs,
    subject: Subject,
    setting: &Setting,
    settle: u64,
    seconds: u64,
) -> anyhow::Result<Idle> {
    let mut place = Place::new(server, programs, subject, setting, 1).await?;
    let process = place.warm().await?;
    let pid = process.pid()?;
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let (sender_cpu, server_cpu) = (cpu(pid)?, place.ground.cpu()?);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let took = began.elapsed().as_secs_f64();
    let idle = Idle {
        resident_mib: memory(pid, "VmRSS")?,
        cpu_percent: (cpu(pid)? - sender_cpu) / took * 100.0,
        server_cpu_percent: (place.ground.cpu()? - server_cpu) / took * 100.0,
    };
    process.kill().await?;
    place.ground.leave().await?;
    Ok(idle)
}

/// Rows a second that are read with nothing around it.
pub(crate) async fn read(server: &Server, setting: &Setting, rows: u64) -> anyhow::Result<f64> {
    let mut ground = Ground::new(server, setting.lanes).await?;
    ground.run("create index on item (bench_id)").await?;
    ground.fill(0, rows, setting.bytes).await?;
    let (count, took) = bare::select(&ground.url).await?;
    ground.leave().await?;
    Ok(real(count) / took.as_secs_f64())
}

fn per_thousand(events: u64) -> f64 {
    real(events.max(1)) / 1e3
}

/// A count as it is divided by.
#[expect(clippy::cast_precision_loss, reason = "figures are read by people")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

/// The middle of some figures; not a number of none.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    quantile(figures, 500)
}

/// The value below which so many of a thousand lie.
fn quantile(sorted: &[f64], of_1000: usize) -> f64 {
    let at = sorted.len() * of_1000 / 1000;
    let last = sorted.len().saturating_sub(1);
    sorted.get(at.min(last)).copied().unwrap_or(f64::NAN)
}
