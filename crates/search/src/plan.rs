//! What a backend runs for a request: the scope, apart from what the caller looks for.

use chrono::{DateTime, Utc};

use crate::analysis::terms::{self, Path};
use crate::document::Document;
use crate::error::SearchError;
use crate::highlight::highlights;
use crate::query::Query;
use crate::query::parser::{self, QueryError};
use crate::request::{Filters, Hit, PageKey, Scope, SearchRequest, SortOrder};

/// Maximum number of hits of a page.
pub const MAX_LIMIT: u32 = 1000;

/// Fields that a tenant cannot search: which observers do not match its events, and why, is not for it to
/// know, as they may be another's.
const HIDDEN_FROM_TENANTS: &[&str] = &["notMatched"];

/// Maximum length of all documents of a page in bytes, if they are more than one.
pub(crate) const MAX_PAGE_BYTES: u32 = 8 * 1024 * 1024;

/// What a backend runs for a request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Conditions on every document that is returned or counted, as equality and never as a part of a
    /// query: no query, however it is written, reaches beyond.
    pub(crate) scope: Scope,
    /// What the caller looks for.
    pub(crate) query: Query,
    /// Its part that is written in the query language, for highlights.
    text: Query,
    /// Only events that occurred at this time or later, in microseconds since 1970.
    pub(crate) from: Option<i64>,
    /// Only events that occurred before this time.
    pub(crate) to: Option<i64>,
    /// The order of hits.
    pub(crate) sort: SortOrder,
    /// The hit after which the page begins.
    pub(crate) after: Option<PageKey>,
    /// Maximum number of hits.
    pub(crate) limit: u32,
    /// Whether to count by facet.
    pub(crate) facets: bool,
    /// Whether to show where the text is found.
    highlight: bool,
}

impl Plan {
    /// Returns a document that was found, with what is to be shown of it.
    pub(crate) fn hit(&self, document: Document) -> Hit {
        let highlights = if self.highlight {
            highlights(&document, &self.text)
        } else {
            Vec::new()
        };
        Hit {
            document,
            highlights,
        }
    }
}

/// Makes the plan of a request.
pub(crate) fn plan(request: &SearchRequest) -> Result<Plan, SearchError> {
    let filters = &request.filters;
    let hidden = match request.scope.tenant {
        Some(_) => HIDDEN_FROM_TENANTS,
        None => &[],
    };
    let text = match &filters.query {
        Some(text) => parser::parse(text, hidden)?,
        None => Query::All,
    };
    let mut all = exact(filters);
    all.push(text.clone());
    let micros = |time: Option<DateTime<Utc>>| time.map(|time| ceil_micros(&time));
    Ok(Plan {
        scope: request.scope.clone(),
        query: Query::all_of(all),
        text,
        from: micros(filters.from),
        to: micros(filters.to),
        sort: request.sort,
        after: request.after.clone(),
        limit: request.limit.min(MAX_LIMIT),
        facets: request.facets,
        highlight: request.highlight,
    })
}

/// Documents have whole microseconds: those at a time or later are at the next one or later.
pub(crate) fn ceil_micros(time: &DateTime<Utc>) -> i64 {
    let below = !time.timestamp_subsec_nanos().is_multiple_of(1000);
    time.timestamp_micros().saturating_add(i64::from(below))
}

/// The filters beside the query and the times.
fn exact(filters: &Filters) -> Vec<Query> {
    let mut all = Vec::new();
    for (field, value) in [
        ("entity", &filters.entity),
        ("key", &filters.key),
        ("tenant", &filters.tenant),
    ] {
        all.extend(
            value
                .as_ref()
                .map(|value| Query::Term(Path::field(field).exact(value))),
        );
    }
    if !filters.operations.is_empty() {
        let path = Path::field("operation");
        let terms = filters
            .operations
            .iter()
            .map(|one| Query::Term(path.exact(one.as_str())));
        all.push(Query::any_of(terms.collect()));
    }
    let (observer, action) = (filters.observer.as_deref(), filters.action.as_deref());
    if !filters.states.is_empty() {
        let terms = filters
            .states
            .iter()
            .map(|state| Query::Term(terms::delivery(observer, action, Some(*state))));
        all.push(Query::any_of(terms.collect()));
    } else if observer.is_some() || action.is_some() {
        all.push(Query::Term(terms::delivery(observer, action, None)));
    }
    all
}

impl From<QueryError> for SearchError {
    fn from(error: QueryError) -> Self {
        Self::Query {
            position: error.position,
            message: error.message,
        }
    }
}
