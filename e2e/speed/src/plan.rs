//! What is measured: a base, and what differs from it in one thing each.

use std::time::Duration;

use clap::Args;

use crate::place::{More, Setting};
use crate::sink::Behaviour;

/// The base, and what is measured beside it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Plan {
    /// Rows of the backlog
    #[arg(long, default_value_t = 20_000)]
    backlog: u64,
    /// Bytes of a row's text
    #[arg(long, default_value_t = 500)]
    bytes: usize,
    /// Keys of the rows; events of one are delivered in order
    #[arg(long, default_value_t = 1000)]
    lanes: usize,
    /// Everything that can differ from that, at the values in this benchmark's table
    #[arg(long)]
    all: bool,
    /// Also with rows of so many bytes
    #[arg(long, value_delimiter = ',')]
    also_bytes: Vec<usize>,
    /// Also with a receiver that answers after so many milliseconds
    #[arg(long, value_delimiter = ',')]
    also_delay: Vec<u64>,
    /// Also with a receiver that answers one request in so many with 503
    #[arg(long, value_delimiter = ',')]
    also_fail_one_in: Vec<u64>,
    /// Also, ours alone, with so many rows
    #[arg(long, value_delimiter = ',')]
    also_backlog: Vec<u64>,
    /// Also, ours alone, with so many shards
    #[arg(long, value_delimiter = ',')]
    also_shards: Vec<u16>,
    /// Also, ours alone, with so many more observers, of which none matches
    #[arg(long, value_delimiter = ',')]
    also_observers: Vec<usize>,
    /// Also, ours alone, with a transaction that has been open for so many seconds, in which 10 rows
    /// a second were delivered
    #[arg(long, value_delimiter = ',')]
    also_open_transaction: Vec<u64>,
}

/// One way in which a backlog is worked off.
#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) backlog: u64,
    pub(crate) setting: Setting,
    /// Whether it is for ours alone.
    pub(crate) ours: bool,
}

impl Plan {
    /// Rows of the base's backlog.
    pub(crate) fn backlog(&self) -> u64 {
        self.backlog.max(2)
    }

    /// How the base is measured.
    pub(crate) fn base(&self) -> Setting {
        Setting {
            lanes: self.lanes.max(1),
            bytes: self.bytes,
            behaviour: Behaviour::default(),
            shards: None,
            idle_observers: 0,
            open_transaction: None,
            search: None,
            more: More::default(),
        }
    }

    /// The base first, and then all that is asked for beside it.
    pub(crate) fn variants(&self) -> Vec<Variant> {
        let base = |name: String, ours| Variant {
            name,
            backlog: self.backlog(),
            setting: self.base(),
            ours,
        };
        let mut all = vec![base(rows(self.backlog()), false)];
        for bytes in self.also(&self.also_bytes, &[1000]) {
            let mut one = base(format!("rows of {bytes} bytes"), false);
            one.setting.bytes = bytes;
            all.push(one);
        }
        for delay in self.also(&self.also_delay, &[10, 50]) {
            let mut one = base(format!("an answer takes {delay} ms"), false);
            one.setting.behaviour.delay = Duration::from_millis(delay);
            all.push(one);
        }
        for one_in in self.also(&self.also_fail_one_in, &[100]) {
            let mut one = base(format!("one answer in {one_in} is 503"), false);
            one.setting.behaviour.fail_one_in = one_in;
            all.push(one);
        }
        for backlog in self.also(&self.also_backlog, &[10_000, 100_000, 1_000_000]) {
            let mut one = base(rows(backlog), true);
            one.backlog = backlog.max(2);
            all.push(one);
        }
        for shards in self.also(&self.also_shards, &[1, 4, 16]) {
            let mut one = base(format!("{shards} shards"), true);
            one.setting.shards = Some(shards);
            all.push(one);
        }
        for observers in self.also(&self.also_observers, &[1000]) {
            let mut one = base(format!("{observers} more observers"), true);
            one.setting.idle_observers = observers;
            all.push(one);
        }
        for seconds in self.also(&self.also_open_transaction, &[60]) {
            let mut one = base(format!("a transaction open for {seconds} s"), true);
            one.setting.open_transaction = Some(Duration::from_secs(seconds));
            all.push(one);
        }
        all
    }

    /// What is asked for, or what is in the benchmark's table.
    fn also<T: Copy>(&self, asked: &[T], table: &[T]) -> Vec<T> {
        let table: &[T] = if self.all { table } else { &[] };
        if asked.is_empty() { table } else { asked }.to_vec()
    }
}

fn rows(count: u64) -> String {
    format!("{count} rows")
}
