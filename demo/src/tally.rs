//! What should have arrived, by plain rules of its own, against what did.
//!
//! Nothing in here knows the listener's conditions: each observer of the shop is said again in
//! Rust, over what the database returned to the writers. A change is noted before its
//! transaction commits, so no delivery can be there before its expectation.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use testkit::tally::{self, Arrival};

/// Total above which an order is big, in cents.
const BIG: i64 = 100_000;

/// Status that an order has once it is paid.
const PAID: &str = "paid";

/// The observers whose deliveries can be told apart at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Observer {
    BigOrders,
    PaidOrders,
    OrderAudit,
}

impl Observer {
    /// The observer of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Self::BigOrders, Self::PaidOrders, Self::OrderAudit];
        all.into_iter().find(|observer| observer.name() == name)
    }

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BigOrders => "big-orders",
            Self::PaidOrders => "paid-orders",
            Self::OrderAudit => "order-audit",
        }
    }
}

/// What matters of an order's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) status: String,
    /// Total in cents, where there is one yet.
    pub(crate) cents: Option<i64>,
}

/// One change of one row.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// An order came, changed or went.
    Order {
        id: i64,
        /// Counts the changes of this order from 1, its removal included.
        revision: i64,
        before: Option<Order>,
        after: Option<Order>,
    },
    /// A customer came.
    CustomerAdded,
    /// A customer went.
    CustomerRemoved,
}

/// A delivery, by what tells it from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Delivery {
    pub(crate) observer: Observer,
    pub(crate) order: i64,
    pub(crate) revision: i64,
}

/// What becomes of a change at an observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// The observer cannot decide, so it is kept as a dead letter.
    GivenUp,
}

/// Expectations, and what has come of them so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    awaited: HashMap<Delivery, Instant>,
    awaited_letters: HashSet<Delivery>,
    /// The revisions of each order that an observer was told of.
    told: tally::Tally<(Observer, i64)>,
    latencies: Vec<Duration>,
    so_far: Verdict,
}

/// How expectations and arrivals compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Changes committed.
    pub(crate) changes: u64,
    /// Transactions committed.
    pub(crate) transactions: u64,
    /// Transactions rolled back.
    pub(crate) rolled_back: u64,
    /// Deliveries that should arrive.
    pub(crate) expected: u64,
    /// Of these, those that did.
    pub(crate) arrived: u64,
    /// Log lines that should be written.
    pub(crate) expected_notes: u64,
    /// Dead letters that should be and are.
    pub(crate) given_up: u64,
    /// Deliveries, log lines and dead letters that should be and are not.
    pub(crate) missing: u64,
    /// Arrivals of what had arrived before, and log lines beyond those expected.
    pub(crate) repeated: u64,
    /// Arrivals after a later change of the same order.
    pub(crate) out_of_order: u64,
    /// Arrivals and dead letters that no change calls for.
    pub(crate) unexpected: u64,
    /// Times from commit to receipt: the median, and what 99 of 100 stay below.
    pub(crate) latency: Option<(Duration, Duration)>,
}

impl Verdict {
    /// Whether everything arrived once and in order.
    pub(crate) const fn is_good(&self) -> bool {
        self.missing == 0 && self.repeated == 0 && self.out_of_order == 0 && self.unexpected == 0
    }
}

impl Tally {
    /// A transaction with these changes is about to commit.
    pub(crate) fn commits(&mut self, changes: &[Change], at: Instant) {
        self.so_far.transactions += 1;
        self.so_far.changes += changes.len() as u64;
        for change in changes {
            match change {
                Change::Order { id, revision, .. } => {
                    for (observer, fate) in called_for(change) {
                        let delivery = Delivery {
                            observer,
                            order: *id,
                            revision: *revision,
                        };
                        match fate {
                            Fate::Delivered => {
                                self.so_far.expected += 1;
                                self.awaited.insert(delivery, at);
                            }
                            Fate::GivenUp => {
                                self.awaited_letters.insert(delivery);
                            }
                        }
                    }
                }
                Change::CustomerAdded => {}
                Change::CustomerRemoved => self.so_far.expected_notes += 1,
            }
        }
    }

