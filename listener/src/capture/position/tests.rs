//! A model of Postgres' transactions, and readers over it that crash.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

const KEYS: u8 = 6;
const SHARDS: u8 = 2;

/// One row of the log.
#[derive(Clone, Debug)]
struct Row {
    id: i64,
    xid: u64,
    key: u8,
}

/// Transactions draw xids and ids the way Postgres hands them out; a key is locked by its
/// writer until the transaction ends.
#[derive(Default)]
struct Database {
    xids: u64,
    ids: i64,
    running: Vec<u64>,
    locks: HashMap<u8, u64>,
    rows: Vec<Row>,
    committed: BTreeSet<u64>,
    /// The newest xid that has ended.
    ended: u64,
}

impl Database {
    fn begin(&mut self) {
        self.running.push(3 + self.xids);
        self.xids += 1;
    }

    fn write(&mut self, tx: usize, key: u8) {
        let Some(xid) = self.pick(tx) else { return };
        if *self.locks.entry(key).or_insert(xid) == xid {
            self.ids += 1;
            self.rows.push(Row {
                id: self.ids,
                xid,
                key,
            });
        }
    }

    fn end(&mut self, tx: usize, commit: bool) {
        let Some(xid) = self.pick(tx) else { return };
        self.running.retain(|other| *other != xid);
        self.ended = self.ended.max(xid);
        self.locks.retain(|_, holder| *holder != xid);
        if commit {
            self.committed.insert(xid);
        } else {
            self.rows.retain(|row| row.xid != xid);
        }
    }

    fn pick(&self, tx: usize) -> Option<u64> {
        (!self.running.is_empty()).then(|| self.running[tx % self.running.len()])
    }

    /// A transaction that draws an xid and ends, after the ids were looked at.
    fn low_watermark(&mut self) -> i64 {
        self.ended = 3 + self.xids;
        self.xids += 1;
        self.ids
    }

    /// As in Postgres, what runs above the newest xid that has ended is not listed.
    fn current_bound(&self, low_id: i64) -> LogBound {
        let xmax = self.ended.max(2) + 1;
        let mut running = self.running.clone();
        running.retain(|xid| *xid < xmax);
        running.sort_unstable();
        let xmin = running.first().copied().unwrap_or(xmax);
        let list: Vec<String> = running.iter().map(u64::to_string).collect();
        let snapshot = format!("{xmin}:{xmax}:{}", list.join(",")).parse().unwrap();
        LogBound {
            low_id,
            snapshot,
            high_id: self.ids,
        }
    }

    /// The rows of a window after an id, found as the reader's query finds them.
    fn read(&self, window: &Window, after: i64) -> Vec<Row> {
        let (from, to) = (&window.from, &window.to);
        let ended = to.snapshot.ended_since(&from.snapshot);
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .filter(|row| self.committed.contains(&row.xid))
            .filter(|row| {
                let near = row.id > from.low_id
                    && row.id <= to.high_id
                    && row.xid >= from.snapshot.xmax()
                    && row.xid < to.snapshot.xmax()
                    && to.snapshot.sees(row.xid);
                near || ended.contains(&row.xid)
            })
            .filter(|row| row.id > after)
            .cloned()
            .collect();
        rows.sort_unstable_by_key(|row| row.id);
        let meant: BTreeSet<i64> = self
            .rows
            .iter()
            .filter(|row| self.committed.contains(&row.xid) && row.id > after)
            .filter(|row| to.snapshot.sees(row.xid) && !from.snapshot.sees(row.xid))
            .map(|row| row.id)
            .collect();
        assert_eq!(
            meant,
            rows.iter().map(|row| row.id).collect(),
            "the halves make the window"
        );
        rows
    }
}

/// A shard of an earlier shard count: the count, its number, its position.
type FormerShard = (u8, u8, Position);

/// A reader of all shards, which forgets everything but what it saved.
struct SimReader {
    now: Vec<Position>,
    saved: Vec<Position>,
    former: Vec<FormerShard>,
    seen: Vec<Row>,
    pages: usize,
    max_gap: i64,
}

impl SimReader {
    fn new(max_gap: i64) -> Self {
        let start = vec![Position::at(Arc::new(LogBound::genesis())); usize::from(SHARDS)];
        Self {
            now: start.clone(),
            saved: start,
            former: Vec::new(),
            seen: Vec::new(),
            pages: 0,
            max_gap,
        }
    }

