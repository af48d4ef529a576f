//! No change is lost, reordered or duplicated when processes and servers are killed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::seed::seed;

use super::{Source, counters, reading, sink};
use crate::support::counters::all_in_order;
use crate::support::fleet::{SHORT_LEASE, run_for_a_while};
use crate::support::listener::Process;
use crate::support::writers::{Writers, make_untracked_table};

/// Rows of the change log that are there twice.
const TWICE: &str = "
    select count(*) from (
        select new ->> 'k', new ->> 'v' from observer.change_log group by 1, 2 having count(*) > 1
    ) twice";

async fn changes_survive_kills(source: Source, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let config = counters(&source, SHORT_LEASE, &sink, "/");
    let first = Process::run(&config);
    source.is_read().await;
    let writers = Writers::start(&source.read_url(), 4, seed);
    first.kill().await;
    for _ in 0..6 {
        let process = run_for_a_while(&config, &sink, &mut random).await;
        process.kill().await;
    }
    let last = Process::run(&config);
    tokio::time::sleep(Duration::from_millis(random.random_range(0..500))).await;
    writers.stop().await;
    all_in_order(&source.read, &sink).await;
    assert_eq!(
        source.value::<i64>(TWICE).await,
        0,
        "each change is in the log once"
    );
    last.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_survive_kills_of_the_process() {
    changes_survive_kills(Source::together().await, seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_survive_kills_with_the_log_in_another_database() {
    changes_survive_kills(Source::apart().await, seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_survive_crashes_of_the_server() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (source, sink, _config, process) = reading(Source::apart().await).await;
    let writers = Writers::start(&source.read_url(), 4, seed);
    for _ in 0..3 {
        sink.arrived(sink.counts().requests + random.random_range(1..300))
            .await;
        source.server.crash().await.unwrap();
        source.server.resume().await.unwrap();
    }
    sink.arrived(sink.counts().requests + 50).await;
    writers.stop().await;
    all_in_order(&source.read, &sink).await;
    assert_eq!(
        source.value::<i64>(TWICE).await,
        0,
        "each change is in the log once"
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_owner_is_replaced_and_writes_nothing_afterwards() {
    let seed = seed();
    let source = Source::apart().await;
    make_untracked_table(&source.read).await;
    let sink = sink().await;
    let configs = ["/a", "/b"].map(|path| counters(&source, SHORT_LEASE, &sink, path));
    let first = Process::run(&configs[0]);
    source.is_read().await;
    let second = Process::run(&configs[1]);
    let writers = Writers::start(&source.read_url(), 4, seed);
    sink.arrived(100).await;
    let epoch: i64 = source.value("select epoch from observer.source").await;
    first.signal("STOP").await;
    super::eventually("another process has taken over", async || {
        let now: i64 = source.value("select epoch from observer.source").await;
        (now > epoch).then_some(())
    })
    .await;
    sink.arrived(sink.counts().requests + 100).await;
    first.signal("CONT").await;
    sink.arrived(sink.counts().requests + 100).await;
    writers.stop().await;
    all_in_order(&source.read, &sink).await;
    assert_eq!(
        source.value::<i64>(TWICE).await,
        0,
        "each change is in the log once"
    );
    first.kill().await;
    second.kill().await;
}
