//! Which rules an event reaches.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;
use crate::matching::{Rule, RuleMatch, RuleSet};

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
                RuleMatch::Match => observer.to_string(),
                RuleMatch::Failed(_) => format!("{observer} failed"),
            }
        })
        .collect()
}

#[test]
fn rules_match_by_entity_operation_and_condition_in_order() {
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
fn rule_of_a_tenant_skips_events_of_others() {
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
fn image_is_parsed_only_if_a_condition_reads_it() {
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

#[test]
fn indexed_rules_match_as_unindexed_ones() {
    let conditions = [
        "new.a == \"x\"",
        "\"x\" == new.a",
        "new.a == \"12\"",
        "new.a == 12",
        "new.a == 12.0 && new.b > 3",
        "new.b > 3 && new.a == -1.5",
        "new.b > 3 && old.a == true",
        "new.a == false",
        "new.a == null",
        "new.a != \"x\"",
        "!(new.a == \"x\")",
        "new.a == \"x\" || new.b > 3",
        "new.nope == 1 && new.a == \"x\"",
        "new.a == \"x\" && new.nope == 1",
        "new.a == new.b",
        "changed_to(\"a\", \"x\")",
        "changed_to(\"a\", 12) && new.b > 3",
        "changed_from(\"a\", \"x\")",
        "new != null && new.a == \"x\"",
        "operation == \"Insert\" && new.a == \"x\"",
        "old.a == \"x\"",
        "new.a == [1]",
    ];
    let values = [
        "\"x\"",
        "\"y\"",
        "\"12\"",
        "\"1.2e1\"",
        "12",
        "12.00",
        "-1.5",
        "true",
        "false",
        "null",
        "[1]",
        "{\"a\":1}",
        "\"\\ud800\"",
        "1e99999999999999999999",
    ];
    let mut images: Vec<String> = values
        .iter()
        .flat_map(|a| [1, 5].map(|b| format!("{{\"a\":{a},\"b\":{b}}}")))
        .collect();
    images.extend(["{}", "{\"a\":\"x\"}", "[1]", "{\"\\ud800\":1}"].map(str::to_owned));
    let mut events: Vec<Event> = images.iter().map(|image| inserted(image)).collect();
    events.extend(images.iter().map(|image| deleted(image)));
    for old in &images {
        events.extend(images.iter().map(|new| updated(old, new)));
    }
    let rules = conditions.map(|when| rule(when, "public.orders", &Operation::ALL, Some(when)));
    let rules = RuleSet::new(rules);
    let alone = conditions.map(|when| Condition::compile(when).unwrap());
    for event in &events {
        let said = conditions
            .iter()
            .zip(&alone)
            .filter_map(
                |(when, condition)| match condition.evaluate(&EventView::new(event)) {
                    Ok(holds) => holds.then(|| (*when).to_owned()),
                    Err(_) => Some(format!("{when} failed")),
                },
            );
        assert_eq!(
            matched(&rules, event),
            said.collect::<Vec<_>>(),
            "{event:?}"
        );
    }
    println!("{} events", events.len());
}

#[test]
fn rule_for_another_value_is_not_evaluated() {
    let when = |n: usize| format!("new.status == {n} && new.total > 10");
    let rules = (0..1000).map(|n| rule("a/x", "public.orders", &Operation::ALL, Some(&when(n))));
    let rules = RuleSet::new(rules);
    let watchers = &rules.index["public.orders"][Operation::Insert as usize];
    for (image, found) in [
        ("{\"status\":7,\"total\":1}", vec![7]),
        ("{\"status\":\"7\",\"total\":1}", vec![7]),
        ("{\"status\":null,\"total\":1}", vec![]),
        ("{\"status\":\"paid\",\"total\":1}", (0..1000).collect()),
        ("{\"total\":1}", (0..1000).collect()),
    ] {
        let event = inserted(image);
        assert_eq!(
            watchers.candidates(&EventView::new(&event)),
            found,
            "{image}"
        );
        assert_eq!(rules.watching(&event).count(), 1000);
    }
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
        RuleSet::new((0..count).map(|n| rule("a/x", &entity(n), &Operation::ALL, when)))
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
