//! How long the hot functions take: `cargo bench --package observer-listener`. A release build has
//! other proportions than the instructions that a test counts.

mod work;

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Observers of one entity.
const OBSERVERS: usize = 1000;

/// Rounds of each work.
const ROUNDS: usize = 15;

/// How long a round lasts at least.
const ROUND: Duration = Duration::from_millis(200);

fn main() {
    let work = work::Work::new(OBSERVERS);
    println!("{:<16}{:>12}{:>12}", "microseconds", "fastest", "median");
    for (name, once) in work::ALL {
        let mut times: Vec<f64> = (0..ROUNDS).map(|_| round(|| once(&work))).collect();
        times.sort_by(f64::total_cmp);
        let (fastest, median) = (times[0], times[ROUNDS / 2]);
        println!("{name:<16}{fastest:>12.3}{median:>12.3}");
    }
}

/// Mean time of one call in a round, in microseconds.
fn round(mut call: impl FnMut() -> usize) -> f64 {
    let (begun, mut calls) = (Instant::now(), 0_u32);
    while begun.elapsed() < ROUND {
        black_box(call());
        calls += 1;
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}