    /// A transaction was rolled back.
    pub(crate) fn rolled_back(&mut self) {
        self.so_far.rolled_back += 1;
    }

    /// A delivery was accepted.
    pub(crate) fn arrived(&mut self, delivery: Delivery, at: Instant) {
        let key = (delivery.observer, delivery.order);
        if let Some(committed) = self.awaited.remove(&delivery) {
            self.so_far.arrived += 1;
            self.latencies.push(at.saturating_duration_since(committed));
            if self.told.arrives(key, delivery.revision) == Arrival::Late {
                self.so_far.out_of_order += 1;
            }
        } else if self.told.has(&key, delivery.revision) {
            self.so_far.repeated += 1;
        } else {
            self.so_far.unexpected += 1;
        }
    }

    /// A dead letter was found.
    pub(crate) fn given_up(&mut self, delivery: Delivery) {
        if self.awaited_letters.remove(&delivery) {
            self.so_far.given_up += 1;
        } else {
            self.so_far.unexpected += 1;
        }
    }

    /// Something came that is nothing an observer sends.
    pub(crate) fn strange(&mut self) {
        self.so_far.unexpected += 1;
    }

    /// What is known so far; nothing counts as missing yet.
    pub(crate) const fn so_far(&self) -> &Verdict {
        &self.so_far
    }

    /// Deliveries that have not arrived.
    pub(crate) fn awaited(&self) -> usize {
        self.awaited.len()
    }

    /// Dead letters that have not been found.
    pub(crate) fn awaited_letters(&self) -> usize {
        self.awaited_letters.len()
    }

    /// The final verdict, when nothing more can arrive. `notes` is how many log lines were written, and `dropped`
    /// how many dead letters somebody dropped.
    pub(crate) fn close(mut self, notes: u64, dropped: usize) -> Verdict {
        let mut verdict = self.so_far;
        let missing_letters = self.awaited_letters.len().saturating_sub(dropped);
        let missing = self.awaited.len() + missing_letters;
        verdict.missing = missing as u64 + verdict.expected_notes.saturating_sub(notes);
        verdict.repeated += notes.saturating_sub(verdict.expected_notes);
        self.latencies.sort_unstable();
        let at = |percent: usize| {
            let last = self.latencies.len().checked_sub(1)?;
            self.latencies.get(last * percent / 100).copied()
        };
        verdict.latency = at(50).zip(at(99));
        verdict
    }
}

