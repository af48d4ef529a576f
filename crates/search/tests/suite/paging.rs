//! Pages.

use chrono::TimeDelta;
use observer_search::{Document, PageKey, SearchRequest, SortOrder};

use crate::support::builders::{document, epoch};
use crate::support::{Fixture, request, write};

pub(crate) async fn pages_of_equal_times_are_complete_in_both_orders(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "paging/equal";
    // Of equal times some have equal numbers, as those of two logs may.
    let documents: Vec<Document> = (0..37)
        .map(|number| Document {
            id: format!("id-{}", (number * 7) % 37),
            log_id: number / 3,
            occurred_at: epoch() + TimeDelta::microseconds(number / 10),
            ..document(listener, number)
        })
        .collect();
    write(&*index, &documents, 37).await;
    let mut oldest: Vec<PageKey> = documents.iter().map(PageKey::of).collect();
    oldest.sort();
    let newest: Vec<PageKey> = oldest.iter().rev().cloned().collect();
    for (sort, expected) in [(SortOrder::Oldest, oldest), (SortOrder::Newest, newest)] {
        // By order, by terms, and of what is left at the end nothing and something.
        for (query, limit) in [
            ("", 10),
            ("entity:orders", 10),
            ("", 37),
            ("", 1),
            ("orders", 36),
        ] {
            let mut asked = SearchRequest {
                sort,
                limit,
                ..request(listener, query)
            };
            let mut read = Vec::new();
            loop {
                let page = index.search(&asked).await.unwrap();
                assert_eq!(page.total, 37);
                assert!(page.hits.len() <= limit as usize);
                read.extend(page.hits.iter().map(|hit| PageKey::of(&hit.document)));
                if page.next.is_some() {
                    assert_eq!(page.next.as_ref(), read.last());
                }
                asked.after = page.next;
                if asked.after.is_none() {
                    break;
                }
            }
            assert_eq!(read, expected, "{sort:?} {query:?} {limit}");
        }
    }
    let nothing = SearchRequest {
        limit: 0,
        ..request(listener, "")
    };
    let page = index.search(&nothing).await.unwrap();
    assert_eq!((page.total, page.hits.len(), page.next), (37, 0, None));
}
