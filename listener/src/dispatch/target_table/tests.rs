//! Target numbers that stay, and those that are reused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crate::delivery::ActionName;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use crds::config::{
    ActionConfig, ActionKind, Egress, LogConfig, LogLevel, ObserverConfig, Operation, Retry,
};
use proptest::prelude::*;

use super::*;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointRegistry;

fn action(name: &str, attempts: u32) -> ActionConfig {
    ActionConfig {
        when: None,
        name: name.to_owned(),
        kind: ActionKind::Log(LogConfig {
            message: None,
            level: LogLevel::Debug,
        }),
        retry: Retry {
            attempts,
            ..Retry::default()
        },
        timeout: Duration::from_secs(1),
        queue: crds::config::ActionQueue::default(),
        ordering: crds::config::Ordering::default(),
        rate_limit: None,
        max_concurrency: None,
        cache: None,
    }
}

fn observer(name: &str, when: Option<&str>, actions: Vec<ActionConfig>) -> ObserverConfig {
    ObserverConfig {
        enrich: Vec::new(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        entity: "public.orders".to_owned(),
        operations: vec![Operation::Insert],
        tenant: None,
        when: when.map(str::to_owned),
        on_failure: crds::config::OnFailure::DeadLetter,
        actions,
        digest: [0; 32],
    }
}

/// Made once, as it reads the system's certificates.
fn shared() -> ActionRuntime {
    static SHARED: OnceLock<ActionRuntime> = OnceLock::new();
    let made = SHARED.get_or_init(|| {
        ActionRuntime::new(&Egress::default(), &EndpointRegistry::default()).unwrap()
    });
    made.clone()
}

fn compiled(configs: &[ObserverConfig]) -> Arc<Observers> {
    Arc::new(Observers::compile(configs, &shared()).unwrap())
}

/// Observers of one action each, by their names.
fn named(names: &[&str]) -> Arc<Observers> {
    let configs = names
        .iter()
        .map(|name| observer(name, None, vec![action("log", 1)]));
    compiled(&configs.collect::<Vec<_>>())
}

fn name_of(observer: &str) -> ActionName {
    ActionName::new(format!("default/{observer}"), "log")
}

fn inserted() -> ChangeRecord {
    ChangeRecord {
        xid: 10,
        only_for: None,
        event: Event {
            log_id: 1,
            id: "a-1".to_owned(),
            hash: 7,
            entity: "public.orders".into(),
            operation: Operation::Insert,
            key: Some("1".to_owned()),
            tenant: None,
            occurred_at: "2026-03-01T12:00:00Z".parse().unwrap(),
            old: None,
            new: None,
            trace: None,
        },
        oversized: None,
    }
}

#[test]
fn observer_that_does_not_compile_is_skipped_and_reported() {
    let configs = [
        observer("a", Some("new.total >"), vec![action("log", 1)]),
        observer("b", None, vec![action("log", 1)]),
    ];
    assert!(Observers::compile(&configs, &shared()).is_err());
    let (observers, problems) = Observers::compile_what_can_run(&configs, &shared());
    assert_eq!(observers.len(), 1);
    assert!(observers.find(&name_of("b")).is_some());
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (problems[0].observer.as_str(), problems[0].path.as_str()),
        ("default/a", "spec.when")
    );
}

#[test]
fn kept_target_keeps_its_number_and_new_settings() {
    let mut targets = TargetTable::new(named(&["a", "b", "c"]));
    let b = targets.find(&name_of("b")).unwrap();
    targets.replace(
        compiled(&[
            observer("aa", None, vec![action("log", 1)]),
            observer("b", None, vec![action("log", 9)]),
        ]),
        |_| false,
    );
    assert_eq!(targets.find(&name_of("b")), Some(b));
    assert_eq!(targets.target(b).unwrap().retry.attempts, 9);
    assert_eq!(targets.find(&name_of("a")), None);
    assert_eq!(targets.find(&name_of("aa")), Some(0), "a free number again");
    let (called, matched) = targets.match_event(&inserted());
    assert_eq!(called.run, [0, b]);
    assert_eq!(matched.len(), 2);
}

#[test]
fn removed_target_keeps_its_settings_until_idle() {
    let mut targets = TargetTable::new(named(&["a", "b"]));
    let a = targets.find(&name_of("a")).unwrap();
    targets.replace(named(&["c"]), |target| target == a);
    assert_eq!(*targets.target(a).unwrap().name.observer, *"default/a");
    assert_eq!(targets.find(&name_of("a")), None, "nothing new comes to it");
    assert_eq!(
        targets.match_event(&inserted()).0.run,
        [1],
        "the number of b"
    );

    // It is back before its last delivery is over, and after.
    targets.replace(named(&["a", "c"]), |target| target == a);
    assert_eq!(targets.find(&name_of("a")), Some(a));
    targets.replace(named(&["d"]), |_| false);
    assert_eq!(targets.find(&name_of("d")), Some(0));
    assert_eq!(targets.len(), 2);
}

proptest! {
    #[test]
    fn numbers_are_unique_stable_and_few(
        steps in prop::collection::vec(
            (prop::collection::hash_set(0usize..8, 0..6), prop::collection::hash_set(0usize..12, 0..3)),
            1..30,
        ),
    ) {
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut targets = TargetTable::new(named(&[]));
        let mut before: HashMap<Target, ActionName> = HashMap::new();
        for (chosen, pending) in steps {
            let names: Vec<&str> = chosen.iter().map(|n| NAMES[*n]).collect();
            targets.replace(named(&names), |target| pending.contains(&target));
            let now: HashMap<Target, ActionName> = (0..targets.len())
                .filter_map(|n| Some((n, targets.target(n)?.name.clone())))
                .collect();
            for (target, name) in &before {
                if pending.contains(target) {
                    prop_assert_eq!(now.get(target), Some(name), "it is owed its last deliveries");
                }
            }
            for name in &names {
                let target = targets.find(&name_of(name)).unwrap();
                prop_assert_eq!(&now[&target], &name_of(name));
                let kept = before.iter().find(|(_, known)| **known == name_of(name));
                prop_assert!(kept.is_none_or(|(known, _)| *known == target), "it keeps its number");
            }
            prop_assert_eq!(now.values().collect::<HashSet<_>>().len(), now.len());
            prop_assert!(targets.len() <= NAMES.len() + 3, "five at once, and what is owed");
            before = now;
        }
    }
}
