//! Reading: pages of hits, facets, and single documents.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ElasticsearchIndex;
use super::names::{IndexName, document_id};
use super::query;
use super::transport::SERVER_TIMEOUT;
use crate::document::Document;
use crate::error::SearchError;
use crate::facets::{self, MAX_VALUES};
use crate::plan::{self, MAX_LIMIT, MAX_PAGE_BYTES, Plan};
use crate::request::{Bucket, Facets, PageKey, Scope, SearchPage, SearchRequest, SortOrder};

/// Longest time that the server searches for.
const SEARCH_TIMEOUT: &str = SERVER_TIMEOUT;

/// Number of values of each shard that a facet is counted of. With more different ones in a month, counts
/// of rare values may be too low.
const SHARD_BUCKETS: usize = 1000;

/// Microseconds in a second.
const SECOND: i64 = 1_000_000;

#[derive(Deserialize)]
struct SearchResponse {
    #[serde(default)]
    timed_out: bool,
    #[serde(default)]
    hits: FoundHits,
    #[serde(default)]
    aggregations: Aggregations,
}

#[derive(Default, Deserialize)]
struct FoundHits {
    #[serde(default)]
    total: Total,
    #[serde(default)]
    hits: Vec<FoundHit>,
}

#[derive(Default, Deserialize)]
struct Total {
    value: u64,
}

/// A document that the server has found.
#[derive(Deserialize)]
pub(super) struct FoundHit {
    #[serde(rename = "_index")]
    pub(super) index: String,
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "_seq_no")]
    pub(super) seq_no: Option<u64>,
    #[serde(rename = "_primary_term")]
    pub(super) primary_term: Option<u64>,
    /// Its place in the order.
    #[serde(default)]
    sort: Vec<Value>,
    #[serde(default)]
    fields: FoundFields,
}

#[derive(Default, Deserialize)]
struct FoundFields {
    #[serde(default)]
    bytes: Vec<u64>,
}

/// What is counted, as far as it was asked for.
#[derive(Default, Deserialize)]
struct Aggregations {
    #[serde(default)]
    entity: Counts<String>,
    #[serde(default)]
    operation: Counts<String>,
    #[serde(default)]
    observers: Counts<String>,
    #[serde(default)]
    outcomes: Counts<String>,
    #[serde(default)]
    time: Counts<f64>,
    #[serde(default)]
    first: Extreme,
    #[serde(default)]
    last: Extreme,
}

#[derive(Deserialize)]
struct Counts<K> {
    #[serde(default = "Vec::new")]
    buckets: Vec<Count<K>>,
}

#[derive(Deserialize)]
struct Count<K> {
    key: K,
    doc_count: u64,
}

#[derive(Default, Deserialize)]
struct Extreme {
    value: Option<f64>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
        }
    }
}

impl FoundHit {
    /// Returns its place in the order of pages.
    fn place(&self) -> Option<PageKey> {
        match self.sort.as_slice() {
            [occurred_at, log_id, id] => Some(PageKey {
                occurred_at_micros: occurred_at.as_i64()?,
                log_id: log_id.as_i64()?,
                id: id.as_str()?.to_owned(),
            }),
            _ => None,
        }
    }
}

impl ElasticsearchIndex {
    pub(super) async fn search_page(
        &self,
        request: &SearchRequest,
    ) -> Result<SearchPage, SearchError> {
        let plan = plan::plan(request)?;
        query::check_depth(&plan)?;
        let limit = plan.limit as usize;
        let mut body = json!({
            "query": query::filters(&plan),
            "sort": query::sort(plan.sort),
            // One more tells whether there is another page.
            "size": limit + 1,
            "track_total_hits": true,
        });
        query::begin_after(&mut body, plan.after.as_ref());
        if plan.facets {
            body["aggs"] = aggregations();
        }
        let response = self.find(&self.index, body).await?;
        let found = &response.hits.hits;
        let wanted = fitting(&found[..found.len().min(limit)]);
        let next = wanted.last().filter(|_| found.len() > wanted.len());
        let next = next
            .map(|hit| hit.place().ok_or_else(misplaced))
            .transpose()?;
        let (documents, facets) = tokio::try_join!(self.read_hits(wanted), async {
            if plan.facets {
                self.facets(&plan, response.aggregations).await.map(Some)
            } else {
                Ok(None)
            }
        })?;
        let hits = documents.into_iter().map(|document| plan.hit(document));
        Ok(SearchPage {
            hits: hits.collect(),
            total: response.hits.total.value,
            next,
            facets,
        })
    }

    /// Reads the documents of hits, except those removed since.
    pub(super) async fn read_hits(&self, hits: &[FoundHit]) -> Result<Vec<Document>, SearchError> {
        let wanted: Vec<_> = hits
            .iter()
            .map(|hit| (hit.index.as_str(), hit.id.as_str()))
            .collect();
        let read = self.read(&wanted).await?;
        let documents = read.into_iter().flatten();
        Ok(documents.map(|(_, document)| document).collect())
    }

