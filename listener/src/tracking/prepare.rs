//! Tracks the tables that the resource lists, as it lists them.
//!
//! A table whose triggers say what is listed is left alone, as another call of `observer.track` would lock it.
//! Several processes may do the same at once: the calls wait for each other, and come to the same.

use std::collections::BTreeMap;
use std::time::Duration;

use ::queue::sql_transaction;
use crds::config::{SourceTableConfig, TableContents};
use crds::pod_status::{TABLE_MISSING, TABLE_NOT_TRACKED};
use serde_json::{Value, json};
use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::Instant;

use super::step::{Step, StepFailure, StepOutcome};
use super::tables::NAMED;

/// How long a table's lock is waited for. Writers that come meanwhile wait too.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '2s'";

/// Pause after a call that failed, for the writers of the table, as it may have waited for its lock.
const PAUSE: Duration = Duration::from_secs(15);

/// How long one round goes on with further tables.
const ROUND: Duration = Duration::from_secs(8);

/// SQLSTATE `insufficient_privilege`.
const NO_RIGHT: &str = "42501";

/// SQLSTATE `lock_not_available`.
const LOCKED: &str = "55P03";

/// Classes of SQLSTATE of what `observer.track` refuses: wrong names and values.
const REFUSED: [&str; 2] = ["42", "22"];

/// Of each table that is listed: whether it is there and tracked so, the call that tracks it so, and why this
/// user may not make it. An option is named if it is listed, or is set and should not be.
const LOOK: &str = "
    listed as (
        select * from jsonb_to_recordset($1::jsonb) as l
            (n int, entity text, is_log boolean, key text[], tenant text, exclude text[])
    ), members as (
        select l.n, n.oid as root, m.oid, o.options, o.triggers
        from listed l join named n on n.entity = l.entity
        cross join lateral (select n.oid union select relid from pg_partition_tree(n.oid)) as m (oid)
        cross join lateral (
            select observer.options_of(m.oid), (
                select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                where t.tgrelid = m.oid and p.pronamespace = 'observer'::regnamespace
                    and t.tgname in ('observer_insert', 'observer_update', 'observer_delete', 'observer_truncate'))
        ) as o (options, triggers)
    ), found as (
        select l.*, n.oid, quote_literal(n.oid::regclass::text) as name, observer.options_of(n.oid) as before,
            coalesce(nullif(l.key, '{}'), observer.primary_key(n.oid)) as wanted,
            exists (
                select from pg_trigger t
                where t.tgrelid = n.oid and t.tgfoid = 'observer.log_entity_changes()'::regprocedure
            ) as logs_entities,
            exists (select from members m where m.n = l.n and m.options is not null) as logs_rows
        from listed l left join named n on n.entity = l.entity
    ), judged as (
        select f.*, case when f.is_log then f.logs_rows else f.logs_entities end as is_other,
            case when f.is_log then f.logs_entities else not exists (
                select from members m
                where m.n = f.n and (
                    m.triggers < 4 or m.options is null
                    or (m.options ->> 'key')::text[] is distinct from f.wanted
                    or m.options ->> 'tenant' is distinct from f.tenant
                    or not (coalesce((m.options ->> 'exclude')::text[], '{}') @> f.exclude)
                    or not (coalesce((m.options ->> 'exclude')::text[], '{}') <@ f.exclude))
            ) end as is_so
        from found f
    )
    select n, entity, oid is not null as exists, is_so and not is_other as is_tracked,
        concat(
            case when is_other then format('select observer.untrack(%s); ', name) end,
            'select observer.track', case when is_log then '_entity_changes' end, '(', name,
            case when key <> '{}' or before is not null and (before ->> 'key')::text[] is distinct from wanted
                then format(', key => %L', key) end,
            case when tenant is not null or before ->> 'tenant' is not null
                then format(', tenant => %L', coalesce(tenant, '')) end,
            case when exclude <> '{}' or before ->> 'exclude' is not null
                then format(', exclude => %L', exclude) end,
            ')') as sql,
        case
            when (
                select bool_or(not has_function_privilege(needed, 'execute'))
                from unnest(case when is_log
                    then array['observer.track_entity_changes(regclass)', 'observer.log_entity_changes()']
                    else array['observer.track(regclass, text[], text, text[])', 'observer.log_rows()',
                        'observer.log_update()', 'observer.log_truncate()'] end) as needed
            ) then format('%I may not call observer.track', current_user)
            when exists (
                select from members m where m.n = judged.n and not has_table_privilege(m.oid, 'trigger')
            ) then format('%I has no privilege TRIGGER on it', current_user)
            when is_other and not pg_has_role((select relowner from pg_class c where c.oid = judged.oid), 'usage')
                then format('%I does not own it, and its contents are others now', current_user)
        end as refusal
    from judged order by n";

/// What was found of a table.
#[derive(Debug, sqlx::FromRow)]
struct Found {
    n: i32,
    entity: String,
    exists: bool,
    is_tracked: bool,
    sql: String,
    refusal: Option<String>,
}

/// Looks at the tables that are listed, or tracks them as they are listed. Returns a step for each, in their
/// order.
pub async fn track(
    pool: &PgPool,
    listed: &[SourceTableConfig],
    dry_run: bool,
) -> Result<Vec<Step>, sqlx::Error> {
    let mut steps = Vec::new();
    for found in look(pool, listed).await? {
        let outcome = match found.without_a_call() {
            Some(outcome) => outcome,
            None if dry_run => StepOutcome::Planned(found.sql),
            None => call(pool, &found).await?,
        };
        steps.push(Step::new(found.entity, outcome));
    }
    Ok(steps)
}

