//! Finds documents.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};

use super::PostgresIndex;
use super::tsquery::tsquery;
use crate::document::Document;
use crate::error::SearchError;
use crate::highlight::highlights;
use crate::plan::{MAX_LIMIT, Plan};
use crate::request::{Hit, PageKey, Scope, SearchPage, SortOrder};

/// Maximum length of all documents of a page in bytes, if they are more than one.
const MAX_PAGE_BYTES: i64 = 32 * 1024 * 1024;

/// Length of the beginning of a tenant that is in an index.
const TENANT_CHARACTERS: u32 = 100;

/// Parses a stored document.
pub(super) fn parse(body: &str) -> Result<Document, SearchError> {
    serde_json::from_str(body)
        .map_err(|error| SearchError::Response(format!("a stored document is damaged: {error}")))
}

/// Time of a number of microseconds since 1970; the earliest or latest one beyond those that there are.
fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// Adds the conditions of a scope: of every statement that reads for a caller.
fn push_scope(sql: &mut QueryBuilder<Postgres>, scope: &Scope) {
    sql.push(" where listener = ")
        .push_bind(scope.listener.clone());
    if let Some(tenant) = &scope.tenant {
        // Text in Postgres holds no NUL, so no row is of such a tenant.
        if tenant.contains('\0') {
            sql.push(" and false");
            return;
        }
        sql.push(" and tenant = ").push_bind(tenant.clone());
        sql.push(format!(" and left(tenant, {TENANT_CHARACTERS}) = "));
        let beginning: String = tenant.chars().take(TENANT_CHARACTERS as usize).collect();
        sql.push_bind(beginning);
    }
}

/// Adds the conditions of a plan.
fn push_conditions(sql: &mut QueryBuilder<Postgres>, plan: &Plan) {
    push_scope(sql, &plan.scope);
    if let Some(query) = tsquery(&plan.query, &plan.scope) {
        sql.push(" and terms @@ ")
            .push_bind(query)
            .push("::tsquery");
    }
    if let Some(from) = plan.from {
        sql.push(" and occurred_at >= ").push_bind(time(from));
    }
    if let Some(to) = plan.to {
        sql.push(" and occurred_at < ").push_bind(time(to));
    }
}

/// Adds the condition that a row comes after a place, and the order.
fn push_page(
    sql: &mut QueryBuilder<Postgres>,
    and: &str,
    after: Option<&PageKey>,
    sort: SortOrder,
) {
    let (comparison, direction) = match sort {
        SortOrder::Newest => ("<", "desc"),
        SortOrder::Oldest => (">", "asc"),
    };
    if let Some(after) = after {
        sql.push(format!(" {and} (occurred_at, log_id, id) {comparison} ("));
        sql.push_bind(time(after.occurred_at_micros)).push(", ");
        sql.push_bind(after.log_id).push(", ");
        sql.push_bind(after.id.replace('\0', "")).push(")");
    }
    sql.push(format!(
        " order by occurred_at {direction}, log_id {direction}, id {direction}"
    ));
}

impl PostgresIndex {
    pub(super) async fn run(
        &self,
        plan: &Plan,
        highlight: bool,
    ) -> Result<SearchPage, SearchError> {
        let mut tx = self.begin_read().await?;
        let mut page = SearchPage {
            total: count(&mut tx, plan).await?,
            ..SearchPage::default()
        };
        if plan.facets {
            page.facets = Some(super::facets::count(&mut tx, plan, push_conditions).await?);
        }
        if page.total > 0 && plan.limit > 0 {
            let places = places(&mut tx, plan).await?;
            let more = places.len() > plan.limit as usize;
            let wanted = &places[..places.len().min(plan.limit as usize)];
            let documents = read_documents(&mut tx, &plan.scope, wanted).await?;
            let complete = documents.len() == wanted.len();
            page.hits = documents
                .into_iter()
                .map(|document| Hit {
                    highlights: if highlight {
                        highlights(&document, &plan.text)
                    } else {
                        Vec::new()
                    },
                    document,
                })
                .collect();
            if more || !complete {
                page.next = page.hits.last().map(|hit| PageKey::of(&hit.document));
            }
        }
        tx.commit().await?;
        Ok(page)
    }

