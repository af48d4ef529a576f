//! Which rules an event reaches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;
use crate::rules::{Rule, RuleSet, Verdict};

fn rule(name: &str, entity: &str, operations: &[Operation], when: Option<&str>) -> Rule {
    Rule {
        observer: Arc::from(name),
        entity: entity.to_owned(),
        operations: operations.to_vec(),
        tenant: None,
        condition: when.map(|text| Condition::compile(text).unwrap()),
    }
}

fn matched(rules: &RuleSet, event: &Event) -> Vec<String> {
    rules
        .matches(event)
        .into_iter()
        .map(|(place, verdict)| {
            let observer = &rules.rules()[place].observer;
            match verdict {
                Verdict::Match => observer.to_string(),
                Verdict::Failed(_) => format!("{observer} failed"),
            }
        })
        .collect()
}

#[test]
fn rules_are_chosen_by_entity_operation_and_condition_in_their_order() {
    use Operation::{Insert, Update};
    let rules = RuleSet::new(vec![
        rule("b/all", "public.orders", &[Insert, Update, Insert], None),
        rule("a/update", "public.orders", &[Update], None),
        rule("a/other", "public.users", &[Insert], None),
        rule("a/big", "public.orders", &[Insert], Some("new.total > 10")),
        rule(
            "a/small",
            "public.orders",
            &[Insert],
            Some("new.total < 10"),
        ),
        rule("a/wrong", "public.orders", &[Insert], Some("new.nope > 10")),
    ]);
    let insert = inserted(r#"{"total":11}"#);
    assert_eq!(
        matched(&rules, &insert),
        ["b/all", "a/big", "a/wrong failed"]
    );
    assert_eq!(matched(&rules, &updated("{}", "{}")), ["b/all", "a/update"]);
    assert!(matched(&rules, &deleted("{}")).is_empty());
    assert!(matched(&RuleSet::default(), &insert).is_empty());
}

#[test]
fn a_tenants_rule_never_looks_at_another_tenants_event() {
    let mut bound = rule(
        "a/bound",
        "public.orders",
        &[Operation::Insert],
        Some("new.nope"),
    );
    bound.tenant = Some("globex".to_owned());
    let rules = RuleSet::new(vec![bound]);
    let mut event = inserted("{}");
    assert!(matched(&rules, &event).is_empty());
    event.tenant = None;
    assert!(matched(&rules, &event).is_empty());
    event.tenant = Some("globex".to_owned());
    assert_eq!(matched(&rules, &event), ["a/bound failed"]);
}

#[test]
fn an_image_is_not_read_unless_a_condition_looks_into_it() {
    let unreadable = inserted(r#"{"\ud800":1}"#);
    let rules = |when| {
        RuleSet::new(vec![rule(
            "a/x",
            "public.orders",
            &[Operation::Insert],
            when,
        )])
    };
    assert_eq!(matched(&rules(None), &unreadable), ["a/x"]);
    assert_eq!(matched(&rules(Some("key == \"42\"")), &unreadable), ["a/x"]);
    assert_eq!(
        matched(&rules(Some("new.a == 1")), &unreadable),
        ["a/x failed"]
    );
}

#[test]
fn rules_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<RuleSet>();
}

/// Mean time of one call.
fn time(mut call: impl FnMut()) -> Duration {
    const CALLS: u32 = 20_000;
    let start = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    start.elapsed() / CALLS
}

#[test]
#[ignore = "prints timings: cargo test -p observer-listener rules::tests::ruleset::timings -- --ignored --nocapture"]
fn timings() {
    let others = |count: usize| {
        let entity = |n| format!("public.table_{n}");
        let when = Some("new.total > 1000");
        RuleSet::new(
            (0..count)
                .map(|n| rule("a/x", &entity(n), &Operation::ALL, when))
                .collect(),
        )
    };
    let columns: Vec<String> = (0..15)
        .map(|n| format!("\"column_{n}\":\"some text {n}\""))
        .collect();
    let row = |total| {
        format!(
            "{{\"id\":42,\"total\":{total},\"status\":\"paid\",{}}}",
            columns.join(",")
        )
    };
    let event = updated(&row(900), &row(1250));
    let (one, thousand) = (others(1), others(1000));
    let unmatched_one = time(|| drop(black_box(one.matches(&event))));
    let unmatched_thousand = time(|| drop(black_box(thousand.matches(&event))));
    let when = Some("new.total > 1000 && changed(\"total\")");
    let watching = RuleSet::new(vec![rule("a/x", "public.orders", &Operation::ALL, when)]);
    let matching = time(|| drop(black_box(watching.matches(&event))));
    println!("unmatched, 1 rule: {unmatched_one:?}; 1000 rules: {unmatched_thousand:?}");
    println!(
        "ratio: {:.2}",
        unmatched_thousand.as_secs_f64() / unmatched_one.as_secs_f64()
    );
    println!(
        "condition on two images of {} bytes: {matching:?}",
        row(900).len()
    );
}
