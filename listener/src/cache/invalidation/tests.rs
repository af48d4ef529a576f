#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

const LIFE: &str = "life";

fn snapshot(text: &str) -> Snapshot {
    text.parse().unwrap()
}

fn entity(name: &str) -> Arc<str> {
    Arc::from(name)
}

fn tag(name: &str, key: Option<&str>) -> Tag {
    (entity(name), key.map(str::to_owned))
}

fn row(name: &str, key: Option<&str>) -> Change {
    Change::Row {
        entity: name.to_owned(),
        key: key.map(str::to_owned),
    }
}

fn begun() -> Invalidations {
    Invalidations::begin(
        Arc::from(LIFE),
        Progress(10),
        [entity("customer"), entity("price")],
    )
}

fn required(known: &Invalidations, tags: &[Tag]) -> Option<u64> {
    let required = known.required("shop/a", "customer", tags);
    required.map(|(_, progress)| progress.0)
}

#[test]
fn later_snapshots_have_made_more_progress() {
    let progress = |text| Progress::of(&snapshot(text)).0;
    assert_eq!(progress("10:20:10,14"), 18);
    assert_eq!(progress("10:20:10"), 19);
    // Two began, and none ended.
    assert_eq!(progress("10:22:10,20,21"), 19);
    assert_eq!(Progress::after(&snapshot("10:20:10")).0, 20);
}

#[test]
fn change_ends_results_of_its_row_and_of_its_entity_as_a_whole() {
    let mut known = begun();
    known.add(Progress(20), [(row("customer", Some("7")), Progress(20))]);
    assert_eq!(required(&known, &[tag("customer", Some("7"))]), Some(20));
    assert_eq!(required(&known, &[tag("customer", Some("8"))]), Some(10));
    assert_eq!(required(&known, &[tag("customer", None)]), Some(20));
    assert_eq!(required(&known, &[tag("price", Some("7"))]), Some(10));
    let both = [tag("price", Some("7")), tag("customer", Some("7"))];
    assert_eq!(required(&known, &both), Some(20));
    assert_eq!(required(&known, &[]), Some(0));
    known.add(Progress(30), [(row("customer", None), Progress(30))]);
    assert_eq!(required(&known, &[tag("customer", Some("8"))]), Some(30));
}

#[test]
fn results_of_an_entity_are_not_used_before_it_is_followed() {
    let mut known = begun();
    assert_eq!(required(&known, &[tag("stock", Some("7"))]), None);
    known.add(Progress(20), []);
    known.follow([entity("customer"), entity("stock")]);
    assert_eq!(required(&known, &[tag("stock", Some("7"))]), Some(20));
    assert_eq!(required(&known, &[tag("customer", Some("7"))]), Some(10));
    assert_eq!(required(&known, &[tag("price", Some("7"))]), None);
    assert_eq!(required(&Invalidations::default(), &[]), None);
}

#[test]
fn results_with_tags_are_not_used_while_changes_are_not_known() {
    let mut known = begun();
    known.fall_behind();
    assert_eq!(required(&known, &[tag("customer", Some("7"))]), None);
    assert_eq!(required(&known, &[]), Some(0));
    known.add(Progress(20), []);
    assert_eq!(required(&known, &[tag("customer", Some("7"))]), Some(10));
    known.skip_to(Progress(30));
    assert_eq!(required(&known, &[tag("customer", Some("7"))]), Some(30));
    assert_eq!(required(&known, &[tag("price", None)]), Some(30));
    assert_eq!(required(&known, &[]), Some(0), "it depends on nothing");
}

