//! A backfill beside writers: how fast the rows of a table come, what live events suffer meanwhile, and
//! whether any row is told older than it was told before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, Row as _};
use tempfile::TempDir;
use testkit::http_sink::{self, Handler, Options, Request};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::figures::{quantile, real};
use crate::ground::Ground;
use crate::place::{Bench, More, PATIENCE, Setting};
use crate::process::Process;
use crate::subject::{START, Start, Subject};

/// Connections that write.
const WRITERS: u32 = 8;

/// Most updates that can be numbered.
const MOST_UPDATES: u32 = 4_000_000;

/// What a backfill took, and what it cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Backfilled {
    pub(crate) rows: u64,
    /// Until the last row had come.
    pub(crate) per_second: f64,
    pub(crate) updates: u64,
    /// From an update's sending to its arrival, without a backfill and beside one.
    pub(crate) p50_ms: [f64; 2],
    pub(crate) p99_ms: [f64; 2],
    pub(crate) peak_mib: f64,
    /// Rows that were never told of.
    pub(crate) lost: u64,
    /// Rows whose last told state is not the table's.
    pub(crate) wrong: u64,
    /// States that came after a newer one of their row.
    pub(crate) older: u64,
}

/// What was told of each row. A row's version is the number of the update that it is of, or 0.
#[derive(Debug)]
struct Rows {
    began: Instant,
    /// One more than the version that was told last; 0 for none.
    told: Vec<AtomicU32>,
    /// When each update came, in microseconds since the beginning; 0 where it has not.
    came: Vec<AtomicU64>,
    seen: AtomicU64,
    older: AtomicU64,
}

impl Rows {
    fn note(&self, row: u64, version: u32, at: u64) {
        let told = usize::try_from(row).ok().and_then(|row| self.told.get(row));
        let (Some(told), Some(came)) = (told, self.came.get(version as usize)) else {
            return;
        };
        match told.fetch_max(version + 1, Ordering::Relaxed) {
            0 => drop(self.seen.fetch_add(1, Ordering::Relaxed)),
            last if last > version + 1 => drop(self.older.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        let _first = came.compare_exchange(0, at, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn came(&self, update: u32) -> Option<Instant> {
        match self.came.get(update as usize)?.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.began + Duration::from_micros(at)),
        }
    }
}

/// The rows and their versions in the new images of a body.
fn versions(body: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    let mut rest = body;
    std::iter::from_fn(move || {
        rest = after(rest, b"\"new\":")?;
        let (row, after_row) = number(after(rest, b"\"bench_id\":")?)?;
        let (version, after_version) = number(after(after_row, b"\"version\":")?)?;
        rest = after_version;
        Some((row, u32::try_from(version).ok()?))
    })
}

fn after<'a>(text: &'a [u8], what: &[u8]) -> Option<&'a [u8]> {
    Some(&text[memchr::memmem::find(text, what)? + what.len()..])
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii_start();
    let end = text.iter().position(|byte| !byte.is_ascii_digit())?;
    let digits = std::str::from_utf8(&text[..end]).ok()?;
    Some((digits.parse().ok()?, &text[end..]))
}

impl Handler for Rows {
    fn delivered(&self, request: &Request, status: u16) {
        let at = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if status == 200 {
            for (row, version) in versions(&request.body) {
                self.note(row, version, at.max(1));
            }
        }
    }
}

