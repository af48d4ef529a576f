//! What capture costs those who write, by pgbench: the same transactions with and without it, in
//! turn, on one server.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use crate::figures::median;
use crate::ground::{Ground, Server};
use crate::place::{self, Place, Setting};
use crate::subject::{Programs, START, Subject};

/// Clients that write.
const CLIENTS: u32 = 8;

/// Rows of the statement with many.
const MANY: u32 = 1000;

/// A scale at which clients do not wait for each other's branch.
const SCALE: &str = "--scale=50";

/// Tables of pgbench's own transaction that have a key.
const KEYED: [&str; 3] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches"];

/// Transactions a second, without capture and with it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Writers {
    /// What each transaction does.
    pub(crate) transaction: &'static str,
    /// Whether each commit waited for the disk.
    pub(crate) fsync: bool,
    pub(crate) bare: f64,
    pub(crate) captured: f64,
    pub(crate) ratio: f64,
}

/// Where and how long pgbench runs.
struct Bench<'a> {
    program: &'a Path,
    url: String,
    folder: TempDir,
    fsync: bool,
    seconds: u64,
    rounds: usize,
}

/// Measures each kind of transaction for so many seconds, in so many turns.
pub(crate) async fn measure(
    place::Bench { server, programs }: place::Bench<'_>,
    pgbench: &Path,
    setting: &Setting,
    fsync: bool,
    seconds: u64,
    rounds: usize,
) -> anyhow::Result<Vec<Writers>> {
    let mut ground = Ground::new(server, setting.lanes).await?;
    Subject::Observers.prepare(&mut ground, programs).await?;
    ground
        .run("create table bare (like item including all)")
        .await?;
    let bench = Bench {
        program: pgbench,
        url: ground.url.clone(),
        folder: TempDir::with_prefix("speed-")?,
        fsync,
        seconds,
        rounds,
    };
    let bytes = setting.bytes;
    let single = format!(
        "insert into TABLE (bench_id, lane, note) values (1, :client_id, repeat('x', {bytes}));"
    );
    let many = format!(
        "insert into TABLE (bench_id, lane, note)
         select n, n % 1000, repeat('x', {bytes}) from generate_series(1, {MANY}) n;"
    )
    .replace('\n', " ");
    let found = vec![
        bench.inserts(&mut ground, "one row", &single).await?,
        bench
            .inserts(
                &mut ground,
                "one row, between begin and commit",
                &format!("begin;\n{single}\ncommit;"),
            )
            .await?,
        bench.own(&mut ground).await?,
        bench.inserts(&mut ground, "1,000 rows", &many).await?,
    ];
    ground.leave().await?;
    let mut found = found;
    let here = [
        ("one row, from the server's own log", &single),
        ("1,000 rows, from the server's own log", &many),
    ];
    for what in here {
        found.push(by_wal(&bench, (server, programs), setting, what).await?);
    }
    let log = Server::start().await?;
    log.yields().await?;
    Subject::ObserversWal.migrate_log(&log, programs).await?;
    let mut setting = setting.clone();
    setting.more.log_url = Some(log.url("postgres"));
    let there = [
        (
            "one row, from the server's own log into one elsewhere",
            &single,
        ),
        (
            "1,000 rows, from the server's own log into one elsewhere",
            &many,
        ),
    ];
    for what in there {
        found.push(by_wal(&bench, (server, programs), &setting, what).await?);
    }
    Ok(found)
}

