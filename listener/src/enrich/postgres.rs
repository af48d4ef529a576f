//! Lookups in Postgres: a query in a read-only transaction.
//!
//! Lookups of one kind that come while others are under way share a transaction and a query: the query
//! is joined laterally to a table of their parameters, so that each costs no round trip of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ::queue::sql_transaction;
use crds::config::{BatchConfig, PostgresConfig};
use futures::future::{BoxFuture, join};
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::lookup::{LookupRequest, LookupResult, LookupSource, MAX_RESULT, PreparedLookup};
use crate::actions::Preview;
use crate::actions::batcher::Batcher;
use crate::actions::postgres::server::{Connections, PostgresServer};
use crate::actions::postgres::{self, statement};
use crate::actions::template_source::{TemplateSource, TemplateSources};
use crate::admission::action_runtime::ActionRuntime;
use crate::cache::key::CacheKeyBuilder;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::egress::redaction::Secrets;
use crate::egress::response::DeliveryError;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::template::Template;

/// Lookups that share a query.
const BATCH: BatchConfig = BatchConfig {
    max_events: 128,
    max_bytes: 1 << 20,
    linger: Duration::ZERO,
};

/// Most queries of one lookup under way at once.
const MAX_QUERIES: u32 = 4;

/// Table of the parameters, and prefix of its columns, in the query.
const INPUT: &str = "observer_lookup_input";

/// Parameters of one lookup, in their order.
type Parameters = Vec<Option<String>>;

/// Result of one lookup of a query, or why the query failed.
type Answer = Result<LookupResult, DeliveryError>;

/// Compiled query.
pub(super) struct PostgresLookup {
    parameters: Vec<Template>,
    statement: String,
    query: Arc<Query>,
    batcher: Batcher<Parameters, Answer>,
}

/// What lookups that share a query run.
struct Query {
    server: PostgresServer,
    sql: String,
    begin: String,
    parameters: usize,
}

pub(super) fn templates(config: &PostgresConfig) -> Vec<TemplateSource<'_>> {
    TemplateSources::default()
        .texts("postgres.parameters", &config.parameters)
        .into_vec()
}

pub(super) fn secrets(config: &PostgresConfig) -> Secrets {
    let mut secrets = Secrets::default();
    if let Some(url) = &config.url {
        secrets.url(url);
    }
    secrets
}

impl PostgresLookup {
    pub(super) fn compile(
        config: &PostgresConfig,
        timeout: Duration,
    ) -> Result<Self, CompileError> {
        if let Some(wrong) = statement::wrong(&config.statement, config.parameters.len()) {
            return Err(CompileError::field("postgres.statement", wrong));
        }
        let millis = timeout.as_millis().max(1);
        let query = Query {
            server: PostgresServer::compile(config)?,
            sql: for_several(&config.statement, config.parameters.len()),
            begin: format!("begin read only; set local statement_timeout = {millis}"),
            parameters: config.parameters.len(),
        };
        Ok(Self {
            parameters: postgres::parameters(config)?,
            statement: config.statement.clone(),
            query: Arc::new(query),
            batcher: Batcher::new(BATCH, MAX_QUERIES),
        })
    }

    fn rendered(&self, delivery: &Delivery) -> Result<Parameters, Failure> {
        postgres::render_parameters(&self.parameters, &RenderInput::new(delivery))
    }
}

/// Returns the query for several lookups: with `n`, one row for each row of the statement, and at most two
/// for each lookup.
fn for_several(statement: &str, parameters: usize) -> String {
    let mut input = "$1::int4[]".to_owned();
    let mut columns = "n".to_owned();
    for n in 1..=parameters {
        let _ = write!(input, ", ${}::text[]", n + 1);
        let _ = write!(columns, ", parameter_{n}");
    }
    let own = statement::with_parameters(statement.trim_end().trim_end_matches(';'), |n| {
        format!("{INPUT}.parameter_{n}")
    });
    format!(
        "select n, octet_length(result) as length, case when octet_length(result) <= {MAX_RESULT} then result end as \
         result\n\
         from unnest({input}) as {INPUT}({columns})\n\
         cross join lateral (select row_to_json(own)::text as result from (\n{own}\n) as own limit 2) as found"
    )
}

impl Query {
    /// Runs the query for some lookups, and returns the result of each.
    async fn run(
        &self,
        runtime: &ActionRuntime,
        items: &[Arc<Parameters>],
    ) -> Result<Vec<Answer>, DeliveryError> {
        let work = async |by: Connections| self.rows(&by, items).await;
        let rows = match self.server.run(runtime, &work).await {
            Ok(rows) => rows,
            Err(error) if error.is_read_only() => {
                let message = "a lookup must not write: its transaction is read-only".to_owned();
                return Err(DeliveryError::Permanent(message, None));
            }
            Err(error) => return Err(error.into()),
        };
        let mut found: BTreeMap<usize, Answer> = BTreeMap::new();
        for row in rows {
            let n: i32 = row.try_get("n").map_err(|error| unreadable(&error))?;
            let answer = answer(&row);
            let several = || {
                let message = "the query returned several rows: add a condition, `limit 1`, or an aggregate such as \
                               json_agg";
                Err(DeliveryError::Permanent(message.to_owned(), None))
            };
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            let answer = if found.contains_key(&n) {
                several()
            } else {
                answer
            };
            found.insert(n, answer);
        }
        let results = (0..items.len()).map(|n| found.remove(&n).unwrap_or(Ok(None)));
        Ok(results.collect())
    }

