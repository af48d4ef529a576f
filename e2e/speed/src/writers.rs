//! What capture costs those who write, by pgbench: the same transactions with and without it, in
//! turn, on one server.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::ground::{Ground, Server};
use crate::measure::{Setting, median};
use crate::subject::{Programs, Subject};

/// Clients that write.
const CLIENTS: u32 = 8;

/// Rows of the statement with many.
const MANY: u32 = 1000;

/// Transactions a second, without capture and with it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Writers {
    /// What each transaction does.
    pub(crate) transaction: &'static str,
    pub(crate) bare: f64,
    pub(crate) captured: f64,
    pub(crate) ratio: f64,
}

/// Measures both kinds of transactions for so many seconds, in so many turns.
pub(crate) async fn measure(
    server: &Server,
    programs: &Programs,
    pgbench: &Path,
    setting: &Setting,
    seconds: u64,
    rounds: usize,
) -> anyhow::Result<Vec<Writers>> {
    let mut ground = Ground::new(server, setting.lanes).await?;
    let folder = TempDir::with_prefix("speed-")?;
    let url = ground.url.clone();
    Subject::Observers.prepare(&mut ground, programs).await?;
    ground
        .run("create table bare (like item including all)")
        .await?;
    let single =
        "insert into TABLE (bench_id, lane, note) values (1, :client_id, repeat('x', BYTES))";
    let many = "insert into TABLE (bench_id, lane, note)
        select n, n % 1000, repeat('x', BYTES) from generate_series(1, MANY) n";
    let mut found = Vec::new();
    for (name, sql) in [("one row", single), ("1,000 rows", many)] {
        let sql = sql
            .replace("BYTES", &setting.bytes.to_string())
            .replace("MANY", &MANY.to_string())
            .replace('\n', " ");
        let (mut bare, mut captured) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for (table, rates) in [("bare", &mut bare), ("item", &mut captured)] {
                let script = folder.path().join("script.sql");
                std::fs::write(&script, format!("{};\n", sql.replace("TABLE", table)))?;
                rates.push(pgbench_rate(pgbench, &url, &script, seconds).await?);
                // Nobody pays for what came before.
                ground.run(&format!("truncate {table}; checkpoint")).await?;
            }
        }
        let (bare, captured) = (median(&mut bare), median(&mut captured));
        found.push(Writers {
            transaction: name,
            bare,
            captured,
            ratio: captured / bare,
        });
    }
    ground.leave().await?;
    Ok(found)
}

async fn pgbench_rate(
    pgbench: &Path,
    url: &str,
    script: &Path,
    seconds: u64,
) -> anyhow::Result<f64> {
    let output = Command::new(pgbench)
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=1"])
        .arg(format!("--client={CLIENTS}"))
        .arg(format!("--time={seconds}"))
        .arg("--file")
        .arg(script)
        .arg(url)
        .output()
        .await
        .with_context(|| format!("{} cannot be started", pgbench.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench: {errors}");
    let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = line.and_then(|line| line.split_whitespace().next());
    rate.context("pgbench told no rate")?
        .parse()
        .context("pgbench's rate is no number")
}