/// A script that writes while nothing reads the server's log, and while our listener reads it into the change log
/// and delivers nothing.
async fn by_wal(
    bench: &Bench<'_>,
    (server, programs): (&Server, &Programs),
    setting: &Setting,
    (transaction, script): (&'static str, &String),
) -> anyhow::Result<Writers> {
    let mut setting = setting.clone();
    "  when: new.bench_id == -1\n".clone_into(&mut setting.more.observer);
    let place = place::Bench { server, programs };
    let mut place = Place::new(place, Subject::ObserversWal, &setting, 1).await?;
    let (mut bare, mut captured) = (Vec::new(), Vec::new());
    let file = bench.folder.path().join("script.sql");
    std::fs::write(&file, script.replace("TABLE", "item"))?;
    let file = format!("--file={}", file.display());
    for _ in 0..bench.rounds {
        bare.push(bench.rate(&file).await?);
        place.ground.run("truncate item; checkpoint").await?;
        let process = place.start()?;
        let slot = "select exists (select from pg_replication_slots where active)";
        let there = place.ground.until(slot, START).await;
        there.with_context(|| process.said())?;
        captured.push(bench.rate(&file).await?);
        process.kill().await?;
        let free = "select not exists (select from pg_replication_slots where active)";
        place.ground.until(free, START).await?;
        // What was not read by then is nobody's any more.
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots";
        place.ground.run(drop).await?;
        let log_url = setting.more.log_url.as_ref().unwrap_or(&place.ground.url);
        let mut log = PgConnection::connect(log_url).await?;
        log.execute("delete from observer.source; truncate observer.change_log")
            .await?;
        log.close().await?;
        place.ground.run("truncate item; checkpoint").await?;
    }
    place.ground.leave().await?;
    Ok(bench.of(transaction, &mut bare, &mut captured))
}

impl Bench<'_> {
    /// A script that writes to a table which is captured, and to one like it which is not.
    async fn inserts(
        &self,
        ground: &mut Ground<'_>,
        transaction: &'static str,
        script: &str,
    ) -> anyhow::Result<Writers> {
        let (mut bare, mut captured) = (Vec::new(), Vec::new());
        let file = self.folder.path().join("script.sql");
        for _ in 0..self.rounds {
            for (table, rates) in [("bare", &mut bare), ("item", &mut captured)] {
                std::fs::write(&file, script.replace("TABLE", table))?;
                let file = format!("--file={}", file.display());
                rates.push(self.rate(&file).await?);
                // Nobody pays for what came before.
                ground.run(&format!("truncate {table}; checkpoint")).await?;
            }
        }
        Ok(self.of(transaction, &mut bare, &mut captured))
    }

    /// pgbench's own transaction, without capture and with it.
    async fn own(&self, ground: &mut Ground<'_>) -> anyhow::Result<Writers> {
        let (mut bare, mut captured) = (Vec::new(), Vec::new());
        self.run(&["--initialize", "--quiet", SCALE]).await?;
        for _ in 0..self.rounds {
            for (function, rates) in [("untrack", &mut bare), ("track", &mut captured)] {
                for table in KEYED {
                    ground
                        .run(&format!("select observer.{function}('{table}')"))
                        .await?;
                }
                rates.push(self.rate("--builtin=tpcb-like").await?);
                ground.run("checkpoint").await?;
            }
        }
        let transaction = "pgbench's own: 3 updates that are captured, 1 select, 1 insert";
        Ok(self.of(transaction, &mut bare, &mut captured))
    }

    async fn rate(&self, what: &str) -> anyhow::Result<f64> {
        let clients = format!("--client={CLIENTS}");
        let time = format!("--time={}", self.seconds);
        let protocol = "--protocol=prepared";
        let text = self
            .run(&["--no-vacuum", protocol, "--jobs=1", &clients, &time, what])
            .await?;
        let line = text.lines().find_map(|line| line.strip_prefix("tps = "));
        let rate = line.and_then(|line| line.split_whitespace().next());
        rate.context("pgbench told no rate")?
            .parse()
            .context("pgbench's rate is no number")
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(self.program)
            .args(arguments)
            .arg(&self.url)
            .output()
            .await
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbench: {errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn of(&self, transaction: &'static str, bare: &mut [f64], captured: &mut [f64]) -> Writers {
        let (bare, captured) = (median(bare), median(captured));
        Writers {
            transaction,
            fsync: self.fsync,
            bare,
            captured,
            ratio: captured / bare,
        }
    }
}