    async fn rows(
        &self,
        by: &Connections,
        items: &[Arc<Parameters>],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut tx = sql_transaction::begin_with(&by.pool, self.begin.clone()).await?;
        let numbers = 0..i32::try_from(items.len()).unwrap_or(i32::MAX);
        // Without a name, so that it is parsed each time, as a pooler needs it.
        let mut query = sqlx::query(AssertSqlSafe(self.sql.clone()))
            .persistent(false)
            .bind(numbers.collect::<Vec<i32>>());
        for n in 0..self.parameters {
            let column = items.iter().map(|item| item.get(n).cloned().flatten());
            query = query.bind(column.collect::<Vec<Option<String>>>());
        }
        let rows = query.fetch_all(&mut *tx).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

/// Returns the result in a row.
fn answer(row: &PgRow) -> Answer {
    let text: Option<String> = row.try_get("result").map_err(|error| unreadable(&error))?;
    let Some(text) = text else {
        let length: Option<i32> = row.try_get("length").map_err(|error| unreadable(&error))?;
        let message = format!(
            "the row has {} KiB, and {} KiB are allowed: select only the columns that are used",
            length.unwrap_or(0) >> 10,
            MAX_RESULT >> 10
        );
        return Err(DeliveryError::Permanent(message, None));
    };
    let result = RawValue::from_string(text).map_err(|error| {
        DeliveryError::Permanent(format!("the row is not valid JSON: {error}"), None)
    })?;
    Ok(Some(Arc::from(result)))
}

fn unreadable(error: &sqlx::Error) -> DeliveryError {
    DeliveryError::Permanent(format!("the row cannot be read: {error}"), None)
}

impl LookupSource for PostgresLookup {
    fn endpoint(&self) -> (&str, &str) {
        self.query.server.endpoint()
    }

    fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        let parameters = self.rendered(delivery)?;
        Ok(postgres::preview(
            &self.query.server,
            &self.statement,
            parameters,
        ))
    }

    fn look_up<'a>(&'a self, request: LookupRequest<'a>) -> Result<PreparedLookup<'a>, Failure> {
        let parameters = self.rendered(request.delivery)?;
        let key = CacheKeyBuilder::empty().part(self.endpoint().0.as_bytes());
        let values = parameters
            .iter()
            .map(|one| one.as_deref().map(str::as_bytes));
        let digest = values.fold(key, CacheKeyBuilder::optional).digest();
        let bytes = parameters.iter().flatten().map(String::len).sum();
        let (query, runtime) = (Arc::clone(&self.query), request.runtime.clone());
        let send = move |items| run_several(query, runtime, items);
        let asking = async move {
            let gone = || {
                Err(DeliveryError::Unavailable(
                    "the query was cut off".to_owned(),
                    None,
                ))
            };
            let joined = self.batcher.join(parameters, bytes, send);
            joined.await.unwrap_or_else(gone)
        };
        Ok((digest, Box::pin(asking)))
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.query.server.disconnect())
    }
}

/// Runs the query for some lookups; where it fails for what one of them holds, for each half by itself, and
/// so on.
fn run_several(
    query: Arc<Query>,
    runtime: ActionRuntime,
    mut items: Vec<Arc<Parameters>>,
) -> BoxFuture<'static, Vec<Answer>> {
    Box::pin(async move {
        let error = match query.run(&runtime, &items).await {
            Ok(answers) => return answers,
            Err(error) => error,
        };
        if items.len() < 2 || !matches!(error, DeliveryError::Permanent(..)) {
            return vec![Err(error); items.len()];
        }
        let others = items.split_off(items.len() / 2);
        let halves = join(
            run_several(Arc::clone(&query), runtime.clone(), items),
            run_several(query, runtime, others),
        );
        let (mut answers, of_others) = halves.await;
        answers.extend(of_others);
        answers
    })
}

#[cfg(test)]
mod tests {
    use super::for_several;

    #[test]
    fn query_for_several_takes_its_parameters_from_a_table() {
        let sql = for_several(
            "select name from customer where id = $1::bigint and note <> '$1';",
            1,
        );
        assert_eq!(
            sql,
            "select n, octet_length(result) as length, case when octet_length(result) <= 262144 then result end as result\n\
             from unnest($1::int4[], $2::text[]) as observer_lookup_input(n, parameter_1)\n\
             cross join lateral (select row_to_json(own)::text as result from (\n\
             select name from customer where id = observer_lookup_input.parameter_1::bigint and note <> '$1'\n\
             ) as own limit 2) as found"
        );
    }
}