    pub(super) async fn read(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<Document>, SearchError> {
        if id.contains('\0') {
            return Ok(None);
        }
        let mut sql = QueryBuilder::new("select body from observer.search_document");
        push_scope(&mut sql, scope);
        sql.push(" and id = ").push_bind(id.to_owned());
        let mut tx = self.begin_read().await?;
        let body: Option<String> = sql.build_query_scalar().fetch_optional(&mut *tx).await?;
        tx.commit().await?;
        body.map(|body| parse(&body)).transpose()
    }

    pub(super) async fn read_unfinished(
        &self,
        listener: &str,
        before: DateTime<Utc>,
        after: Option<&PageKey>,
        limit: u32,
    ) -> Result<Vec<Document>, SearchError> {
        let scope = Scope {
            listener: listener.to_owned(),
            tenant: None,
        };
        let mut sql =
            QueryBuilder::new("select occurred_at, log_id, id from observer.search_document");
        push_scope(&mut sql, &scope);
        sql.push(" and unfinished and occurred_at < ")
            .push_bind(before);
        push_page(&mut sql, "and", after, SortOrder::Oldest);
        sql.push(" limit ")
            .push_bind(i64::from(limit.min(MAX_LIMIT)));
        let mut tx = self.begin_read().await?;
        let places = read_places(&mut tx, sql).await?;
        let documents = read_documents(&mut tx, &scope, &places).await?;
        tx.commit().await?;
        Ok(documents)
    }
}

async fn count(tx: &mut PgConnection, plan: &Plan) -> Result<u64, SearchError> {
    let mut sql = QueryBuilder::new("select count(*) from observer.search_document");
    push_conditions(&mut sql, plan);
    let count: i64 = sql.build_query_scalar().fetch_one(tx).await?;
    Ok(count.unsigned_abs())
}

/// Returns the places of the page, and of one more hit if there is one.
async fn places(tx: &mut PgConnection, plan: &Plan) -> Result<Vec<PageKey>, SearchError> {
    let columns = "select occurred_at, log_id, id from observer.search_document";
    let by_terms = plan.query != crate::query::Query::All;
    let mut sql = QueryBuilder::new("");
    if by_terms {
        // So that terms are looked up, and never all documents read in order until enough have them.
        sql.push("with matched as materialized (");
    }
    sql.push(columns);
    push_conditions(&mut sql, plan);
    if by_terms {
        sql.push(") select * from matched");
    }
    let and = if by_terms { "where" } else { "and" };
    push_page(&mut sql, and, plan.after.as_ref(), plan.sort);
    sql.push(" limit ").push_bind(i64::from(plan.limit) + 1);
    read_places(tx, sql).await
}

async fn read_places(
    tx: &mut PgConnection,
    mut sql: QueryBuilder<Postgres>,
) -> Result<Vec<PageKey>, SearchError> {
    let rows = sql.build().fetch_all(tx).await?;
    rows.iter()
        .map(|row| {
            let occurred_at: DateTime<Utc> = row.try_get(0)?;
            Ok(PageKey {
                occurred_at_micros: occurred_at.timestamp_micros(),
                log_id: row.try_get(1)?,
                id: row.try_get(2)?,
            })
        })
        .collect()
}

/// Reads the documents at these places, as far as they are not too long together: the first one at least.
async fn read_documents(
    tx: &mut PgConnection,
    scope: &Scope,
    places: &[PageKey],
) -> Result<Vec<Document>, SearchError> {
    let ids: Vec<&str> = places.iter().map(|place| place.id.as_str()).collect();
    let mut sql = QueryBuilder::new(
        "select id, body from (select d.id, d.body, n.place, sum(octet_length(d.body)) over (order by n.place) bytes
         from unnest(",
    );
    sql.push_bind(ids).push("::text[]) with ordinality n (id, place) join (select id, body from observer.search_document");
    push_scope(&mut sql, scope);
    sql.push(" and id = any (");
    let ids: Vec<&str> = places.iter().map(|place| place.id.as_str()).collect();
    sql.push_bind(ids);
    sql.push(")) d using (id)) read where place = 1 or bytes <= ");
    sql.push_bind(MAX_PAGE_BYTES);
    let rows = sql.build().fetch_all(tx).await?;
    let mut bodies: HashMap<String, String> = HashMap::new();
    for row in rows {
        bodies.insert(row.try_get(0)?, row.try_get(1)?);
    }
    places
        .iter()
        .map_while(|place| bodies.get(&place.id))
        .map(|body| parse(body))
        .collect()
}