/// Keeps tables tracked, in one round after another.
#[derive(Debug, Default)]
pub(crate) struct Preparer {
    listed: Vec<SourceTableConfig>,
    /// Failed calls, and when they are tried again.
    paused: BTreeMap<i32, (Instant, StepFailure)>,
}

impl Preparer {
    /// For these tables.
    pub(crate) const fn new(listed: Vec<SourceTableConfig>) -> Self {
        let paused = BTreeMap::new();
        Self { listed, paused }
    }

    /// Tracks what is not tracked as it is listed. Returns a step for each table.
    pub(crate) async fn round(&mut self, pool: &PgPool) -> Result<Vec<Step>, sqlx::Error> {
        let (begun, mut steps) = (Instant::now(), Vec::new());
        for found in look(pool, &self.listed).await? {
            let outcome = match found.without_a_call() {
                Some(outcome) => outcome,
                None if let Some(failure) = self.paused_by(found.n) => StepOutcome::Failed(failure),
                None if begun.elapsed() > ROUND => {
                    StepOutcome::Failed(found.not_yet("other tables come first"))
                }
                None => {
                    // Set before, as a round may be cut short.
                    let again = Instant::now() + PAUSE;
                    self.paused.insert(found.n, (again, found.locked()));
                    let outcome = call(pool, &found).await?;
                    if let StepOutcome::Failed(failure) = &outcome {
                        self.paused.insert(found.n, (again, failure.clone()));
                    } else {
                        self.paused.remove(&found.n);
                    }
                    outcome
                }
            };
            steps.push(Step::new(found.entity, outcome));
        }
        Ok(steps)
    }

    fn paused_by(&self, n: i32) -> Option<StepFailure> {
        let (until, failure) = self.paused.get(&n)?;
        (Instant::now() < *until).then(|| failure.clone())
    }
}

impl Found {
    /// Returns what is to be said of it, if nothing can be done or has to be.
    fn without_a_call(&self) -> Option<StepOutcome> {
        if !self.exists {
            return Some(StepOutcome::Failed(StepFailure {
                reason: TABLE_MISSING,
                why: format!(
                    "there is no table {}; it is tracked once it is there",
                    self.entity
                ),
                sql: None,
            }));
        }
        if self.is_tracked {
            return Some(StepOutcome::There);
        }
        let refusal = self.refusal.as_deref()?;
        Some(StepOutcome::Failed(self.refused(refusal)))
    }

    fn refused(&self, why: &str) -> StepFailure {
        StepFailure {
            reason: TABLE_NOT_TRACKED,
            why: format!("{} is not tracked as it is listed, as {why}", self.entity),
            sql: Some(self.sql.clone()),
        }
    }

    fn locked(&self) -> StepFailure {
        self.not_yet("a transaction that writes to it is open")
    }

    /// What passes by itself.
    fn not_yet(&self, why: &str) -> StepFailure {
        StepFailure {
            reason: TABLE_NOT_TRACKED,
            why: format!(
                "{} is not tracked as it is listed yet, as {why}",
                self.entity
            ),
            sql: None,
        }
    }
}

async fn look(pool: &PgPool, listed: &[SourceTableConfig]) -> Result<Vec<Found>, sqlx::Error> {
    if listed.is_empty() {
        return Ok(Vec::new());
    }
    let listed = listed.iter().enumerate().map(|(n, table)| {
        json!({
            "n": n,
            "entity": table.table,
            "is_log": table.contents == TableContents::EntityChanges,
            "key": table.key,
            "tenant": table.tenant,
            "exclude": table.exclude,
        })
    });
    let sql = format!("with named as ({NAMED}), {LOOK}");
    sqlx::query_as(AssertSqlSafe(sql))
        .bind(listed.collect::<Value>().to_string())
        .fetch_all(pool)
        .await
}

/// Tracks a table as it is listed. An error passes by itself.
async fn call(pool: &PgPool, found: &Found) -> Result<StepOutcome, sqlx::Error> {
    let called = async {
        let mut tx = sql_transaction::begin(pool).await?;
        sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
        sqlx::raw_sql(AssertSqlSafe(found.sql.clone()))
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    };
    let Err(error) = called.await else {
        tracing::info!(
            table = found.entity,
            "tracked as it is listed: {}",
            found.sql
        );
        return Ok(StepOutcome::Done(found.sql.clone()));
    };
    let refusal = error.as_database_error();
    let code = refusal.and_then(DatabaseError::code).unwrap_or_default();
    let message = refusal.map(DatabaseError::message).unwrap_or_default();
    if code == LOCKED {
        return Ok(StepOutcome::Failed(found.locked()));
    }
    if code == NO_RIGHT {
        return Ok(StepOutcome::Failed(found.refused(message)));
    }
    if !REFUSED.iter().any(|class| code.starts_with(class)) {
        return Err(error);
    }
    let refusal = refusal.and_then(|one| one.try_downcast_ref::<PgDatabaseError>());
    let hint = refusal.and_then(PgDatabaseError::hint);
    let hint = hint.map_or_else(String::new, |hint| format!(". {hint}"));
    let mut failure = found.refused(&format!("{message}{hint}"));
    // It would fail for others too.
    failure.sql = None;
    Ok(StepOutcome::Failed(failure))
}
