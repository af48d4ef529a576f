//! Counts documents by facet.

use std::collections::HashMap;

use sqlx::{PgConnection, QueryBuilder, Row};

use super::conditions::push_conditions;
use crate::error::SearchError;
use crate::facets::{interval_seconds, rank, time_bucket};
use crate::plan::Plan;
use crate::request::{Bucket, Facets};

/// Counts the documents that a plan finds, of events between these times in microseconds since 1970.
pub(super) async fn count(
    tx: &mut PgConnection,
    plan: &Plan,
    times: Option<(i64, i64)>,
) -> Result<Facets, SearchError> {
    let Some((first, last)) = times else {
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
        "select entity, operation, observers, outcomes, count(*) from observer.search_document",
    );
    push_conditions(&mut sql, plan);
    sql.push(" group by 1, 2, 3, 4");
    let mut values: [HashMap<String, u64>; 4] = Default::default();
    for row in sql.build().fetch_all(&mut *tx).await? {
        let count: i64 = row.try_get(4)?;
        let mut add = |facet: usize, value: String| {
            *values[facet].entry(value).or_default() += count.unsigned_abs();
        };
        add(0, row.try_get(0)?);
        add(1, row.try_get(1)?);
        for facet in [2, 3] {
            let all: Vec<String> = row.try_get(facet)?;
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
