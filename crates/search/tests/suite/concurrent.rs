//! Many writers at once.

use std::collections::BTreeMap;

use observer_search::{DeliveryState, Document};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use testkit::wait::{STALLED, comes};
use tokio::task::JoinSet;

use crate::support::builders::{delivery, document, json, matched, not_matched};
use crate::support::{Fixture, all_of, found, seed};

/// Documents that all write.
const DOCUMENTS: i64 = 40;

/// Writers, each as a process of its own.
const WRITERS: u64 = 8;

/// Pieces that each writes.
const PIECES: usize = 300;

pub(crate) async fn pieces_of_many_writers_are_merged(fixture: &dyn Fixture) {
    let seed = seed();
    let listener = "concurrent/pieces";
    let mut expected: BTreeMap<String, Document> = BTreeMap::new();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(writer));
        let mut pieces: Vec<Document> = (0..PIECES).map(|_| piece(listener, &mut random)).collect();
        for piece in &pieces {
            let merged = expected
                .entry(piece.id.clone())
                .or_insert_with(|| piece.clone());
            merged.merge(piece);
        }
        let index = fixture.open().await;
        writers.spawn(async move {
            pieces.shuffle(&mut random);
            let mut rest = pieces.as_slice();
            while !rest.is_empty() {
                let some = random.random_range(1..=30).min(rest.len());
                let report = index.write(&rest[..some]).await.unwrap();
                assert_eq!((report.written, report.rejected), (some, Vec::new()));
                rest = &rest[some..];
            }
        });
    }
    let all = async {
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
    };
    comes("all writers end", all).await;
    let index = fixture.open().await;
    found(&*index, listener, expected.len() as u64).await;
    for (id, document) in &expected {
        let read = index.get(&all_of(listener), id).await.unwrap().unwrap();
        assert_eq!(
            json(&read),
            json(document),
            "seed {seed}, within {STALLED:?}"
        );
    }
}

/// What one process knows of a document.
fn piece(listener: &str, random: &mut StdRng) -> Document {
    let mut piece = document(listener, random.random_range(0..DOCUMENTS));
    for observer in ["shop/a", "shop/b", "shop/c"] {
        if random.random_bool(0.5) {
            continue;
        }
        if random.random_bool(0.2) {
            piece.observers.push(not_matched(observer, "when is false"));
            continue;
        }
        let mut deliveries = Vec::new();
        for action in ["one", "two"] {
            if random.random_bool(0.6) {
                let states = DeliveryState::ALL;
                let state = states[random.random_range(0..states.len())];
                deliveries.push(delivery(action, state, random.random_range(0..5)));
            }
        }
        piece.observers.push(matched(observer, deliveries));
    }
    piece
}
