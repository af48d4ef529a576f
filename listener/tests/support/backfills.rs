//! Backfills that are started, and what receivers must be told of counters meanwhile (see `writers`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use testkit::http_sink::Sink;

use super::listener::Config;
use super::program::command;
use super::told::told;

/// Every operation on rows.
pub(crate) const ALL_OPERATIONS: &str = "[Insert, Update, Delete, Read]";

/// Runs a `backfill` command with the files of a listener.
pub(crate) async fn backfill(config: &Config, args: &[&str]) -> super::program::Ended {
    let path = config.path();
    let files = ["-f", path.to_str().unwrap()];
    command(&[&["backfill"], args, &files[..]].concat()).await
}

/// Starts a backfill and returns how it ended.
pub(crate) async fn start(config: &Config, args: &[&str]) -> Value {
    let args = [&["start", "--yes", "-o", "json"], args].concat();
    let printed = backfill(config, &args).await.ok();
    serde_json::from_str(&printed).unwrap()
}

/// Checks that no counter went back, by a change or by a backfill, and returns how often each was read. Repeated
/// deliveries count once.
pub(crate) fn never_older(sink: &Sink) -> BTreeMap<i64, usize> {
    let (mut values, mut known) = (BTreeMap::<i64, i64>::new(), BTreeSet::new());
    let mut reads = BTreeMap::new();
    for one in told(sink) {
        if !known.insert(one.id.clone()) {
            continue;
        }
        let row = &one.body["new"];
        let (counter, value) = (row["k"].as_i64().unwrap(), row["v"].as_i64().unwrap());
        let before = values.insert(counter, value);
        let by_backfill = one.body["operation"] == "Read";
        if by_backfill {
            *reads.entry(counter).or_default() += 1;
        }
        let least = before.map_or(value, |before| before + i64::from(!by_backfill));
        assert!(
            value >= least && (by_backfill || before.is_none() || value == least),
            "counter {counter} had {before:?} and then {value} by {}",
            one.body["operation"]
        );
    }
    reads
}
