//! Tenants that must not see each other.

use observer_search::{
    DeliveryState, Document, Filters, ObserverEntry, Scope, SearchError, SearchRequest,
};

use super::corpus::QUERIES;
use crate::support::builders::{delivery, matched, with_new};
use crate::support::{Fixture, filtered, found, request};

/// Tenants, some of them with names that a query might be made of.
const TENANTS: [&str; 7] = ["a", "A", "ab", "a' | 'b", "*", "\\", "a\u{301}"];

/// Queries that ask for another's.
const REACHING: [&str; 11] = [
    "tenant:a OR tenant:A OR tenant:ab",
    "tenant:\"ab\"",
    "* OR tenant:*",
    "NOT tenant:a",
    "-nothing",
    "NOT (nothing AND other)",
    "secret*",
    "new.secret:*",
    "new.number:>=0",
    "x' | '\\/tenant~ab",
    "') OR tenant = 'ab' --",
];

pub(crate) async fn tenants_see_their_own_documents_whatever_they_ask_for(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "tenants/own";
    let mut documents = Vec::new();
    for (place, tenant) in TENANTS.into_iter().map(Some).chain([None]).enumerate() {
        for number in 0..3 {
            let log_id = i64::try_from(place * 10 + number).unwrap();
            documents.push(Document {
                tenant: tenant.map(str::to_owned),
                entity: format!("entity.of{place}"),
                observers: vec![
                    ObserverEntry {
                        observer: "shop/hidden".to_owned(),
                        not_matched: Some("hidden reason".to_owned()),
                        deliveries: Vec::new(),
                    },
                    matched(
                        &format!("shop/o{place}"),
                        vec![delivery("send", DeliveryState::Delivered, 1)],
                    ),
                ],
                ..with_new(
                    listener,
                    log_id,
                    &format!(r#"{{"secret": "secret{place}", "number": {number}}}"#),
                )
            });
        }
    }
    // The same tenant of another listener.
    let other = Document {
        tenant: Some("a".to_owned()),
        ..with_new("tenants/other", 1, r#"{"secret": "x"}"#)
    };
    index.write(&documents).await.unwrap();
    index.write(&[other]).await.unwrap();
    found(&*index, listener, 24).await;
    found(&*index, "tenants/other", 1).await;

    for (place, tenant) in TENANTS.into_iter().enumerate() {
        let scope = Scope {
            listener: listener.to_owned(),
            tenant: Some(tenant.to_owned()),
        };
        let queries = QUERIES.iter().map(|(query, _)| *query).chain(REACHING);
        for query in queries {
            let asked = SearchRequest {
                scope: scope.clone(),
                facets: true,
                highlight: true,
                ..request(listener, query)
            };
            check(&*index, &asked, place).await;
        }
        // Which observers its events do not match is not for a tenant to know, by no query.
        for query in [
            "hidden*",
            "reason",
            "\"hidden reason\"",
            "observer:*hidden",
            "observer:\"shop/hidden\"",
        ] {
            let asked = SearchRequest {
                scope: scope.clone(),
                ..request(listener, query)
            };
            let total = check(&*index, &asked, place).await.unwrap_or_default();
            assert_eq!(total, 0, "{query}");
        }
        for query in ["notMatched:shop/hidden", "notMatched:*", "NOT notMatched:x"] {
            let asked = SearchRequest {
                scope: scope.clone(),
                ..request(listener, query)
            };
            assert_eq!(check(&*index, &asked, place).await, None, "{query}");
        }
        for other in TENANTS {
            let filters = Filters {
                tenant: Some(other.to_owned()),
                ..Filters::default()
            };
            let asked = SearchRequest {
                scope: scope.clone(),
                facets: true,
                ..filtered(listener, filters)
            };
            let total = check(&*index, &asked, place).await;
            assert_eq!(total, Some(if other == tenant { 3 } else { 0 }));
        }
        for document in &documents {
            let read = index.get(&scope, &document.id).await.unwrap();
            assert_eq!(
                read.is_some(),
                document.tenant.as_deref() == Some(tenant),
                "{tenant} {}",
                document.id
            );
        }
        let asked = SearchRequest {
            scope: scope.clone(),
            ..filtered(listener, Filters::default())
        };
        assert_eq!(check(&*index, &asked, place).await, Some(3));
    }
    for tenant in ["", "b", "a ", "a\0"] {
        let scope = Scope {
            listener: listener.to_owned(),
            tenant: Some(tenant.to_owned()),
        };
        let asked = SearchRequest {
            scope,
            ..filtered(listener, Filters::default())
        };
        assert_eq!(index.search(&asked).await.unwrap().total, 0, "{tenant:?}");
    }
}

/// Searches, and checks that all that is returned and counted is of one tenant. Returns how many there
/// are, unless the query is refused.
async fn check(
    index: &dyn observer_search::SearchIndex,
    asked: &SearchRequest,
    place: usize,
) -> Option<u64> {
    let page = match index.search(asked).await {
        Ok(page) => page,
        Err(SearchError::Query { .. }) => return None,
        Err(error) => panic!("{asked:?}: {error}"),
    };
    assert!(page.total <= 3, "{asked:?}");
    for hit in &page.hits {
        assert_eq!(hit.document.tenant, asked.scope.tenant, "{asked:?}");
        assert_eq!(hit.document.listener, asked.scope.listener);
    }
    assert_eq!(page.hits.len() as u64, page.total);
    if let Some(facets) = &page.facets {
        let entity = format!("entity.of{place}");
        assert!(
            facets.entity.iter().all(|one| one.value == entity),
            "{asked:?}: {facets:?}"
        );
        let observer = format!("shop/o{place}");
        assert!(
            facets.observer.iter().all(|one| one.value == observer),
            "{asked:?}: {facets:?}"
        );
        for facet in [
            &facets.entity,
            &facets.operation,
            &facets.observer,
            &facets.outcome,
            &facets.time,
        ] {
            let sum: u64 = facet.iter().map(|one| one.count).sum();
            assert_eq!(sum, page.total, "{asked:?}: {facets:?}");
        }
    }
    Some(page.total)
}
