//! Nothing to do, and reading with nothing around it.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::bare;
use crate::figures::real;
use crate::ground::Ground;
use crate::place::{Bench, Place, Setting};
use crate::subject::Subject;

/// What doing nothing takes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) resident_mib: f64,
    /// Of these, what is the process's own, and not of its program's file.
    pub(crate) own_mib: f64,
    /// Of the process.
    pub(crate) cpu_percent: f64,
    /// Of the database.
    pub(crate) server_cpu_percent: f64,
}

/// Watches it do nothing, once it has done so for a while.
pub(crate) async fn idle(
    bench: Bench<'_>,
    subject: Subject,
    setting: &Setting,
    settle: u64,
    seconds: u64,
) -> anyhow::Result<Idle> {
    let mut place = Place::new(bench, subject, setting, 1).await?;
    let process = place.warm().await?;
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let (sender_cpu, server_cpu) = (process.cpu()?, place.ground.cpu()?);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let took = began.elapsed().as_secs_f64();
    let idle = Idle {
        resident_mib: process.memory("VmRSS")?,
        own_mib: process.memory("RssAnon")?,
        cpu_percent: (process.cpu()? - sender_cpu) / took * 100.0,
        server_cpu_percent: (place.ground.cpu()? - server_cpu) / took * 100.0,
    };
    process.kill().await?;
    place.ground.leave().await?;
    Ok(idle)
}

/// Rows a second that are read with nothing around it.
pub(crate) async fn read(bench: Bench<'_>, setting: &Setting, rows: u64) -> anyhow::Result<f64> {
    let mut ground = Ground::new(bench.server, setting.lanes).await?;
    ground.run("create index on item (bench_id)").await?;
    ground.fill(0, rows, setting.bytes).await?;
    let (count, took) = bare::select(&ground.url).await?;
    ground.leave().await?;
    Ok(real(count) / took.as_secs_f64())
}