    fn shards(&self) -> u8 {
        u8::try_from(self.now.len()).unwrap()
    }

    /// Reads one page.
    fn read_page(&mut self, database: &mut Database, page: usize) {
        self.pages += 1;
        let order = [ReadOrder::Lagging, ReadOrder::Leading][self.pages % 2];
        let positions: Vec<&Position> = self.now.iter().collect();
        let (read, members) = next_read(&positions, order, self.max_gap).unwrap();
        let window = match read {
            ReadPlan::OpenWindow(window) => window,
            ReadPlan::NewWindow(from) => {
                let quiet = Window {
                    to: Arc::new(database.current_bound(from.low_id)),
                    from,
                };
                if quiet.may_hold_events() {
                    let low_id = database.low_watermark();
                    let to = Arc::new(database.current_bound(low_id));
                    Window { to, ..quiet }
                } else {
                    quiet
                }
            }
        };
        let after = members.iter().map(|n| self.now[*n].last_id).min().unwrap();
        let mut rows = database.read(&window, after);
        let more = rows.len() > page;
        rows.truncate(page);
        let last = rows.last().map_or(after, |row| row.id);
        for row in rows {
            let shard = usize::from(row.key % self.shards());
            let behind = |(of, shard, position): &FormerShard| {
                row.key % of == *shard && position.passes(row.xid, row.id)
            };
            if members.contains(&shard)
                && row.id > self.now[shard].last_id
                && !self.former.iter().any(behind)
            {
                self.seen.push(row);
            }
        }
        for n in members {
            self.now[n] = if more {
                Position::within(&window, last.max(self.now[n].last_id))
            } else {
                Position::at(Arc::clone(&window.to))
            };
        }
    }

    fn save(&mut self, shard: usize) {
        // Shards are saved one at a time, so that they come back at different places.
        let shard = shard % self.now.len();
        self.saved[shard] = self.now[shard].clone();
    }

    fn crash(&mut self) {
        self.now = self.saved.clone();
    }

    /// Continues with another shard count, from where all shards are.
    fn reshard(&mut self, shards: u8) {
        let of = self.shards();
        if of == shards {
            return;
        }
        for (shard, position) in (0..).zip(&self.now) {
            self.former.push((of, shard, position.clone()));
        }
        let start = Position::earliest(&self.now).unwrap();
        self.former.retain(|(_, _, position)| {
            !start
                .from
                .snapshot
                .covers(&position.latest_bound().snapshot)
        });
        self.now = vec![start; usize::from(shards)];
        self.saved = self.now.clone();
    }
}

#[derive(Clone, Debug)]
enum SimStep {
    Begin,
    Write(usize, u8),
    End(usize, bool),
    ReadPage(usize),
    Save(usize),
    Crash,
    Reshard(u8),
}

fn step() -> impl Strategy<Value = SimStep> {
    prop_oneof![
        3 => Just(SimStep::Begin),
        8 => (0usize..8, 0..KEYS).prop_map(|(tx, key)| SimStep::Write(tx, key)),
        4 => (0usize..8, prop::bool::weighted(0.8)).prop_map(|(tx, commit)| SimStep::End(tx, commit)),
        6 => (1usize..4).prop_map(SimStep::ReadPage),
        2 => (0..usize::from(SHARDS)).prop_map(SimStep::Save),
        1 => Just(SimStep::Crash),
        1 => (1u8..6).prop_map(SimStep::Reshard),
    ]
}

fn max_gaps() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1i64..10, Just(1000)]
}

fn run(steps: &[SimStep], max_gap: i64, crashes: bool) -> (Database, SimReader) {
    let mut database = Database::default();
    let mut reader = SimReader::new(max_gap);
    for step in steps {
        match *step {
            SimStep::Begin => database.begin(),
            SimStep::Write(tx, key) => database.write(tx, key),
            SimStep::End(tx, commit) => database.end(tx, commit),
            SimStep::ReadPage(page) => reader.read_page(&mut database, page),
            SimStep::Save(shard) => reader.save(shard),
            SimStep::Crash if crashes => reader.crash(),
            SimStep::Crash => {}
            SimStep::Reshard(shards) => reader.reshard(shards),
        }
    }
    while !database.running.is_empty() {
        database.end(0, true);
    }
    // Every other page is for those furthest behind.
    for _ in 0..steps.len() * 4 + 8 {
        reader.read_page(&mut database, 2);
    }
    (database, reader)
}

