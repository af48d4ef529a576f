//! A Postgres in a scenario's namespace, migrated as users do it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row};

use super::reach::Way;
use super::room::Room;
use super::wait::{self, until};
use super::{POSTGRES_IMAGE, REPOSITORY, image, repository, resources};

/// Name of its pod and its Service.
pub(crate) const NAME: &str = "postgres";

const PORT: u16 = 5432;

/// Keys that writers change.
pub(crate) const KEYS: i64 = 200;

/// A Postgres.
pub(crate) struct Database {
    /// Connections to it.
    pub(crate) pool: PgPool,
    /// Its URL in the cluster.
    pub(crate) url: String,
    /// Its URL on this machine.
    pub(crate) url_here: String,
    way: Way,
}

impl Database {
    /// Starts it, with a Secret `db` that holds its URL.
    pub(crate) async fn start(room: &Room) -> Result<Self> {
        let container = json!({
            "name": NAME,
            "image": POSTGRES_IMAGE,
            "ports": [{"containerPort": PORT}],
            "env": [{"name": "POSTGRES_PASSWORD", "value": "postgres"}],
            "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql"}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        });
        let volumes = json!([{"name": "data", "emptyDir": {}}]);
        room.apply::<Pod>(&resources::pod(NAME, &container, &volumes))
            .await?;
        room.apply::<Service>(&resources::service(NAME, PORT))
            .await?;
        let host = format!("{NAME}.{}.svc.cluster.local:{PORT}", room.namespace);
        let url = format!("postgres://postgres:postgres@{host}/postgres");
        room.secret("db", json!({"url": url})).await?;
        room.pod_ready(NAME).await?;
        let way = Way::to(room, NAME, PORT).await?;
        let url_here = format!(
            "postgres://postgres:postgres@{}/postgres?sslmode=disable",
            way.at
        );
        let (pool, _) = until("Postgres answers", wait::LATE, async || {
            let pool = PgPoolOptions::new()
                .max_connections(10)
                .acquire_timeout(Duration::from_secs(10))
                .connect(&url_here)
                .await?;
            Ok(pool)
        })
        .await?;
        Ok(Self {
            pool,
            url,
            url_here,
            way,
        })
    }

    /// Makes the schema by the Job of the documentation, and a tracked table of counters.
    pub(crate) async fn migrate(&self, room: &Room) -> Result<()> {
        let job = migration()?.replace("shop-db", "db");
        room.cluster
            .kubectl_with(
                &["apply", "--namespace", &room.namespace, "--filename", "-"],
                &job,
            )
            .await?;
        until("the migration's Job is done", wait::LATE, async || {
            let job = room.api::<Job>().get("observer-migrate").await?;
            let status = job.status.context("no status")?;
            ensure!(status.succeeded == Some(1), "its status: {status:?}");
            Ok(())
        })
        .await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "create table kv (k bigint primary key, v bigint not null);
             insert into kv select k, 0 from generate_series(1, {KEYS}) k;
             select observer.track('kv');"
        )))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Whether it is reached without the API server.
    pub(crate) fn is_straight(&self) -> bool {
        self.way.is_straight()
    }

    /// How often each key was changed.
    pub(crate) async fn committed(&self) -> Result<BTreeMap<String, i64>> {
        let rows = sqlx::query("select k::text, v from kv")
            .fetch_all(&self.pool)
            .await?;
        Ok(rows
            .iter()
            .map(|row| (row.get::<String, _>(0), row.get::<i64, _>(1)))
            .collect())
    }

    /// What the schema `observer` holds of a key's change, as JSON: in the log, among jobs and dead
    /// letters, and how far the shards are.
    pub(crate) async fn traces(&self, key: &str, change: i64) -> Result<String> {
        let traces = "
            with logged as (
                select partition_no, id, xid, hash, occurred_at, entity from observer.change_log
                where key = $1 and (new->>'v')::bigint = $2
            )
            select json_build_object(
                'log', (select json_agg(l) from logged l),
                'jobs', (
                    select json_agg(j) from (
                        select partition_no, id, state, worker, claim_generation, scheduled_at, attempts, enqueued_at, cancelled::text, history
                        from observer.job j where j.hash in (select l.hash from logged l) order by id limit 5
                    ) j
                ),
                'workers', (select json_agg(w) from observer.job_worker w),
                'partitions of jobs', (select json_agg(h) from observer.job_partition_state h),
                'dead letters', (
                    select json_agg(d) from (
                        select id, event_id, error_kind, error, created_at from observer.dead_letter d
                        where d.log_id in (select l.id from logged l)
                    ) d
                ),
                'checkpoints', (
                    select json_agg(c) from (
                        select shard, shards, epoch, holder, claimed_at, saved_at, base_low_id, base_snapshot::text,
                               base_high_id, window_low_id, window_snapshot::text, window_high_id, last_id, completed_ids,
                               partially_completed
                        from observer.checkpoint c
                        where shard in (select l.hash % c.shards from logged l) or not exists (select from logged)
                    ) c
                ),
                'now', clock_timestamp()
            )::text";
        Ok(sqlx::query_scalar(traces)
            .bind(key)
            .bind(change)
            .fetch_one(&self.pool)
            .await?)
    }

    /// Rows that a listener has in the schema `observer`.
    pub(crate) async fn rows_of(&self, listener: &str) -> Result<i64> {
        let count = "select (select count(*) from observer.checkpoint where listener = $1)
            + (select count(*) from observer.dead_letter where listener = $1)";
        Ok(sqlx::query_scalar(count)
            .bind(listener)
            .fetch_one(&self.pool)
            .await?)
    }
}

/// The Job of the documentation, with the image under test.
pub(crate) fn migration() -> Result<String> {
    let text = std::fs::read_to_string(repository("docs/examples/migrate.yaml"))?;
    let begin = format!("image: {REPOSITORY}");
    let lines: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(&begin) {
            Some((indent, _)) => format!("{indent}image: {}", image()),
            None => line.to_owned(),
        })
        .collect();
    Ok(lines.join("\n"))
}
