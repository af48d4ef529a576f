//! Documents and reports in memory, in any order.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::config::Egress;
use search::DeliveryState;

use super::*;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointRegistry;
use crate::capture::change_log::ChangeRecord;
use crate::capture::position::LogBound;
use crate::delivery::ActionName;
use crate::history::compose::tests::config;

const BUNDLE: &str = "apiVersion: observers.fraiseql.dev/v1alpha1
kind: ObserverListener
metadata: {name: test}
spec: {database: {url: {value: \"postgres://localhost/x\"}}}
---
apiVersion: observers.fraiseql.dev/v1alpha1
kind: Observer
metadata: {name: all}
spec:
  events: {entity: public.orders, operations: [Insert]}
  actions:
    - name: log
      log: {}
";

fn observers() -> Observers {
    let shared = ActionRuntime::new(&Egress::default(), &EndpointRegistry::default()).unwrap();
    let bundle = crds::loader::load_bundle(BUNDLE).unwrap().bundle;
    Observers::compile(&bundle.observers, &shared).unwrap()
}

fn holding() -> Holding {
    Holding::new(Composer::new("default/test", &config(&[])), 1)
}

fn position(xid: u64) -> Position {
    Position::at(Arc::new(LogBound {
        low_id: 0,
        snapshot: format!("{xid}:{xid}:").parse().unwrap(),
        high_id: 0,
    }))
}

fn batch(ids: &[i64], reached: u64) -> EventBatch {
    let record = |id: &i64| ChangeRecord {
        event: Event::fixture(*id),
        oversized: None,
        xid: 5,
        only_for: None,
    };
    EventBatch {
        window: 1,
        bounds: None,
        events: ids.iter().map(record).collect(),
        reached: vec![(0, 1, position(reached))],
        fenced: Vec::new(),
        backlog: 0,
    }
}

fn report(log_id: i64, state: DeliveryState) -> DeliveryReport {
    DeliveryReport {
        event: Arc::new(Event::fixture(log_id)),
        name: ActionName::new("default/all", "log"),
        replay: None,
        state,
        attempts: 1,
        failures: Vec::new(),
        success: None,
        due_at: None,
        job: None,
    }
}

fn taken(holding: &mut Holding, now: Instant) -> Vec<Outgoing> {
    holding.take(now, 100, 1 << 20, false)
}

fn receipts(taken: &[Outgoing]) -> Vec<Receipt> {
    taken.iter().map(|one| one.receipt).collect()
}

fn states(taken: &[Outgoing]) -> Vec<(i64, DeliveryState)> {
    let state = |one: &Outgoing| one.document.observers[0].deliveries[0].state;
    taken
        .iter()
        .map(|one| (one.document.log_id, state(one)))
        .collect()
}

#[tokio::test]
async fn event_is_written_once_its_deliveries_are_over() {
    use DeliveryState::Delivered;
    let (mut holding, observers, now) = (holding(), observers(), Instant::now());
    holding.accept(batch(&[1, 2], 10), &observers, now);
    assert!(taken(&mut holding, now).is_empty(), "it is held");
    holding.report(report(2, Delivered), now);
    let first = taken(&mut holding, now);
    assert_eq!(states(&first), [(2, Delivered)]);
    holding.written(&receipts(&first));
    assert!(holding.take_reached().is_empty(), "1 is not written");
    assert_eq!(holding.oldest(), Some(DateTime::UNIX_EPOCH));
    let second = taken(&mut holding, now + HOLD);
    assert_eq!(states(&second), [(1, DeliveryState::Pending)]);
    holding.written(&receipts(&second));
    assert_eq!(holding.take_reached(), [(0, 1, position(10))]);
    assert_eq!((holding.size(), holding.oldest()), ((0, 0), None));
}

#[tokio::test]
async fn report_waits_for_its_event_and_is_written_without_it() {
    use DeliveryState::{Delivered, Retrying};
    let (mut holding, observers, now) = (holding(), observers(), Instant::now());
    holding.report(report(1, Delivered), now);
    holding.report(report(7, Retrying), now);
    holding.accept(batch(&[1], 10), &observers, now);
    let first = taken(&mut holding, now);
    assert_eq!(
        states(&first),
        [(1, Delivered)],
        "they have found each other"
    );
    assert!(first[0].receipt.read.is_some());
    holding.report(report(7, Delivered), now + HOLD / 2);
    let second = taken(&mut holding, now + HOLD);
    assert_eq!(states(&second), [(7, Delivered)]);
    assert!(second[0].receipt.read.is_none());
    holding.written(&receipts(&first));
    holding.written(&receipts(&second));
    assert_eq!(holding.size(), (0, 0));
}

#[tokio::test]
async fn positions_follow_in_the_order_of_reading() {
    let (mut holding, observers, now) = (holding(), observers(), Instant::now());
    holding.accept(batch(&[1], 10), &observers, now);
    holding.accept(batch(&[2], 20), &observers, now);
    holding.accept(batch(&[], 30), &observers, now);
    holding.report(report(2, DeliveryState::Delivered), now);
    let second = taken(&mut holding, now);
    holding.written(&receipts(&second));
    assert!(holding.take_reached().is_empty());
    let first = taken(&mut holding, now + HOLD);
    holding.written(&receipts(&first));
    assert_eq!(holding.take_reached(), [(0, 1, position(30))]);
}

#[tokio::test]
async fn position_that_was_not_saved_is_taken_again_unless_a_later_one_is_there() {
    let (mut holding, observers, now) = (holding(), observers(), Instant::now());
    holding.accept(batch(&[], 10), &observers, now);
    let unsaved = holding.take_reached();
    assert!(holding.take_reached().is_empty());
    holding.return_reached(unsaved);
    let unsaved = holding.take_reached();
    assert_eq!(unsaved, [(0, 1, position(10))]);
    holding.accept(batch(&[], 20), &observers, now);
    holding.return_reached(unsaved);
    assert_eq!(holding.take_reached(), [(0, 1, position(20))]);
}

#[tokio::test]
async fn memory_is_bounded_while_nothing_is_written() {
    let (mut holding, observers, now) = (holding(), observers(), Instant::now());
    let mut id = 0;
    while holding.has_room() {
        id += 1;
        holding.accept(batch(&[id], 10), &observers, now);
        holding.report(report(-id, DeliveryState::Delivered), now);
        // Those that find their event free their place.
        holding.report(report(id, DeliveryState::Delivered), now);
    }
    assert!(holding.size().0 <= MAX_DOCUMENTS + 1);
    assert_eq!(holding.room(), 0);
    let all = holding.take(now, usize::MAX, u64::MAX, true);
    assert!(!holding.has_room(), "what is being written counts");
    holding.written(&receipts(&all));
    assert_eq!(holding.size(), (0, 0));
    assert!(holding.held_order.is_empty() && holding.late_order.is_empty());
}
