//! The work of the hot functions, each once: measured in time by `cargo bench`, and in instructions
//! by a test.

#![allow(clippy::unwrap_used, reason = "a measurement may panic")]

use std::fmt::Write as _;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::Operation;
use crds::loader::load;
use crds::manifest::SourceFile;
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::capture::change_log::ChangeRecord;
use observer_listener::capture::position::{LogBound, Position, ReadOrder, next_read};
use observer_listener::delivery::Delivery;
use observer_listener::delivery::event::Event;
use observer_listener::dispatch::lanes::Lanes;
use observer_listener::observers::Observers;

/// Lanes of the deliveries, and deliveries in each.
const LANES: u32 = 100;
const DEPTH: u32 = 4;

/// Everything that the work is done on.
pub(crate) struct Work {
    observers: Observers,
    logged: ChangeRecord,
    default_body: Delivery,
    templated: Delivery,
    positions: Vec<Position>,
    now: DateTime<Utc>,
}

/// Does some work once; what it answers is to be kept from being optimised away.
type Once = fn(&Work) -> usize;

/// All the work, by its names.
pub(crate) const ALL: [(&str, Once); 5] = [
    ("matching", Work::matching),
    ("event_as_json", Work::event_as_json),
    ("template", Work::template),
    ("lanes", Work::lanes),
    ("window_paging", Work::window_paging),
];

impl Work {
    /// With so many observers of one entity, of which one matches.
    pub(crate) fn new(observers: usize) -> Self {
        let observers = compiled(observers);
        let event = event();
        let delivery = |observer: &str| Delivery {
            event: Arc::new(event.clone()),
            observer: Arc::from(observer),
            action: Arc::from("post"),
            attempt: 1,
            replay: None,
            enrich: None,
            trace: observer_listener::trace::spans::AttemptTrace::default(),
        };
        let (default_body, templated) = (delivery("default/o0"), delivery("default/o1"));
        let logged = ChangeRecord {
            oversized: None,
            xid: 1000,
            only_for: None,
            event,
        };
        Self {
            observers,
            logged,
            default_body,
            templated,
            positions: positions(),
            now: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
        }
    }

    /// Which observers an event calls for.
    fn matching(&self) -> usize {
        self.observers.match_event(&self.logged).0.run.len()
    }

    /// A request with the event as its body.
    fn event_as_json(&self) -> usize {
        self.preview(&self.default_body, 0)
    }

    /// A request with a template as its body.
    fn template(&self) -> usize {
        self.preview(&self.templated, 1)
    }

    /// Takes deliveries in, and runs all of them to their end.
    #[expect(clippy::unused_self, reason = "one shape for all the work")]
    fn lanes(&self) -> usize {
        let mut lanes = Lanes::new(4, 64, 64);
        for n in 0..LANES * DEPTH {
            lanes.push((n as usize % 4, n % LANES), n);
        }
        let (mut running, mut done) = (Vec::new(), 0);
        loop {
            while let Some((id, _)) = lanes.start_next() {
                running.push(id);
            }
            let Some(id) = running.pop() else { break };
            done += usize::from(lanes.finish(id).is_some());
        }
        assert_eq!(done, (LANES * DEPTH) as usize);
        done
    }

    /// What to read next, of shards that stand at different places.
    fn window_paging(&self) -> usize {
        let all: Vec<&Position> = self.positions.iter().collect();
        let last = next_read(&all, ReadOrder::Lagging, 1).unwrap().1.len();
        last + next_read(&all, ReadOrder::Leading, 1).unwrap().1.len()
    }

    /// Makes what an action would send.
    fn preview(&self, delivery: &Delivery, target: usize) -> usize {
        let action = &self.observers.targets()[target].action;
        let preview = action.preview(delivery, self.now).unwrap();
        preview.iter().map(|(_, text)| text.len()).sum()
    }
}

/// The first sends the event, the second a template; the others never match.
fn compiled(observers: usize) -> Observers {
    let mut text = "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\n\
         metadata: {name: hot}\nspec: {database: {url: {value: postgres://localhost/hot}}}\n"
        .to_owned();
    for n in 0..observers {
        let body = match n {
            1 => {
                "        body: '{\"order\": {{ new.id }}, \"note\": {{ new.note }}, \"paid\": {{ new.total|money }}}'\n"
            }
            _ => "",
        };
        let when = match n {
            0 => "new.total > 100.0 && new.status == 'paid' && old.status != new.status".to_owned(),
            _ => format!("new.id == {n} && new.status == 'lost'"),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: o{n}}}\nspec:\n  \
             events: {{entity: public.order, operations: [Update]}}\n  when: \"{when}\"\n  actions:\n    \
             - name: post\n      webhook:\n        url: {{value: https://hooks.example.com/orders}}\n{body}"
        );
    }
    let files = [SourceFile {
        path: "hot.yaml".to_owned(),
        text,
    }];
    let loaded = load(&files, &|_, _| None, None).unwrap().bundle;
    let shared = ActionRuntime::new(&loaded.listener.egress, &EndpointRegistry::default()).unwrap();
    Observers::compile(&loaded.observers, &shared).unwrap()
}

fn event() -> Event {
    let image = |status: &str, total: &str| {
        let note = "x".repeat(200);
        let text = format!(
            r#"{{"id":4711,"customer":17,"status":"{status}","total":{total},"note":"{note}","placed":"2026-01-01T00:00:00+00:00"}}"#
        );
        Some(serde_json::value::RawValue::from_string(text).unwrap())
    };
    Event {
        log_id: 4711,
        id: "0a1b2c3d-4711".to_owned(),
        hash: 12_345,
        entity: Arc::from("public.order"),
        operation: Operation::Update,
        key: Some("4711".to_owned()),
        tenant: None,
        occurred_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
        old: image("placed", "1234.50"),
        new: image("paid", "1234.50"),
        trace: None,
    }
}

/// Of 64 shards, half of them in an open window.
fn positions() -> Vec<Position> {
    let mark = |xid: u64, id: i64| {
        Arc::new(LogBound {
            low_id: id - 100,
            snapshot: format!("{xid}:{}:{xid},{}", xid + 20, xid + 7)
                .parse()
                .unwrap(),
            high_id: id,
        })
    };
    let (from, to) = (mark(1000, 5000), mark(2000, 9000));
    (0..64)
        .map(|n| match n % 4 {
            0 => Position::at(Arc::clone(&to)),
            1 => Position::at(Arc::clone(&from)),
            _ => Position {
                from: Arc::clone(&from),
                to: Some(Arc::clone(&to)),
                last_id: 6000 + n,
            },
        })
        .collect()
}
