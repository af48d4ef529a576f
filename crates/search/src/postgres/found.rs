//! What a search finds: how many documents, their counts by facet, and the places of a page. All of it is
//! one statement, so that the documents are looked up once.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};

use super::conditions::{push_conditions, push_page};
use crate::error::SearchError;
use crate::facets::{INTERVALS, MAX_INTERVALS, rank, seconds, time_bucket};
use crate::plan::Plan;
use crate::query::Query;
use crate::request::{Bucket, Facets, PageKey};

/// What a search finds.
pub(super) struct Found {
    pub(super) total: u64,
    pub(super) facets: Option<Facets>,
    /// Places of the page, and of one more hit if there is one.
    pub(super) places: Vec<PageKey>,
}

/// Entity, operation, observers, outcomes, and how many documents have all of these: they come together, so
/// there are few, and what is counted by value is added up from them.
type Combination = (String, String, Vec<String>, Vec<String>, u64);

/// Finds what a plan looks for.
pub(super) async fn find(tx: &mut PgConnection, plan: &Plan) -> Result<Found, SearchError> {
    let mut sql = QueryBuilder::new("");
    push_matched(&mut sql, plan);
    if plan.facets {
        push_counts(&mut sql, plan);
    } else {
        sql.push(" select (select count(*) from matched), null::text, null::bigint, null::text");
    }
    push_places(&mut sql, plan);
    let row = sql.build().fetch_one(tx).await?;
    let total: Option<i64> = row.try_get(0)?;
    let places: Vec<(i64, i64, String)> = json(&row, 4)?;
    let places = places.into_iter().map(|(micros, log_id, id)| PageKey {
        occurred_at_micros: micros,
        log_id,
        id,
    });
    Ok(Found {
        total: total.unwrap_or_default().unsigned_abs(),
        facets: plan.facets.then(|| facets(&row)).transpose()?,
        places: places.collect(),
    })
}

/// Adds the documents that match. A search by terms is materialized: the lookup is most of the work, and a
/// scan in order, until enough documents have the terms, might read all of them.
fn push_matched(sql: &mut QueryBuilder<Postgres>, plan: &Plan) {
    let kept = if plan.query == Query::All { "not " } else { "" };
    sql.push(format!(
        "with matched as {kept}materialized (
             select occurred_at, log_id, id, entity, operation, observers, outcomes from observer.search_document"
    ));
    push_conditions(sql, plan);
    sql.push(")");
}

/// Adds the counts. The length of the intervals is that of [`crate::facets::interval_seconds`]. What is
/// grouped by comes from a query of its own, as the planner would take it for as many groups as times, and
/// sort them.
fn push_counts(sql: &mut QueryBuilder<Postgres>, plan: &Plan) {
    let last = plan.to.map(|to| seconds(to.saturating_sub(1)));
    sql.push(
        ", combined as materialized (
             select entity, operation, observers, outcomes, count(*) as count, min(occurred_at) as first,
                 max(occurred_at) as last
             from matched group by 1, 2, 3, 4
         ), span as materialized (
             select sum(count)::bigint as total, coalesce(",
    )
    .push_bind(plan.from.map(seconds))
    .push("::bigint, floor(extract(epoch from min(first)))::bigint) as first, coalesce(")
    .push_bind(last)
    .push(
        "::bigint, floor(extract(epoch from max(last)))::bigint) as last
             from combined
         ), step as materialized (
             select coalesce((select min(length) from unnest(",
    )
    .push_bind(INTERVALS.to_vec())
    .push("::bigint[]) length where floor(last::numeric / length) - floor(first::numeric / length) < ")
    .push_bind(MAX_INTERVALS)
    .push("), longest * ceil((last - first)::numeric / (longest * ")
    .push_bind(MAX_INTERVALS - 1)
    .push("))::bigint) as seconds from span, (select ")
    .push_bind(INTERVALS[INTERVALS.len() - 1])
    .push(
        "::bigint as longest) longest where total > 0
         )
         select (select total from span),
             (select json_agg(json_build_array(entity, operation, observers, outcomes, count))::text from combined),
             (select seconds from step),
             (select json_agg(json_build_array(extract(epoch from start)::bigint, count) order by start)::text
              from (
                 select start, count(*) as count
                 from (
                     select date_bin(make_interval(secs => (select seconds from step)), occurred_at, 'epoch') as start
                     from matched offset 0
                 ) starts group by start
              ) times)",
    );
}

/// Adds the places of the page.
fn push_places(sql: &mut QueryBuilder<Postgres>, plan: &Plan) {
    if plan.limit == 0 {
        sql.push(", null::text");
        return;
    }
    sql.push(
        ", (select json_agg(json_build_array((extract(epoch from occurred_at) * 1000000)::bigint, log_id, id))::text
            from (select occurred_at, log_id, id from matched",
    );
    push_page(sql, "where", plan.after.as_ref(), plan.sort);
    sql.push(" limit ")
        .push_bind(i64::from(plan.limit) + 1)
        .push(") page)");
}

/// Reads a column of JSON; nothing is the default.
fn json<T: DeserializeOwned + Default>(row: &PgRow, column: usize) -> Result<T, SearchError> {
    let text: Option<String> = row.try_get(column)?;
    let Some(text) = text else {
        return Ok(T::default());
    };
    serde_json::from_str(&text).map_err(|error| SearchError::Response(error.to_string()))
}

fn facets(row: &PgRow) -> Result<Facets, SearchError> {
    let combinations: Vec<Combination> = json(row, 1)?;
    let seconds: Option<i64> = row.try_get(2)?;
    let times: Vec<(i64, u64)> = json(row, 3)?;
    let mut values: [HashMap<String, u64>; 4] = Default::default();
    for (entity, operation, observers, outcomes, count) in combinations {
        let mut add = |facet: usize, value: String| {
            *values[facet].entry(value).or_default() += count;
        };
        add(0, entity);
        add(1, operation);
        for value in observers {
            add(2, value);
        }
        for value in outcomes {
            add(3, value);
        }
    }
    let [entity, operation, observer, outcome] = values.map(buckets);
    let time = times
        .into_iter()
        .map(|(start, count)| time_bucket(start, count));
    Ok(Facets {
        entity,
        operation,
        observer,
        outcome,
        time: time.collect(),
        interval_seconds: seconds.map_or(1, i64::unsigned_abs),
    })
}

fn buckets(counts: HashMap<String, u64>) -> Vec<Bucket> {
    let buckets = counts
        .into_iter()
        .map(|(value, count)| Bucket { value, count });
    rank(buckets.collect())
}
