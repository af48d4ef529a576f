//! Counts documents by facet.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};

use crate::error::SearchError;
use crate::facets::{interval_seconds, rank, time_bucket};
use crate::plan::Plan;
use crate::request::{Bucket, Facets};

/// Counts the documents that a plan finds.
pub(super) async fn count(
    tx: &mut PgConnection,
    plan: &Plan,
    push_conditions: impl Fn(&mut QueryBuilder<Postgres>, &Plan) + Send,
) -> Result<Facets, SearchError> {
    let mut sql = QueryBuilder::new(
        "select min(occurred_at), max(occurred_at) from observer.search_document",
    );
    push_conditions(&mut sql, plan);
    let row = sql.build().fetch_one(&mut *tx).await?;
    let micros = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_micros());
    let (first, last) = (micros(row.try_get(0)?), micros(row.try_get(1)?));
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Facets {
            interval_seconds: 1,
            ..Facets::default()
        });
    };
    let seconds = interval_seconds(
        plan.from.unwrap_or(first),
        plan.to.map_or(last, |to| to - 1),
    );

    // One pass: values of few kinds come together, so their combinations are few, and what is counted by
    // value is added up from them.
    let mut sql = QueryBuilder::new(
        "select entity, operation, observers, outcomes, null::bigint, count(*) from observer.search_document",
    );
    push_conditions(&mut sql, plan);
    sql.push(" group by 1, 2, 3, 4");
    let mut values: [HashMap<String, u64>; 4] = Default::default();
    for row in sql.build().fetch_all(&mut *tx).await? {
        let count: i64 = row.try_get(5)?;
        let mut add = |facet: usize, value: String| {
            *values[facet].entry(value).or_default() += count.unsigned_abs();
        };
        add(0, row.try_get(0)?);
        add(1, row.try_get(1)?);
        for (facet, column) in [(2, 2), (3, 3)] {
            let all: Vec<String> = row.try_get(column)?;
            for value in all {
                add(facet, value);
            }
        }
    }

    let mut sql = QueryBuilder::new("select floor(extract(epoch from occurred_at) / ");
    sql.push_bind(seconds)
        .push(")::bigint, count(*) from observer.search_document");
    push_conditions(&mut sql, plan);
    sql.push(" group by 1 order by 1");
    let rows = sql.build().fetch_all(&mut *tx).await?;
    let times = rows.iter().map(|row| {
        let (start, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(time_bucket(
            start.saturating_mul(seconds),
            count.unsigned_abs(),
        ))
    });
    let time = times.collect::<Result<_, SearchError>>()?;
    let [entity, operation, observer, outcome] = values.map(buckets);
    Ok(Facets {
        entity,
        operation,
        observer,
        outcome,
        time,
        interval_seconds: seconds.unsigned_abs(),
    })
}

fn buckets(counts: HashMap<String, u64>) -> Vec<Bucket> {
    let buckets = counts
        .into_iter()
        .map(|(value, count)| Bucket { value, count });
    rank(buckets.collect())
}
