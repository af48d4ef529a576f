//! Queries as the server's JSON.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::analysis::terms::Path;
use crate::error::SearchError;
use crate::plan::{Plan, ceil_micros};
use crate::query::{Query, TermRange};
use crate::request::{PageKey, Scope, SortOrder};

/// Maximum depth of a query of ours, without what holds the scope. The oldest servers refuse more than 20.
const MAX_DEPTH: usize = 18;

/// Refuses a query that is nested deeper than every server takes.
pub(super) fn check_depth(plan: &Plan) -> Result<(), SearchError> {
    if depth(&plan.query) <= MAX_DEPTH {
        return Ok(());
    }
    Err(SearchError::Query {
        position: 0,
        message: format!("alternatives and conditions are nested at most {MAX_DEPTH} deep"),
    })
}

fn depth(one: &Query) -> usize {
    match one {
        Query::And(all) | Query::Or(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
        Query::Not(inner) => 1 + depth(inner),
        _ => 1,
    }
}

/// Conditions of a search: they all hold, and nothing is scored.
pub(super) fn filters(plan: &Plan) -> Value {
    let mut filter = scope(&plan.scope);
    if plan.from.is_some() || plan.to.is_some() {
        let mut range = serde_json::Map::new();
        range.extend(plan.from.map(|from| ("gte".to_owned(), from.into())));
        range.extend(plan.to.map(|to| ("lt".to_owned(), to.into())));
        filter.push(json!({"range": {"occurredAtMicros": range}}));
    }
    filter.push(query(&plan.query));
    json!({"bool": {"filter": filter}})
}

/// Conditions on every document that is returned or counted.
pub(super) fn scope(scope: &Scope) -> Vec<Value> {
    let mut filter = vec![listener(&scope.listener)];
    if let Some(tenant) = &scope.tenant {
        filter.push(term(&Path::field("tenant").exact(tenant)));
    }
    filter
}

/// Condition that a document is of a listener.
pub(super) fn listener(listener: &str) -> Value {
    term(&Path::field("listener").exact(listener))
}

/// Condition that an event occurred before a time.
pub(super) fn before(time: DateTime<Utc>) -> Value {
    json!({"range": {"occurredAtMicros": {"lt": ceil_micros(&time)}}})
}

/// The order of hits, which is whole: no two are equal.
pub(super) fn sort(order: SortOrder) -> Value {
    let order = match order {
        SortOrder::Newest => "desc",
        SortOrder::Oldest => "asc",
    };
    // An index that has no documents yet may have no mapping of these.
    let number = json!({"order": order, "unmapped_type": "long"});
    json!([
        {"occurredAtMicros": number},
        {"logId": number},
        {"id": {"order": order, "unmapped_type": "keyword"}},
    ])
}

/// Adds where the page begins.
pub(super) fn begin_after(body: &mut Value, after: Option<&PageKey>) {
    if let Some(after) = after {
        body["search_after"] = json!([after.occurred_at_micros, after.log_id, after.id]);
    }
}

fn term(term: &str) -> Value {
    json!({"term": {"terms": term}})
}

fn query(one: &Query) -> Value {
    match one {
        Query::All => json!({"match_all": {}}),
        Query::Nothing => json!({"match_none": {}}),
        Query::Term(text) => term(text),
        Query::TermPrefix(beginning) => json!({"prefix": {"terms": beginning}}),
        Query::TermRange(range) => term_range(range),
        Query::Phrase(words) => match words.as_slice() {
            [word] => json!({"term": {"words": word}}),
            // The analyzer of the field splits at white space, which no word has.
            words => json!({"match_phrase": {"words": words.join(" ")}}),
        },
        Query::WordPrefix(beginning) => json!({"prefix": {"words": beginning}}),
        Query::And(all) => {
            let mut filter = Vec::new();
            let mut must_not = Vec::new();
            for one in all {
                match one {
                    Query::Not(inner) => must_not.extend(alternatives(inner)),
                    other => filter.push(query(other)),
                }
            }
            json!({"bool": {"filter": filter, "must_not": must_not}})
        }
        Query::Or(some) => {
            let should: Vec<Value> = some.iter().map(query).collect();
            json!({"bool": {"should": should, "minimum_should_match": 1}})
        }
        Query::Not(inner) => json!({"bool": {"must_not": alternatives(inner)}}),
    }
}

/// Queries of which none may match: servers bound how deep a query is.
fn alternatives(inner: &Query) -> Vec<Value> {
    match inner {
        Query::Or(some) => some.iter().map(query).collect(),
        other => vec![query(other)],
    }
}

fn term_range(range: &TermRange) -> Value {
    let bound = |rest: &str| format!("{}{rest}", range.prefix);
    let mut bounds = serde_json::Map::new();
    match &range.from {
        Some((from, true)) => bounds.insert("gte".to_owned(), bound(from).into()),
        Some((from, false)) => bounds.insert("gt".to_owned(), bound(from).into()),
        None => bounds.insert("gte".to_owned(), range.prefix.as_str().into()),
    };
    match &range.to {
        Some((to, true)) => bounds.insert("lte".to_owned(), bound(to).into()),
        Some((to, false)) => bounds.insert("lt".to_owned(), bound(to).into()),
        None => bounds.insert("lt".to_owned(), bound("~").into()),
    };
    json!({"range": {"terms": bounds}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negations_need_no_level_of_their_own() {
        let word = |text: &str| Query::Phrase(vec![text.to_owned()]);
        let none = Query::Not(Box::new(Query::Or(vec![word("b"), word("c")])));
        let made = query(&Query::And(vec![word("a"), none]));
        assert_eq!(
            made,
            json!({"bool": {
                "filter": [{"term": {"words": "a"}}],
                "must_not": [{"term": {"words": "b"}}, {"term": {"words": "c"}}],
            }})
        );
    }

    #[test]
    fn open_ranges_end_with_their_field() {
        let range = TermRange {
            prefix: "/new.total#".to_owned(),
            from: Some(("pb3100".to_owned(), false)),
            to: None,
        };
        assert_eq!(
            term_range(&range),
            json!({"range": {"terms": {"gt": "/new.total#pb3100", "lt": "/new.total#~"}}})
        );
    }
}
