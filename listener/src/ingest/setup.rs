//! What has to be there before a slot is read: the setting of the server, the publication with its tables,
//! and their replica identity. Made as far as the user may; else it says what to run.

use crds::config::WalSourceConfig;
use sqlx::{AssertSqlSafe, PgPool};

use super::error::IngestError;
use crate::tracking::step::{Step, StepOutcome};

/// SQLSTATE `insufficient_privilege`.
pub(super) const NO_RIGHT: &str = "42501";

/// How the steps of a publication are named.
pub(super) const PUBLICATION: &str = "publication";

/// How the source's database is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Up to the first statement that the user may not run, and without which nothing can be read.
    UntilRefused,
    /// All that the user may run.
    All,
    /// Not at all: it is only said what would be run.
    DryRun,
}

/// Steps that prepare the source's database.
struct Setup<'p> {
    pool: &'p PgPool,
    mode: Mode,
    steps: Vec<Step>,
}

/// Prepares the source's database. Returns what became of each step.
pub(crate) async fn prepare(
    pool: &PgPool,
    source: &WalSourceConfig,
    mode: Mode,
) -> Result<Vec<Step>, IngestError> {
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
    let mut setup = Setup {
        pool,
        mode,
        steps: Vec::new(),
    };
    publication(&mut setup, source).await?;
    let listed = source.tables.iter().map(|table| table.table.clone());
    for (table, is_full) in identities(pool, &listed.collect::<Vec<_>>()).await? {
        let of = format!("replica identity of {table}");
        if is_full {
            setup.steps.push(Step::new(of, StepOutcome::There));
            continue;
        }
        let sql = format!("alter table {table} replica identity full");
        let what = format!("{table} keeps no whole image of a row before its change");
        // Without it, the image before a change is missing, and no change is lost.
        if let Err(error) = setup.take(of, &what, sql).await {
            tracing::warn!("{error}");
        }
    }
    Ok(setup.steps)
}

impl Setup<'_> {
    /// Runs a statement that makes what is missing, as far as the mode says.
    async fn take(&mut self, of: String, what: &str, sql: String) -> Result<(), IngestError> {
        let outcome = if self.mode == Mode::DryRun {
            StepOutcome::Planned(sql)
        } else if let Err(error) = run(self.pool, what, &sql).await {
            return self.refuse(of, error);
        } else {
            StepOutcome::Done(sql)
        };
        self.steps.push(Step::new(of, outcome));
        Ok(())
    }

    /// Goes on after what the user may not do, if the mode is that.
    fn refuse(&mut self, of: String, error: IngestError) -> Result<(), IngestError> {
        if self.mode == Mode::UntilRefused {
            return Err(error);
        }
        let outcome = StepOutcome::Failed(error.into());
        self.steps.push(Step::new(of, outcome));
        Ok(())
    }
}

async fn publication(setup: &mut Setup<'_>, source: &WalSourceConfig) -> Result<(), IngestError> {
    let (pool, of) = (setup.pool, format!("{PUBLICATION} {}", source.publication));
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
            return setup.refuse(of, IngestError::Rights {
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
        return setup.take(of, &what, sql).await;
    };
    let steps = setup.steps.len();
    if !via_root {
        let what = format!("the publication {name} names partitions, not their roots");
        let sql = format!("alter publication {name} set (publish_via_partition_root = true)");
        setup.take(of.clone(), &what, sql).await?;
    }
    let missing = if all_tables {
        Vec::new()
    } else {
        missing(pool, name, &tables).await?
    };
    for table in missing {
        let what = format!("the publication {name} lacks {table}");
        let sql = format!("alter publication {name} add table {table}");
        setup.take(of.clone(), &what, sql).await?;
    }
    if setup.steps.len() == steps {
        setup.steps.push(Step::new(of, StepOutcome::There));
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
             join pg_publication b on b.pubname = p.pubname
             -- Where partitions are published as such, roots are not listed.
             where p.pubname = $1 and name::regclass
                 in (c.oid, case when not b.pubviaroot then pg_partition_root(c.oid) end)
         )",
    )
    .bind(publication)
    .bind(tables)
    .fetch_all(pool)
    .await
    .map_err(IngestError::Catalog)
}

/// Returns the tables, with their partitions, and whether their rows have a whole image before a change.
async fn identities(pool: &PgPool, tables: &[String]) -> Result<Vec<(String, bool)>, IngestError> {
    sqlx::query_as(
        "select c.oid::regclass::text, c.relreplident = 'f'
         from unnest($1::text[]) as name
         cross join lateral (
             select name::regclass as member union select relid from pg_partition_tree(name::regclass)
         ) m
         join pg_class c on c.oid = m.member
         order by c.relreplident = 'f'",
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
async fn run(pool: &PgPool, what: &str, sql: &str) -> Result<(), IngestError> {
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
