//! What has to be there before a slot is read: the setting of the server, the publication with its tables,
//! and their replica identity. Made as far as the user may; else it says what to run.

use crds::config::WalSourceConfig;
use sqlx::{AssertSqlSafe, PgPool};

use super::error::IngestError;

/// SQLSTATE `insufficient_privilege`.
const NO_RIGHT: &str = "42501";

/// Prepares the source's database.
pub(crate) async fn prepare(pool: &PgPool, source: &WalSourceConfig) -> Result<(), IngestError> {
    let (level, encoding): (String, String) =
        sqlx::query_as("select current_setting('wal_level'), current_setting('server_encoding')")
            .fetch_one(pool)
            .await
            .map_err(IngestError::Catalog)?;
    if level != "logical" {
        return Err(IngestError::WalLevel(level));
    }
    if encoding == "SQL_ASCII" {
        return Err(IngestError::Encoding);
    }
    publication(pool, source).await?;
    let listed = source.tables.iter().map(|table| table.table.clone());
    for table in without_full_identity(pool, &listed.collect::<Vec<_>>()).await? {
        let sql = format!("alter table {table} replica identity full");
        let what = format!("{table} keeps no whole image of a row before its change");
        // Without it, the image before a change is missing, and no change is lost.
        if let Err(error) = run(pool, &what, &sql).await {
            tracing::warn!("{error}");
        }
    }
    Ok(())
}

async fn publication(pool: &PgPool, source: &WalSourceConfig) -> Result<(), IngestError> {
    let name = &source.publication;
    let found: Option<(bool, bool)> =
        sqlx::query_as("select pubviaroot, puballtables from pg_publication where pubname = $1")
            .bind(name)
            .fetch_optional(pool)
            .await
            .map_err(IngestError::Catalog)?;
    let tables: Vec<String> = source
        .tables
        .iter()
        .map(|table| table.table.clone())
        .collect();
    let listed = quoted(pool, &tables).await?;
    let Some((via_root, all_tables)) = found else {
        let what = format!("there is no publication {name}");
        if listed.is_empty() {
            return Err(IngestError::Rights {
                what,
                reason: "spec.source.wal.tables lists no table to make it for".to_owned(),
                sql: format!(
                    "create publication {name} for table public.orders with (publish_via_partition_root = true)"
                ),
            });
        }
        let tables = listed.join(", ");
        let sql = format!(
            "create publication {name} for table {tables} with (publish_via_partition_root = true)"
        );
        return run(pool, &what, &sql).await;
    };
    if !via_root {
        let what = format!("the publication {name} names partitions, not their roots");
        let sql = format!("alter publication {name} set (publish_via_partition_root = true)");
        run(pool, &what, &sql).await?;
    }
    if all_tables {
        return Ok(());
    }
    for table in missing(pool, name, &tables).await? {
        let what = format!("the publication {name} lacks {table}");
        let sql = format!("alter publication {name} add table {table}");
        run(pool, &what, &sql).await?;
    }
    Ok(())
}

/// Returns the names of tables as SQL; fails with the name of one that is not there.
async fn quoted(pool: &PgPool, tables: &[String]) -> Result<Vec<String>, IngestError> {
    sqlx::query_scalar("select name::regclass::text from unnest($1::text[]) as name")
        .bind(tables)
        .fetch_all(pool)
        .await
        .map_err(IngestError::Catalog)
}

/// Returns those of the tables that are not in the publication, as SQL.
async fn missing(
    pool: &PgPool,
    publication: &str,
    tables: &[String],
) -> Result<Vec<String>, IngestError> {
    sqlx::query_scalar(
        "select name::regclass::text from unnest($2::text[]) as name
         where not exists (
             select from pg_publication_tables p
             join pg_namespace n on n.nspname = p.schemaname
             join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
             where p.pubname = $1 and c.oid = name::regclass
         )",
    )
    .bind(publication)
    .bind(tables)
    .fetch_all(pool)
    .await
    .map_err(IngestError::Catalog)
}

/// Returns those of the tables, with their partitions, whose rows have no whole image before a change.
async fn without_full_identity(
    pool: &PgPool,
    tables: &[String],
) -> Result<Vec<String>, IngestError> {
    sqlx::query_scalar(
        "select c.oid::regclass::text
         from unnest($1::text[]) as name
         cross join lateral (
             select name::regclass as member union select relid from pg_partition_tree(name::regclass)
         ) m
         join pg_class c on c.oid = m.member
         where c.relreplident <> 'f'",
    )
    .bind(tables)
    .fetch_all(pool)
    .await
    .map_err(IngestError::Catalog)
}

/// Returns a table of the publication that triggers log too, if the log is in the same database.
pub(crate) async fn check_not_tracked(
    log: &PgPool,
    source: &WalSourceConfig,
) -> Result<(), IngestError> {
    if !source.is_log_database {
        return Ok(());
    }
    let twice: Option<String> = sqlx::query_scalar(
        "select t.entity from observer.tracked t
         join pg_publication_tables p on p.pubname = $1
         join pg_namespace n on n.nspname = p.schemaname
         join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
         where t.tbl in (c.oid, pg_partition_root(c.oid))
         order by 1 limit 1",
    )
    .bind(&source.publication)
    .fetch_optional(log)
    .await
    .map_err(IngestError::Log)?;
    twice.map_or(Ok(()), |table| Err(IngestError::TrackedTwice(table)))
}

/// Runs a statement that makes what is missing.
pub(crate) async fn run(pool: &PgPool, what: &str, sql: &str) -> Result<(), IngestError> {
    match sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
    {
        Ok(_) => {
            tracing::info!("{what}, and is made: {sql}");
            Ok(())
        }
        Err(sqlx::Error::Database(error))
            if error.code().as_deref() == Some(NO_RIGHT)
                || error.message().contains("must be owner") =>
        {
            Err(IngestError::Rights {
                what: what.to_owned(),
                reason: error.message().to_owned(),
                sql: sql.to_owned(),
            })
        }
        Err(error) => Err(IngestError::Catalog(error)),
    }
}