/// Backfills a table of so many rows while so many updates a second come, after as many seconds of updates alone.
pub(crate) async fn backfill(
    bench: Bench<'_>,
    subject: Subject,
    base: &Setting,
    (rows, rate, seconds): (u64, u32, u64),
) -> anyhow::Result<Backfilled> {
    let setting = Setting {
        more: More {
            operations: ", Update, Read".to_owned(),
            ..More::default()
        },
        ..base.clone()
    };
    let mut ground = Ground::new(bench.server, setting.lanes).await?;
    let table =
        "alter table item drop constraint item_pkey, add column version int not null default 0";
    ground.run(table).await?;
    ground.fill(0, rows, setting.bytes).await?;
    ground
        .run("alter table item add primary key (bench_id)")
        .await?;
    ground.run("vacuum (freeze, analyze) item").await?;
    subject.prepare(&mut ground, bench.programs).await?;
    let record = Arc::new(Rows {
        began: Instant::now(),
        told: (0..rows).map(|_| AtomicU32::new(0)).collect(),
        came: (0..MOST_UPDATES).map(|_| AtomicU64::new(0)).collect(),
        seen: AtomicU64::new(0),
        older: AtomicU64::new(0),
    });
    let server = http_sink::Sink::start_with(Options {
        keep: false,
        handler: Some(Arc::<Rows>::clone(&record)),
        ..Options::default()
    })
    .await?;
    let folder = TempDir::with_prefix("speed-")?;
    let process = subject.start(&Start {
        programs: bench.programs,
        folder: folder.path(),
        database_url: &ground.url,
        sink_url: &server.url("/hook"),
        setting: &setting,
    })?;
    if subject.has_slot() {
        let slot = "select exists (select from pg_replication_slots where active)";
        let there = ground.until(slot, START).await;
        there.with_context(|| process.said())?;
    }
    begin(&ground, &record, &process).await?;
    let writing = Writing {
        url: ground.url.clone(),
        rows,
        rate,
        record: Arc::clone(&record),
    };
    let alone = writing.write(1, async || {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(())
    });
    let (alone, ()) = alone.await?;
    let mut command = Command::new(&bench.programs.listener);
    command.args([
        "backfill",
        "start",
        "--table",
        "public.item",
        "--yes",
        "-o",
        "json",
        "-f",
    ]);
    command.arg(folder.path().join("observers.yaml"));
    let beside = writing.write(alone.next, async || {
        let began = Instant::now();
        let output = command.kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the backfill failed: {said}");
        all_rows(&record, rows).await;
        Ok(began.elapsed())
    });
    let (beside, took) = beside.await?;
    let (lost, wrong) = compare(&ground, &record).await?;
    let quantiles = |of_1000| [&alone, &beside].map(|written| quantile(&written.delays, of_1000));
    let found = Backfilled {
        rows,
        per_second: real(rows) / took.as_secs_f64(),
        updates: u64::from(beside.next - alone.next),
        p50_ms: quantiles(500),
        p99_ms: quantiles(990),
        peak_mib: process.memory("VmHWM")?,
        lost,
        wrong,
        older: record.older.load(Ordering::Relaxed),
    };
    process.kill().await?;
    ground.leave().await?;
    Ok(found)
}

/// Sees that updates arrive at all: the first row's, which is not measured.
async fn begin(ground: &Ground<'_>, record: &Rows, process: &Process) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(&ground.url).await?;
    let end = Instant::now() + PATIENCE;
    // What is written before a source is read from is not told of.
    while record.seen.load(Ordering::Relaxed) == 0 {
        ensure!(Instant::now() < end, "nothing arrives: {}", process.said());
        sqlx::query("update item set note = note where bench_id = 0")
            .execute(&mut connection)
            .await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(connection.close().await?)
}

/// Waits until each row was told of, or none is any more.
async fn all_rows(record: &Rows, rows: u64) {
    let (mut last, mut since) = (0, Instant::now());
    while last < rows && since.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let seen = record.seen.load(Ordering::Relaxed);
        if seen > last {
            (last, since) = (seen, Instant::now());
        }
    }
}

/// Updates of one row after the other.
struct Writing {
    url: String,
    rows: u64,
    /// Per second.
    rate: u32,
    record: Arc<Rows>,
}

/// What was written.
struct Written {
    /// Delays in milliseconds between sending an update and its receipt, sorted. Updates that never arrived are left
    /// out.
    delays: Vec<f64>,
    /// Number of the next update.
    next: u32,
}