    /// Searches the indices that a name or an alias names; one that is not there has no documents. Hits
    /// come without their documents: how long these are is not known before.
    async fn find(&self, indices: &str, mut body: Value) -> Result<SearchResponse, SearchError> {
        let query = [
            ("ignore_unavailable", "true"),
            ("allow_no_indices", "true"),
            ("allow_partial_search_results", "false"),
            (
                "filter_path",
                "timed_out,hits.total.value,hits.hits._index,hits.hits._id,hits.hits._seq_no,\
                 hits.hits._primary_term,hits.hits.sort,hits.hits.fields,aggregations",
            ),
        ];
        body["_source"] = false.into();
        body["docvalue_fields"] = json!(["bytes"]);
        body["timeout"] = SEARCH_TIMEOUT.into();
        let path = format!("/{indices}/_search");
        let reply = self.server.search(&path, &query, &body).await?;
        let response: SearchResponse = reply.parse()?;
        if response.timed_out {
            return Err(SearchError::Unavailable(format!(
                "it has not found all within {SEARCH_TIMEOUT}"
            )));
        }
        Ok(response)
    }

    /// Returns the hits of a search.
    pub(super) async fn find_hits(
        &self,
        indices: &str,
        body: Value,
    ) -> Result<Vec<FoundHit>, SearchError> {
        Ok(self.find(indices, body).await?.hits.hits)
    }

    /// Returns the facets. The intervals of time follow from the times of the first and the last one, so
    /// that they are counted by another request.
    async fn facets(&self, plan: &Plan, counted: Aggregations) -> Result<Facets, SearchError> {
        let mut facets = Facets {
            entity: values(counted.entity),
            operation: values(counted.operation),
            observer: values(counted.observers),
            outcome: values(counted.outcomes),
            ..Facets::default()
        };
        let (Some(first), Some(last)) = (counted.first.value, counted.last.value) else {
            facets.interval_seconds = 1;
            return Ok(facets);
        };
        let from = plan.from.unwrap_or(micros(first));
        let to = plan.to.map_or(micros(last), |to| to.saturating_sub(1));
        let interval = facets::interval_seconds(from, to);
        facets.interval_seconds = interval.unsigned_abs();
        let body = json!({
            "query": query::filters(plan),
            "size": 0,
            "aggs": {"time": {"histogram": {
                "field": "occurredAtMicros", "interval": interval * SECOND, "min_doc_count": 1,
            }}},
        });
        let response = self.find(&self.index, body).await?;
        let counts = response.aggregations.time.buckets.into_iter();
        facets.time = counts
            .map(|count| facets::time_bucket(micros(count.key).div_euclid(SECOND), count.doc_count))
            .collect();
        Ok(facets)
    }

    pub(super) async fn get_one(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<Document>, SearchError> {
        let document_id = document_id(&scope.listener, id);
        let mut found = Vec::new();
        if let Some(index) = IndexName::of_id(&self.index, id) {
            found = self.read(&[(&index, &document_id)]).await?;
        }
        if found.iter().all(Option::is_none) {
            // Its id does not tell its month, or it is still in an index of an older mapping.
            let indices = self.own_indices(&self.pattern()).await?;
            let wanted: Vec<_> = indices
                .keys()
                .map(|index| (index.as_str(), document_id.as_str()))
                .collect();
            found = self.read(&wanted).await?;
        }
        let found = found.into_iter().flatten().map(|(_, document)| document);
        let within = |one: &Document| {
            one.listener == scope.listener
                && one.id == id
                && (scope.tenant.is_none() || one.tenant == scope.tenant)
        };
        Ok(found.filter(within).reduce(|mut one, other| {
            one.merge(&other);
            one
        }))
    }

    pub(super) async fn unfinished_page(
        &self,
        listener: &str,
        before: DateTime<Utc>,
        after: Option<&PageKey>,
        limit: u32,
    ) -> Result<Vec<Document>, SearchError> {
        let filter = [
            query::listener(listener),
            json!({"term": {"unfinished": true}}),
            query::before(before),
        ];
        let mut body = json!({
            "query": {"bool": {"filter": filter}},
            "sort": query::sort(SortOrder::Oldest),
            "size": limit.min(MAX_LIMIT),
        });
        query::begin_after(&mut body, after);
        let hits = self.find_hits(&self.index, body).await?;
        self.read_hits(fitting(&hits)).await
    }
}

/// Returns the first hits, as far as their documents are not too long together: one at least.
pub(super) fn fitting(hits: &[FoundHit]) -> &[FoundHit] {
    let mut bytes = 0_u64;
    let fits = |hit: &&FoundHit| {
        let own = hit.fields.bytes.first().copied().unwrap_or_default();
        bytes = bytes.saturating_add(own);
        bytes <= u64::from(MAX_PAGE_BYTES)
    };
    let count = hits.iter().take_while(fits).count();
    &hits[..count.max(1).min(hits.len())]
}

fn misplaced() -> SearchError {
    SearchError::Response("a hit without its place".to_owned())
}

fn aggregations() -> Value {
    let mut all = json!({
        "first": {"min": {"field": "occurredAtMicros"}},
        "last": {"max": {"field": "occurredAtMicros"}},
    });
    for field in ["entity", "operation", "observers", "outcomes"] {
        all[field] = json!({"terms": {
            "field": field, "size": MAX_VALUES, "shard_size": SHARD_BUCKETS,
            "order": [{"_count": "desc"}, {"_key": "asc"}],
        }});
    }
    all
}

fn values(counts: Counts<String>) -> Vec<Bucket> {
    let buckets = counts.buckets.into_iter().map(|count| Bucket {
        value: count.key,
        count: count.doc_count,
    });
    facets::rank(buckets.collect())
}

/// Returns the whole microseconds of a number: those of all years that there are, a double holds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is beyond the numbers is the last of them"
)]
fn micros(number: f64) -> i64 {
    number as i64
}