/// Locks, also after a panic of another task: what is guarded is whole between any two statements.
pub(crate) fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which observers a change of an order is for. The same as `docs/examples/shop.yaml` says.
fn called_for(change: &Change) -> Vec<(Observer, Fate)> {
    let Change::Order { before, after, .. } = change else {
        return Vec::new();
    };
    let mut called = vec![(Observer::OrderAudit, Fate::Delivered)];
    let was = before.as_ref().map(|order| order.status.as_str());
    if let Some(order) = after
        && was != Some(&*order.status)
    {
        match order.cents {
            // `null > 1000` has no answer.
            None => called.push((Observer::BigOrders, Fate::GivenUp)),
            Some(cents) if cents > BIG => called.push((Observer::BigOrders, Fate::Delivered)),
            Some(_) => {}
        }
        if before.is_some() && order.status == PAID {
            called.push((Observer::PaidOrders, Fate::Delivered));
        }
    }
    called
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(status: &str, cents: Option<i64>) -> Order {
        Order {
            status: status.to_owned(),
            cents,
        }
    }

    fn change(revision: i64, before: Option<&Order>, after: Option<&Order>) -> Change {
        Change::Order {
            id: 7,
            revision,
            before: before.cloned(),
            after: after.cloned(),
        }
    }

    fn delivery(observer: Observer, revision: i64) -> Delivery {
        Delivery {
            observer,
            order: 7,
            revision,
        }
    }

    /// A big order that is placed, paid and removed: three audits, two notices, one to ship.
    fn story() -> (Tally, Vec<Delivery>) {
        let mut tally = Tally::default();
        let (new, paid) = (order("new", Some(100_001)), order("paid", Some(100_001)));
        let at = Instant::now();
        tally.commits(&[change(1, None, Some(&new))], at);
        tally.commits(&[change(2, Some(&new), Some(&paid))], at);
        tally.commits(&[change(3, Some(&paid), None), Change::CustomerRemoved], at);
        let arrivals = vec![
            delivery(Observer::OrderAudit, 1),
            delivery(Observer::BigOrders, 1),
            delivery(Observer::OrderAudit, 2),
            delivery(Observer::BigOrders, 2),
            delivery(Observer::PaidOrders, 2),
            delivery(Observer::OrderAudit, 3),
        ];
        (tally, arrivals)
    }

    fn told((mut tally, arrivals): (Tally, Vec<Delivery>)) -> Verdict {
        for arrival in arrivals {
            tally.arrived(arrival, Instant::now());
        }
        tally.close(1, 0)
    }

    #[test]
    fn everything_once_and_in_order_is_good() {
        let verdict = told(story());
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.expected, verdict.arrived), (6, 6));
        assert!(verdict.latency.is_some());
    }

    #[test]
    fn a_missing_delivery_is_noticed_whichever_it_is() {
        for n in 0..6 {
            let (tally, mut arrivals) = story();
            arrivals.remove(n);
            let verdict = told((tally, arrivals));
            assert_eq!((verdict.missing, verdict.arrived), (1, 5));
            assert!(!verdict.is_good());
        }
    }

    #[test]
    fn a_repeated_delivery_is_noticed_whichever_it_is() {
        for n in 0..6 {
            let (tally, mut arrivals) = story();
            arrivals.push(arrivals[n]);
            let verdict = told((tally, arrivals));
            assert_eq!((verdict.repeated, verdict.missing), (1, 0));
            assert!(!verdict.is_good());
        }
    }

    #[test]
    fn a_delivery_after_a_later_one_of_its_order_is_noticed() {
        let (tally, mut arrivals) = story();
        arrivals.swap(0, 2);
        let verdict = told((tally, arrivals));
        assert_eq!((verdict.out_of_order, verdict.missing), (1, 0));
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_delivery_that_nothing_calls_for_is_noticed() {
        let (tally, mut arrivals) = story();
        arrivals.push(delivery(Observer::PaidOrders, 3));
        assert_eq!(told((tally, arrivals)).unexpected, 1);
        // Though a later change of its order has arrived.
        let (tally, mut arrivals) = story();
        arrivals.push(delivery(Observer::PaidOrders, 1));
        let verdict = told((tally, arrivals));
        assert_eq!((verdict.unexpected, verdict.repeated), (1, 0));
    }

    #[test]
    fn log_lines_are_counted() {
        for (notes, missing, repeated) in [(0, 1, 0), (1, 0, 0), (3, 0, 2)] {
            let (mut tally, arrivals) = story();
            for arrival in arrivals {
                tally.arrived(arrival, Instant::now());
            }
            let verdict = tally.close(notes, 0);
            assert_eq!((verdict.missing, verdict.repeated), (missing, repeated));
        }
    }

    #[test]
    fn an_order_without_a_total_is_given_up_by_one_observer_alone() {
        let mut tally = Tally::default();
        tally.commits(
            &[change(1, None, Some(&order("new", None)))],
            Instant::now(),
        );
        tally.arrived(delivery(Observer::OrderAudit, 1), Instant::now());
        assert_eq!(tally.awaited_letters(), 1);
        tally.given_up(delivery(Observer::BigOrders, 1));
        let verdict = tally.close(0, 0);
        assert!(verdict.is_good());
        assert_eq!(verdict.given_up, 1);
    }

    #[test]
    fn missing_and_unexpected_dead_letters_are_told_apart() {
        let mut tally = Tally::default();
        tally.commits(
            &[change(1, None, Some(&order("new", None)))],
            Instant::now(),
        );
        tally.arrived(delivery(Observer::OrderAudit, 1), Instant::now());
        tally.given_up(delivery(Observer::OrderAudit, 1));
        let verdict = tally.close(0, 0);
        assert_eq!((verdict.missing, verdict.unexpected), (1, 1));
    }
}
