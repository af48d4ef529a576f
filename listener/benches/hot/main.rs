//! How long the hot functions take: `cargo bench --package observer-listener`. A release build has
//! other proportions than the instructions that a test counts.

#![allow(missing_docs, reason = "the macro that makes the entry writes none")]

mod work;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

/// Observers of one entity.
const OBSERVERS: usize = 1000;

fn hot(criterion: &mut Criterion) {
    let work = work::Work::new(OBSERVERS);
    for (name, once) in work::ALL {
        criterion.bench_function(name, |bencher| bencher.iter(|| black_box(once(&work))));
    }
}

criterion_group!(all, hot);
criterion_main!(all);
