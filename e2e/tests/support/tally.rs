//! What arrived against what was committed: nothing lost, nothing repeated, every key in order.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use observer_e2e::Receipt;
use testkit::tally::{self, Arrival};

use super::database::Database;
use super::figures::figure;
use super::sink::Sink;
use super::wait::until;

/// All that arrived on one path of the sink.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// Requests that were answered with success.
    pub(crate) delivered: u64,
    /// Requests that were answered otherwise.
    pub(crate) refused: u64,
    /// Deliveries of a change after a later one of the same key, or once more under another id.
    pub(crate) disordered: u64,
    /// Requests without a right signature.
    pub(crate) unsigned: u64,
    /// Deliveries signed with each secret.
    pub(crate) secrets: BTreeMap<usize, u64>,
    /// When the first one arrived, in microseconds since 1970.
    pub(crate) first: i64,
    /// When the last one arrived, in microseconds since 1970.
    pub(crate) last: i64,
    /// Longest time between two arrivals since the last mark, in microseconds.
    pub(crate) longest: i64,
    /// Longest time from a change to its first delivery since the last mark, in microseconds. Where
    /// several deliver, this tells of a pause of one of them.
    pub(crate) waited: i64,
    /// The deliveries of what had been delivered before.
    pub(crate) repeats: Vec<Repeat>,
    ids: HashSet<String>,
    changes: tally::Tally<String>,
}

/// A delivery of what had been delivered before.
#[derive(Clone, Debug)]
pub(crate) struct Repeat {
    /// Address that it came from.
    pub(crate) from: String,
    /// When it arrived, in microseconds since 1970.
    pub(crate) at: i64,
}

/// All that arrived.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    next: usize,
    paths: BTreeMap<String, Path>,
}

impl Path {
    fn take(&mut self, receipt: Receipt) {
        if self.last == 0 {
            self.first = receipt.arrived_at;
        } else {
            self.longest = self.longest.max(receipt.arrived_at - self.last);
        }
        self.last = receipt.arrived_at;
        match receipt.secret {
            Some(secret) => *self.secrets.entry(secret).or_default() += 1,
            None => self.unsigned += 1,
        }
        if !(200..300).contains(&receipt.status) {
            self.refused += 1;
            return;
        }
        self.delivered += 1;
        if !self.ids.insert(receipt.id) {
            self.repeats.push(Repeat {
                from: receipt.from,
                at: receipt.arrived_at,
            });
            return;
        }
        if let Some(occurred_at) = receipt.occurred_at {
            self.waited = self.waited.max(receipt.arrived_at - occurred_at);
        }
        if let (Some(key), Some(sequence)) = (receipt.key, receipt.sequence)
            && self.changes.arrives(key, sequence) != Arrival::InOrder
        {
            self.disordered += 1;
        }
    }

    /// How many deliveries were of what had been delivered before.
    pub(crate) fn repeated(&self) -> u64 {
        self.repeats.len().try_into().unwrap_or(u64::MAX)
    }

    /// Takes the longest wait and begins another measurement.
    pub(crate) fn take_wait(&mut self) -> Duration {
        self.longest = 0;
        Duration::from_micros(std::mem::take(&mut self.waited).try_into().unwrap_or(0))
    }

    /// How many of the committed changes have not arrived.
    pub(crate) fn lost(&self, committed: &BTreeMap<String, i64>) -> usize {
        self.missing(committed).count()
    }

    /// The committed changes that have not arrived, each with its key.
    fn missing<'a>(
        &self,
        committed: &'a BTreeMap<String, i64>,
    ) -> impl Iterator<Item = (&'a str, i64)> {
        let all = committed
            .iter()
            .map(|(key, last)| (key.as_str(), 1..=*last));
        self.changes.missing(all)
    }
}

impl Tally {
    /// Counts what has arrived since the last time.
    pub(crate) async fn count(&mut self, sink: &Sink) -> Result<()> {
        let new = sink.since(self.next).await?;
        self.next += new.len();
        for receipt in new {
            let path = self.paths.entry(receipt.path.clone()).or_default();
            path.take(receipt);
        }
        Ok(())
    }

    /// What arrived on a path.
    pub(crate) fn path(&mut self, path: &str) -> &mut Path {
        self.paths.entry(path.to_owned()).or_default()
    }

    /// Says what a step did to a path, and begins another.
    pub(crate) fn step(&mut self, path: &str, what: &str, took: Duration) {
        let path = self.path(path);
        let longest = Duration::from_micros(u64::try_from(path.longest).unwrap_or_default());
        path.longest = 0;
        figure(&format!(
            "  {what}: took effect in {:.2} s; so far {} delivered, {} repeated, {} out of order; \
             longest pause between arrivals {} ms",
            took.as_secs_f64(),
            path.delivered,
            path.repeated(),
            path.disordered,
            longest.as_millis(),
        ));
    }

    /// Waits until this has arrived, and fails with all that is known of a change that has not.
    pub(crate) async fn arrived(
        &mut self,
        sink: &Sink,
        database: &Database,
        (path, committed): (&str, &BTreeMap<String, i64>),
        stalled: Duration,
    ) -> Result<()> {
        let arrived = until("what was committed has arrived", stalled, async || {
            self.count(sink).await?;
            let lost = self.path(path).lost(committed);
            ensure!(lost == 0, "{lost} changes have not arrived");
            Ok(())
        })
        .await;
        let Err(error) = arrived else {
            return Ok(());
        };
        let found = self.path(path);
        let Some((key, change)) = found.missing(committed).next() else {
            return Err(error);
        };
        let latest = found.changes.furthest(key).unwrap_or(0);
        let known = match database.traces(key, change).await {
            Ok(known) => known,
            Err(error) => format!("nothing, as the database says: {error:#}"),
        };
        Err(error.context(format!(
            "of key {key} the last to arrive is {latest}; of its change {change} is known: {known}"
        )))
    }

    /// Waits until everything committed has arrived, and fails unless each change did once and
    /// every key is in order.
    pub(crate) async fn all_once(
        &mut self,
        sink: &Sink,
        database: &Database,
        path: &str,
        stalled: Duration,
    ) -> Result<()> {
        self.all_in_order(sink, database, path, stalled).await?;
        let repeated = self.path(path).repeated();
        ensure!(repeated == 0, "{repeated} deliveries were repeated");
        Ok(())
    }

    /// Waits until everything committed has arrived, and fails unless every key is in order.
    pub(crate) async fn all_in_order(
        &mut self,
        sink: &Sink,
        database: &Database,
        path: &str,
        stalled: Duration,
    ) -> Result<()> {
        let committed = database.committed().await?;
        let arrived = self
            .arrived(sink, database, (path, &committed), stalled)
            .await;
        let found = self.path(path);
        let lost = found.lost(&committed);
        figure(&format!(
            "  {path}: {} committed, {} delivered, {lost} lost, {} repeated, {} out of order, {} not signed",
            committed.values().sum::<i64>(),
            found.delivered,
            found.repeated(),
            found.disordered,
            found.unsigned,
        ));
        arrived?;
        ensure!(
            found.disordered == 0,
            "{} deliveries came after a later change of their key, or once more under another id",
            found.disordered
        );
        ensure!(found.unsigned == 0, "{} were not signed", found.unsigned);
        Ok(())
    }
}