impl Writing {
    /// Writes from this number on, until `until` ends, and waits for what was written.
    async fn write<T>(
        &self,
        first: u32,
        until: impl AsyncFnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(Written, T)> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        let began = Instant::now();
        for writer in 0..WRITERS {
            let (url, rows, rate, stop) =
                (self.url.clone(), self.rows, self.rate, Arc::clone(&stop));
            writers.spawn(async move {
                let mut connection = PgConnection::connect(&url).await?;
                let mut sent = Vec::new();
                for n in (0..).skip(writer as usize).step_by(WRITERS as usize) {
                    let update = first + n;
                    let due = began + Duration::from_secs_f64(f64::from(n) / f64::from(rate));
                    tokio::time::sleep_until(due.into()).await;
                    if stop.load(Ordering::Relaxed) || update >= MOST_UPDATES {
                        break;
                    }
                    sent.push((update, Instant::now()));
                    // Scattered, and no row twice before all had their turn.
                    let row = u64::from(update) * 7919 % rows;
                    sqlx::query("update item set version = $2 where bench_id = $1")
                        .bind(i64::try_from(row)?)
                        .bind(i32::try_from(update)?)
                        .execute(&mut connection)
                        .await?;
                }
                connection.close().await?;
                anyhow::Ok(sent)
            });
        }
        let result = until().await;
        stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        while let Some(one) = writers.join_next().await {
            sent.extend(one??);
        }
        let next = sent.iter().map(|(update, _)| update + 1).max();
        let delays = self.delays(&sent).await;
        let next = next.unwrap_or(first);
        Ok((Written { delays, next }, result?))
    }

    async fn delays(&self, sent: &[(u32, Instant)]) -> Vec<f64> {
        let mut delays = Vec::new();
        let end = Instant::now() + PATIENCE;
        for (update, sent) in sent {
            let mut came = self.record.came(*update);
            while came.is_none() && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(1)).await;
                came = self.record.came(*update);
            }
            delays.extend(came.map(|at| at.saturating_duration_since(*sent).as_secs_f64() * 1e3));
        }
        delays.sort_unstable_by(f64::total_cmp);
        delays
    }
}

/// Counts the rows that were never told of, and those whose last told state is not the table's.
async fn compare(ground: &Ground<'_>, record: &Rows) -> anyhow::Result<(u64, u64)> {
    let mut versions = vec![0_u32; record.told.len()];
    let mut connection = PgConnection::connect(&ground.url).await?;
    let updated = "select bench_id, version from item where version > 0";
    for row in sqlx::query(updated).fetch_all(&mut connection).await? {
        let (id, version): (i64, i32) = (row.try_get(0)?, row.try_get(1)?);
        versions[usize::try_from(id)?] = u32::try_from(version)?;
    }
    connection.close().await?;
    let (mut lost, mut wrong) = (0, 0);
    for (told, version) in record.told.iter().zip(versions) {
        match told.load(Ordering::Relaxed) {
            0 => lost += 1,
            told if told != version + 1 => wrong += 1,
            _ => {}
        }
    }
    Ok((lost, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_new_images_are_found() {
        let body = br#"[{"old":{"bench_id":4,"note":"x","version":1},"new":{"bench_id":4,"note":"x","version":7}},{"old":null,"new":{"bench_id": 9,"version":0}}]"#;
        assert_eq!(versions(body).collect::<Vec<_>>(), [(4, 7), (9, 0)]);
        assert_eq!(
            versions(br#"{"old":{"bench_id":4,"version":1},"new":null}"#).count(),
            0
        );
    }

    #[test]
    fn older_state_is_counted() {
        let rows = Rows {
            began: Instant::now(),
            told: (0..2).map(|_| AtomicU32::new(0)).collect(),
            came: (0..9).map(|_| AtomicU64::new(0)).collect(),
            seen: AtomicU64::new(0),
            older: AtomicU64::new(0),
        };
        for (row, version) in [(0, 0), (1, 5), (1, 5), (1, 0), (7, 1), (0, 8), (0, 9)] {
            rows.note(row, version, 3);
        }
        assert_eq!(rows.seen.into_inner(), 2);
        assert_eq!(rows.older.into_inner(), 1);
        assert!(rows.came[8].load(Ordering::Relaxed) == 3);
    }
}
