//! The Postgres that all share, one database for each measurement, and the table in it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use testkit::servers::binaries::Binaries;
use testkit::servers::postgres::PrivateServer;

use crate::place::PATIENCE;
use crate::process::{self, until};

/// Name of the database.
const DATABASE: &str = "speed";

/// Most rows of one statement.
const AT_ONCE: u64 = 50_000;

/// A server of the benchmark's own; gone with it.
pub(crate) struct Server {
    server: PrivateServer,
    pid: u32,
}

/// A database with the table that is observed.
pub(crate) struct Ground<'a> {
    server: &'a Server,
    pub(crate) url: String,
    connection: PgConnection,
    /// Lanes of the rows: events of one lane are to be delivered in order.
    pub(crate) lanes: usize,
}

impl Server {
    /// Starts it.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let server = PrivateServer::start(&binaries()).await?;
        let mut admin = PgConnection::connect(&server.url("postgres")).await?;
        // Debezium reads the server's log.
        admin
            .execute("alter system set wal_level = logical")
            .await?;
        admin.close().await?;
        server.stop().await?;
        server.resume().await?;
        let mut admin = PgConnection::connect(&server.url("postgres")).await?;
        // Its file is read by the server, as its folder is nobody else's.
        let sql = "select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
        let pid: i32 = sqlx::query_scalar(sql).fetch_one(&mut admin).await?;
        admin.close().await?;
        Ok(Self {
            server,
            pid: u32::try_from(pid)?,
        })
    }

    /// Whether commits wait for the disk, as they do by default.
    pub(crate) async fn sync(&self, fsync: bool) -> anyhow::Result<()> {
        let mut admin = PgConnection::connect(&self.url("postgres")).await?;
        for setting in ["fsync", "full_page_writes"] {
            let sql = format!("alter system set {setting} = {fsync}");
            admin.execute(AssertSqlSafe(sql)).await?;
        }
        admin.execute("select pg_reload_conf()").await?;
        until("the server syncs as it is told", PATIENCE, async || {
            let sql = "select current_setting('fsync')::boolean";
            let now: bool = sqlx::query_scalar(sql).fetch_one(&mut admin).await?;
            Ok(now == fsync)
        })
        .await?;
        Ok(admin.close().await?)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    /// Which Postgres it is.
    pub(crate) async fn version(&self) -> anyhow::Result<String> {
        let mut admin = PgConnection::connect(&self.url("postgres")).await?;
        let version = sqlx::query_scalar("show server_version")
            .fetch_one(&mut admin)
            .await?;
        admin.close().await?;
        Ok(version)
    }

    /// Seconds of CPU time of all its processes so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        process::cpu(self.pid)
    }

    /// Lets it have only the time that nobody else wants, as if it were on another machine.
    pub(crate) async fn yields(&self) -> anyhow::Result<()> {
        let mut chrt = tokio::process::Command::new("chrt");
        chrt.args(["--all-tasks", "--idle", "--pid", "0", &self.pid.to_string()]);
        let status = chrt.status().await.context("chrt cannot be started")?;
        anyhow::ensure!(status.success(), "chrt: {status}");
        Ok(())
    }
}

/// As the tests choose it: `OBSERVER_TEST_POSTGRES` names a folder with another version's programs.
fn binaries() -> Binaries {
    std::env::var_os("OBSERVER_TEST_POSTGRES").map_or(Binaries::Download, |folder| {
        Binaries::Installed(PathBuf::from(folder))
    })
}

impl<'a> Ground<'a> {
    /// A new database in the place of the last one.
    pub(crate) async fn new(server: &'a Server, lanes: usize) -> anyhow::Result<Self> {
        let mut admin = PgConnection::connect(&server.url("postgres")).await?;
        let drop = format!("drop database if exists {DATABASE} with (force)");
        admin.execute(AssertSqlSafe(drop)).await?;
        let create = format!("create database {DATABASE}");
        admin.execute(AssertSqlSafe(create)).await?;
        // Nobody pays for what came before.
        admin.execute("checkpoint").await?;
        admin.close().await?;
        let url = server.url(DATABASE);
        let mut connection = PgConnection::connect(&url).await?;
        connection
            .execute(
                "create table item (
                     id uuid primary key default gen_random_uuid(),
                     bench_id bigint not null, lane int not null, note text not null)",
            )
            .await?;
        Ok(Self {
            server,
            url,
            connection,
            lanes,
        })
    }

    pub(crate) async fn run(&mut self, sql: &str) -> anyhow::Result<()> {
        self.connection
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .with_context(|| format!("in: {sql}"))?;
        Ok(())
    }

    /// Whether a query answers with true.
    pub(crate) async fn holds(&mut self, sql: &str) -> anyhow::Result<bool> {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        Ok(query.fetch_one(&mut self.connection).await?)
    }

    /// Waits until a query answers with true.
    pub(crate) async fn until(&mut self, sql: &str, limit: Duration) -> anyhow::Result<()> {
        until(sql, limit, async || self.holds(sql).await).await
    }

    /// Adds the rows with these numbers.
    pub(crate) async fn fill(&mut self, from: u64, to: u64, bytes: usize) -> anyhow::Result<()> {
        let mut next = from;
        while next < to {
            let end = to.min(next + AT_ONCE);
            let insert = format!(
                "insert into item (bench_id, lane, note)
                 select n, n % {}, repeat('x', {bytes}) from generate_series({next}, {end} - 1) n",
                self.lanes
            );
            self.run(&insert).await?;
            next = end;
        }
        Ok(())
    }

    /// Where the server's log is, in bytes.
    pub(crate) async fn wal(&mut self) -> anyhow::Result<f64> {
        let sql = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
        Ok(sqlx::query_scalar(sql)
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// MB that a table takes on disk, with its indexes.
    pub(crate) async fn megabytes(&mut self, table: &str) -> anyhow::Result<f64> {
        let sql = "select pg_total_relation_size($1::regclass)::float8 / 1e6";
        let query = sqlx::query_scalar(sql).bind(table);
        Ok(query.fetch_one(&mut self.connection).await?)
    }

    /// Seconds of CPU time of the server so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        self.server.cpu()
    }

    /// A replication slot would keep the database from being dropped.
    pub(crate) async fn leave(mut self) -> anyhow::Result<()> {
        let limit = Duration::from_secs(30);
        self.until(
            "select not exists (select from pg_replication_slots where active)",
            limit,
        )
        .await?;
        self.run("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
            .await?;
        Ok(self.connection.close().await?)
    }
}