/// Ids by key in the order in which they were written.
fn by_key(rows: &[Row]) -> BTreeMap<u8, Vec<i64>> {
    let mut keys: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
    for row in rows {
        keys.entry(row.key).or_default().push(row.id);
    }
    keys
}

proptest! {
    #[test]
    fn every_committed_event_is_read_once_and_in_order(steps in prop::collection::vec(step(), 1..120), max_gap in max_gaps()) {
        let (database, reader) = run(&steps, max_gap, false);
        prop_assert_eq!(by_key(&reader.seen), by_key(&database.rows));
    }

    #[test]
    fn crashes_repeat_but_lose_and_reorder_nothing(steps in prop::collection::vec(step(), 1..120), max_gap in max_gaps()) {
        let (database, reader) = run(&steps, max_gap, true);
        let written = by_key(&database.rows);
        let read = by_key(&reader.seen);
        prop_assert_eq!(read.keys().collect::<Vec<_>>(), written.keys().collect::<Vec<_>>());
        for (key, ids) in read {
            let order = &written[&key];
            let mut furthest = 0;
            for id in ids {
                let place = order.iter().position(|other| *other == id).unwrap();
                prop_assert!(place <= furthest, "event {} of key {} came early", id, key);
                furthest = furthest.max(place + 1);
            }
            prop_assert_eq!(furthest, order.len());
        }
    }
}

/// A bound that knows of ids up to this one, and of none below it that is still to come.
fn bound(snapshot: &str, ids: i64) -> Arc<LogBound> {
    Arc::new(LogBound {
        low_id: ids,
        snapshot: snapshot.parse().unwrap(),
        high_id: ids,
    })
}

#[test]
fn lagging_shards_catch_up() {
    let (early, late) = (bound("5:5:", 1), bound("9:9:", 7));
    let (first, last) = (
        Position::at(Arc::clone(&late)),
        Position::at(Arc::clone(&early)),
    );
    let positions = [&first, &last];
    let (read, members) = next_read(&positions, ReadOrder::Lagging, 0).unwrap();
    assert_eq!(
        read,
        ReadPlan::OpenWindow(Window {
            from: early,
            to: Arc::clone(&late)
        })
    );
    assert_eq!(members, vec![1]);
    assert_eq!(
        next_read(&positions, ReadOrder::Leading, 0).unwrap(),
        (ReadPlan::NewWindow(Arc::clone(&late)), vec![0]),
        "those ahead do not wait"
    );
    for turn in [ReadOrder::Leading, ReadOrder::Lagging] {
        assert_eq!(
            next_read(&[&first, &first], turn, 0).unwrap(),
            (ReadPlan::NewWindow(Arc::clone(&late)), vec![0, 1])
        );
    }
}

#[test]
fn shards_at_a_window_start_join_that_window() {
    let window = Window {
        from: bound("5:5:", 100),
        to: bound("9:9:", 700),
    };
    let open = Position::within(&window, 150);
    let (begins, elsewhere) = (
        Position::at(Arc::clone(&window.from)),
        Position::at(bound("4:4:", 90)),
    );
    let known = |members: &[usize]| Some((ReadPlan::OpenWindow(window.clone()), members.to_vec()));
    let both = [&open, &begins];
    for turn in [ReadOrder::Leading, ReadOrder::Lagging] {
        assert_eq!(next_read(&both, turn, 50), known(&[0, 1]), "together");
    }
    assert_eq!(
        next_read(&both, ReadOrder::Lagging, 49),
        known(&[1]),
        "to come up"
    );
    assert_eq!(
        next_read(&both, ReadOrder::Leading, 49),
        known(&[0]),
        "to go on"
    );
    let others = [&open, &elsewhere];
    assert_eq!(next_read(&others, ReadOrder::Leading, 50), known(&[0]));
}

#[test]
fn no_shards_have_no_read_plan() {
    assert_eq!(next_read(&[], ReadOrder::Lagging, 0), None);
}
