//! The server's own log as the source of the change log.

mod backfill;
mod entity_changes;
mod examples;
mod failover;
mod losses;
mod rows;
mod slots;
mod tls;
mod traces;
mod track;

use observer_listener::migrate::migrate;
use sqlx::PgPool;
use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::postgres::PrivateServer;

use crate::support::fleet::{SHORT_LEASE, files};
use crate::support::listener::{Config, Process};
use crate::support::writers::make_untracked_table;
use crate::support::{binaries, eventually};

/// Settings of a server whose log can be decoded.
const LOGICAL: &str = "wal_level = logical\nmax_replication_slots = 20\nmax_wal_senders = 20";

/// A server with the database that is read and the one of the change log.
pub(crate) struct Source {
    server: PrivateServer,
    /// Connections to the database that is read.
    read: PgPool,
    /// Connections to the database of the change log.
    log: PgPool,
    log_name: &'static str,
}

impl Source {
    /// Both are one database.
    async fn together() -> Self {
        let server = PrivateServer::start_with(&binaries(), LOGICAL)
            .await
            .unwrap();
        let log = testkit::database::pool(&server.url("postgres")).await;
        migrate(&log).await.unwrap();
        Self {
            read: log.clone(),
            log,
            log_name: "postgres",
            server,
        }
    }

    /// The log is in a database of its own.
    pub(crate) async fn apart() -> Self {
        let server = PrivateServer::start_with(&binaries(), LOGICAL)
            .await
            .unwrap();
        let read = testkit::database::pool(&server.url("postgres")).await;
        sqlx::query("create database log")
            .execute(&read)
            .await
            .unwrap();
        let log = testkit::database::pool(&server.url("log")).await;
        migrate(&log).await.unwrap();
        Self {
            read,
            log,
            log_name: "log",
            server,
        }
    }

    fn log_url(&self) -> String {
        self.server.url(self.log_name)
    }

    fn read_url(&self) -> String {
        self.server.url("postgres")
    }

    /// The part of a listener's spec that names the source, with these further fields.
    fn spec(&self, more: &str) -> String {
        let url = self.read_url();
        format!(
            "  source:\n    wal:\n      database: {{url: {{value: \"{url}\"}}}}\n      slot: shop\n{more}"
        )
    }

    pub(crate) async fn run(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&self.read)
            .await
            .unwrap();
    }

    async fn value<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).fetch_one(&self.log).await.unwrap()
    }

    /// Waits until the source is read, for what is written from then on.
    pub(crate) async fn is_read(&self) {
        is_read(&self.read).await;
    }

    /// Waits until the change log has so many rows.
    pub(crate) async fn logged(&self, rows: i64) {
        eventually(&format!("{rows} rows are in the change log"), async || {
            let count: i64 = sqlx::query_scalar("select count(*) from observer.change_log")
                .fetch_one(&self.log)
                .await
                .ok()?;
            (count >= rows).then_some(())
        })
        .await;
    }
}

/// Waits until the slot of a server is read. It is active while it is made, too.
async fn is_read(read: &PgPool) {
    eventually("the slot is read", async || {
        let streams = "select 1 from pg_replication_slots s join pg_stat_replication r on r.pid = s.active_pid
                       where s.slot_name = 'shop' and r.state = 'streaming'";
        sqlx::query(streams).fetch_optional(read).await.ok()?
    })
    .await;
}

/// Files of a listener that posts changes of `kv`, which is read from the write-ahead log.
fn counters(source: &Source, spec: &str, sink: &Sink, path: &str) -> Config {
    let tables = source.spec("      tables: [{table: public.kv}]\n");
    files(&source.log_url(), &format!("{spec}{tables}"), sink, path)
}

/// A listener that posts changes of `kv`, at work on a source, with its receiver and its files.
pub(crate) async fn reading(source: Source) -> (Source, Sink, Config, Process) {
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let process = Process::run(&config);
    source.is_read().await;
    (source, sink, config, process)
}

async fn sink() -> Sink {
    Sink::start(Behaviour::Ok).await.unwrap()
}
