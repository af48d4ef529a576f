//! Facets.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use crds::config::Operation;
use observer_search::{Bucket, DeliveryState, Document, Facets, Filters, SearchRequest};

use crate::support::builders::{delivery, document, epoch, matched, not_matched};
use crate::support::{Fixture, filtered, request, write};

fn documents(listener: &str) -> Vec<Document> {
    (0..300_i64)
        .map(|number| {
            let state = DeliveryState::ALL[usize::try_from(number % 7).unwrap()];
            let observers = match number % 3 {
                0 => vec![not_matched("shop/mail", "no")],
                1 => vec![matched(
                    "shop/mail",
                    vec![delivery("send", state, 1), delivery("log", state, 1)],
                )],
                _ => vec![
                    matched(
                        "shop/audit",
                        vec![delivery("send", DeliveryState::Delivered, 1)],
                    ),
                    matched("shop/mail", vec![delivery("send", state, 1)]),
                ],
            };
            Document {
                entity: format!("entity.of{}", number % 25),
                operation: Operation::ALL[usize::try_from(number % 4).unwrap()],
                occurred_at: epoch()
                    + TimeDelta::seconds(number * 7)
                    + TimeDelta::microseconds(999_999),
                observers,
                ..document(listener, number)
            }
        })
        .collect()
}

/// Counts as the contract says.
fn expected<'d>(documents: impl Iterator<Item = &'d Document>, seconds: i64) -> Facets {
    let mut counts: [BTreeMap<String, u64>; 5] = Default::default();
    for document in documents {
        let mut add = |facet: usize, value: String| *counts[facet].entry(value).or_default() += 1;
        add(0, document.entity.clone());
        add(1, document.operation.as_str().to_owned());
        let mut outcomes = Vec::new();
        for one in &document.observers {
            if one.not_matched.is_none() {
                add(2, one.observer.clone());
            }
            outcomes.extend(one.deliveries.iter().map(|one| one.state.as_str()));
        }
        outcomes.sort_unstable();
        outcomes.dedup();
        if outcomes.is_empty() {
            outcomes.push("notMatched");
        }
        for outcome in outcomes {
            add(3, outcome.to_owned());
        }
        let start = document.occurred_at.timestamp().div_euclid(seconds) * seconds;
        let start = DateTime::from_timestamp(start, 0).unwrap();
        add(4, start.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
    }
    let [entity, operation, observer, outcome, time] = counts;
    let top = |counts: BTreeMap<String, u64>| {
        let mut buckets = buckets(counts);
        buckets.sort_by_key(|one| std::cmp::Reverse(one.count));
        buckets.truncate(20);
        buckets
    };
    Facets {
        entity: top(entity),
        operation: top(operation),
        observer: top(observer),
        outcome: top(outcome),
        time: buckets(time),
        interval_seconds: seconds.unsigned_abs(),
    }
}

fn buckets(counts: BTreeMap<String, u64>) -> Vec<Bucket> {
    counts
        .into_iter()
        .map(|(value, count)| Bucket { value, count })
        .collect()
}

pub(crate) async fn facets_are_counted_exactly(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "facets/exact";
    let documents = documents(listener);
    write(&*index, &documents, 300).await;
    let all = SearchRequest {
        facets: true,
        limit: 1,
        ..filtered(listener, Filters::default())
    };
    let page = index.search(&all).await.unwrap();
    assert_eq!(page.total, 300);
    // 2,094 seconds: 35 minutes.
    assert_eq!(page.facets, Some(expected(documents.iter(), 60)));

    let asked = SearchRequest {
        facets: true,
        ..request(listener, "state:delivered")
    };
    let delivered = |one: &&Document| {
        let mut all = one.observers.iter().flat_map(|one| &one.deliveries);
        all.any(|one| one.state == DeliveryState::Delivered)
    };
    let page = index.search(&asked).await.unwrap();
    assert_eq!(
        page.facets,
        Some(expected(documents.iter().filter(delivered), 60))
    );

    // The page has no part in what is counted.
    let second = SearchRequest {
        after: page
            .next
            .clone()
            .or(Some(observer_search::PageKey::of(&documents[9]))),
        ..asked
    };
    assert_eq!(index.search(&second).await.unwrap().facets, page.facets);

    let nothing = SearchRequest {
        facets: true,
        ..request(listener, "nothing")
    };
    let facets = index.search(&nothing).await.unwrap().facets.unwrap();
    assert!(facets.entity.is_empty() && facets.time.is_empty());
}

pub(crate) async fn intervals_follow_the_times_asked_for(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "facets/intervals";
    let documents = documents(listener);
    write(&*index, &documents, 300).await;
    for (from, to, seconds) in [
        (0, 60, 1),
        (0, 61, 10),
        (0, 600, 10),
        (0, 3600, 60),
        (0, 86_400, 3600),
        (-86_400 * 30, 86_400 * 30, 86_400),
        (-86_400 * 365 * 20, 86_400 * 365 * 20, 2_592_000 * 9),
    ] {
        let at = |seconds| Some(epoch() + TimeDelta::seconds(seconds));
        let filters = Filters {
            from: at(from),
            to: at(to),
            ..Filters::default()
        };
        let asked = SearchRequest {
            facets: true,
            ..filtered(listener, filters)
        };
        let within = |one: &&Document| {
            at(from).is_some_and(|from| one.occurred_at >= from)
                && at(to).is_some_and(|to| one.occurred_at < to)
        };
        let page = index.search(&asked).await.unwrap();
        let expected = expected(documents.iter().filter(within), seconds);
        assert_eq!(page.facets, Some(expected), "{from} to {to}");
    }
}