#[test]
fn results_are_dropped_by_hand_as_widely_as_is_said() {
    let scope = |observer: Option<&str>, name: Option<&str>| {
        Change::Scope(Scope {
            observer: observer.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    };
    let mut known = begun();
    known.add(
        Progress(11),
        [(scope(Some("shop/a"), Some("customer")), Progress(5))],
    );
    let least =
        |known: &Invalidations, observer, name| known.required(observer, name, &[]).unwrap().1.0;
    assert_eq!(least(&known, "shop/a", "customer"), 5);
    assert_eq!(least(&known, "shop/a", "price"), 0);
    assert_eq!(least(&known, "shop/b", "customer"), 0);
    known.add(Progress(12), [(scope(Some("shop/a"), None), Progress(6))]);
    assert_eq!(least(&known, "shop/a", "price"), 6);
    known.add(Progress(13), [(scope(None, None), Progress(7))]);
    assert_eq!(least(&known, "shop/b", "customer"), 7);
    // Too many scopes are all.
    for n in 0..=MAX_SCOPES {
        let change = scope(Some(&format!("shop/{n}")), None);
        known.add(Progress(14), [(change, Progress(9))]);
    }
    assert_eq!(least(&known, "shop/other", "customer"), 9);
}

#[test]
fn forgotten_keys_stand_for_all_of_their_entity() {
    let mut known = begun();
    known.add(Progress(11), [(row("price", Some("1")), Progress(11))]);
    let keys = (0..MAX_KEYS).map(|n| (row("customer", Some(&n.to_string())), Progress(12)));
    known.add(Progress(12), keys);
    assert_eq!(required(&known, &[tag("price", Some("2"))]), Some(11));
    assert_eq!(required(&known, &[tag("customer", Some("x"))]), Some(10));
    assert_eq!(known.order.len(), MAX_KEYS);
    let long = "k".repeat(usize::from(MAX_KEY_BYTES) + 1);
    known.add(Progress(13), [(row("customer", Some(&long)), Progress(13))]);
    assert_eq!(required(&known, &[tag("customer", Some("x"))]), Some(13));
}

proptest! {
    #[test]
    fn progress_grows_as_transactions_begin_and_end(steps in prop::collection::vec(any::<(bool, u8)>(), 1..60)) {
        // Transactions that began and have not ended, with the next number.
        let (mut open, mut next, mut ended) = (Vec::<u64>::new(), 3_u64, 0_u64);
        let mut before: Option<Snapshot> = None;
        for (begins, which) in steps {
            if begins || open.is_empty() {
                open.push(next);
                next += 1;
            } else {
                open.remove(usize::from(which) % open.len());
                ended += 1;
            }
            // As the server counts: xmax follows the last one that has ended.
            let last_ended = (3..next).rev().find(|xid| !open.contains(xid));
            let xmax = last_ended.map_or(3, |xid| xid + 1);
            let in_progress: Vec<String> =
                open.iter().filter(|xid| **xid < xmax).map(u64::to_string).collect();
            let xmin = open.iter().copied().filter(|xid| *xid < xmax).min().unwrap_or(xmax);
            let now = snapshot(&format!("{xmin}:{xmax}:{}", in_progress.join(",")));
            prop_assert_eq!(Progress::of(&now).0, 3 + ended);
            if let Some(before) = before {
                prop_assert!(now.covers(&before));
                prop_assert!(Progress::of(&now) >= Progress::of(&before));
            }
            before = Some(now);
        }
    }
}

/// A step of one of those that take part in a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A row changes, and is committed.
    Commit,
    /// A process takes what it has seen, before it looks up.
    TakeProgress(usize),
    /// It reads the row.
    Fetch(usize),
    /// It stores what it has read, where others find it.
    Store(usize),
    /// A process takes a snapshot of the log.
    Snapshot(usize),
    /// And knows what that has changed.
    Apply(usize),
}

/// What all share, and what each of two processes has.
#[derive(Clone)]
struct World {
    value: u64,
    ended: u64,
    commits: Vec<u64>,
    stored: Option<(u64, Progress)>,
    processes: [Process; 2],
}

#[derive(Clone)]
struct Process {
    known: u64,
    invalidated: Progress,
    snapshot: u64,
    progress: Progress,
    fetched: u64,
}

impl World {
    fn new() -> Self {
        let process = Process {
            known: 10,
            invalidated: Progress(10),
            snapshot: 10,
            progress: Progress(0),
            fetched: 0,
        };
        Self {
            value: 0,
            ended: 10,
            commits: Vec::new(),
            stored: None,
            processes: [process.clone(), process],
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Commit => {
                self.value += 1;
                self.ended += 1;
                self.commits.push(self.ended);
            }
            Step::TakeProgress(n) => {
                self.processes[n].progress = self.known(n).progress();
            }
            Step::Fetch(n) => self.processes[n].fetched = self.value,
            Step::Store(n) => {
                let process = &self.processes[n];
                self.stored = Some((process.fetched, process.progress));
            }
            Step::Snapshot(n) => self.processes[n].snapshot = self.ended,
            Step::Apply(n) => {
                let commits = self.commits.clone();
                let process = &mut self.processes[n];
                let (from, to) = (process.known, process.snapshot);
                if commits.iter().any(|at| *at > from && *at <= to) {
                    process.invalidated = Progress(to);
                }
                process.known = to;
            }
        }
    }

    /// The real thing, with what the process has seen.
    fn known(&self, n: usize) -> Invalidations {
        let process = &self.processes[n];
        let mut known = Invalidations::begin(Arc::from(LIFE), Progress(10), [entity("customer")]);
        if process.invalidated > Progress(10) {
            let change = (row("customer", Some("7")), process.invalidated);
            known.add(process.invalidated, [change]);
        }
        known.add(Progress(process.known), []);
        known
    }

    /// No process that has seen a change uses a value of before.
    fn check(&self, history: &[Step]) {
        let Some((value, progress)) = self.stored else {
            return;
        };
        for n in 0..2 {
            let (_, least) = self
                .known(n)
                .required("shop/a", "customer", &[tag("customer", Some("7"))])
                .unwrap();
            let seen = self
                .commits
                .iter()
                .filter(|at| **at <= self.processes[n].known);
            if progress >= least {
                let seen = seen.count() as u64;
                assert!(
                    value >= seen,
                    "process {n} uses {value} of {seen}: {history:?}"
                );
            }
        }
    }
}

#[test]
fn no_order_of_changes_lookups_and_reads_leaves_an_old_value() {
    let commits = || vec![Step::Commit, Step::Commit];
    let lookup = |n| vec![Step::TakeProgress(n), Step::Fetch(n), Step::Store(n)];
    let read = |n| vec![Step::Snapshot(n), Step::Apply(n)];
    let orders = |actors: &[Vec<Step>]| {
        let (mut at, mut orders) = (vec![0; actors.len()], 0);
        walk(&World::new(), actors, &mut at, &mut Vec::new(), &mut orders);
        orders
    };
    // Both look up, and what one stores is used by the other: 10! / (2! 3! 3! 2!) orders.
    assert_eq!(orders(&[commits(), lookup(0), lookup(1), read(1)]), 25_200);
    // One that looks up has seen a part: 9! / (2! 3! 2! 2!).
    assert_eq!(orders(&[commits(), lookup(0), read(0), read(1)]), 7560);
    // It sees both changes one after the other: 9! / (2! 3! 4!).
    let twice = [read(1), read(1)].concat();
    assert_eq!(orders(&[commits(), lookup(0), twice]), 1260);
}

fn walk(
    world: &World,
    actors: &[Vec<Step>],
    at: &mut [usize],
    history: &mut Vec<Step>,
    orders: &mut u64,
) {
    let mut ended = true;
    for (n, steps) in actors.iter().enumerate() {
        let Some(step) = steps.get(at[n]).copied() else {
            continue;
        };
        ended = false;
        let mut next = world.clone();
        next.take(step);
        history.push(step);
        at[n] += 1;
        // What is stored or known changes only by these.
        if matches!(step, Step::Store(_) | Step::Apply(_)) {
            next.check(history);
        }
        walk(&next, actors, at, history, orders);
        at[n] -= 1;
        history.pop();
    }
    *orders += u64::from(ended);
}
