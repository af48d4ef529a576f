//! Finds documents.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};

use super::conditions::{push_page, push_scope};
use super::{PostgresIndex, found};
use crate::document::Document;
use crate::error::SearchError;
use crate::plan::{MAX_LIMIT, MAX_PAGE_BYTES, Plan};
use crate::query::Query;
use crate::request::{PageKey, Scope, SearchPage, SortOrder};

impl PostgresIndex {
    pub(super) async fn run(&self, plan: &Plan) -> Result<SearchPage, SearchError> {
        let mut tx = match plan.query {
            Query::All => self.begin_read().await?,
            _ => self.begin_read_by_terms().await?,
        };
        let found = found::find(&mut tx, plan).await?;
        let mut page = SearchPage {
            total: found.total,
            facets: found.facets,
            ..SearchPage::default()
        };
        if !found.places.is_empty() {
            let places = found.places;
            let more = places.len() > plan.limit as usize;
            let wanted = &places[..places.len().min(plan.limit as usize)];
            let documents = read_documents(&mut tx, &plan.scope, wanted).await?;
            let complete = documents.len() == wanted.len();
            let hits = documents.into_iter().map(|document| plan.hit(document));
            page.hits = hits.collect();
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
        body.map(|body| Document::parse(&body)).transpose()
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
    sql.push_bind(ids.clone()).push("::text[]) with ordinality n (id, place) join (select id, body from observer.search_document");
    push_scope(&mut sql, scope);
    sql.push(" and id = any (");
    sql.push_bind(ids);
    sql.push(")) d using (id)) read where place = 1 or bytes <= ");
    sql.push_bind(i64::from(MAX_PAGE_BYTES));
    let rows = sql.build().fetch_all(tx).await?;
    let mut bodies: HashMap<String, String> = HashMap::new();
    for row in rows {
        bodies.insert(row.try_get(0)?, row.try_get(1)?);
    }
    places
        .iter()
        .map_while(|place| bodies.get(&place.id))
        .map(|body| Document::parse(body))
        .collect()
}
