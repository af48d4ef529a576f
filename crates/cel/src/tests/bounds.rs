//! No expression and no image can panic, hang, or fill a log.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Runs on a stack of the size that a runtime's worker has.
fn on_worker_stack<T: Send>(call: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        worker.spawn_scoped(scope, call).unwrap().join().unwrap()
    })
}

#[test]
fn expressions_are_bounded() {
    let chain = |part: &str, count: usize| format!("{}1 == 1", part.repeat(count));
    let nested = |open: &str, close: &str, count: usize| {
        format!("{}true{}", open.repeat(count), close.repeat(count))
    };
    for (condition, expected) in [
        ("true || ".repeat(2000) + "true", "8192 are allowed"),
        (chain("1+", 700), "nested too deeply"),
        (chain("1+", 1400), "more than 1500"),
        (format!("new{} == 1", ".a".repeat(700)), "nested too deeply"),
        (nested("(", ")", 1000), "nested too deeply"),
        (nested("[", "]", 30), "nested too deeply"),
        (chain("a,", 1000), "more than 1500"),
        (
            format!("new.a.matches(\"{}\")", "(a{99}){99}".repeat(3)),
            "pattern",
        ),
    ] {
        let message = refusal(&condition);
        assert!(
            message.contains(expected),
            "{}...: {message}",
            &condition[..20]
        );
    }
}

/// Far more than anything takes that does not grow out of bounds.
const IN_TIME: Duration = Duration::from_secs(10);

/// How long this thread has been on a processor so far, which the others of a busy machine add
/// nothing to.
fn on_processor() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn conditions_within_bounds_compile_fast_on_a_small_stack() {
    let event = inserted(r#"{"a":1}"#);
    for condition in [
        vec!["new.a == 1"; 200].join(" && "),
        vec!["new.a == 2"; 200].join(" || ") + " || true",
        format!("{}1 > 1", "1+".repeat(58)),
        format!("{}new.a == 1{}", "(".repeat(24), ")".repeat(24)),
        format!("{}true{}", "!(".repeat(24), ")".repeat(24)),
        format!("{}true", "!".repeat(1000)),
        format!("{}true{}", "[1].exists(x, ".repeat(20), ")".repeat(20)),
        format!("{}true", "new.a == 2 ? false : ".repeat(50)),
        format!("{}1 == 1", "- ".repeat(1400)),
    ] {
        let (outcome, took) = on_worker_stack(|| (evaluate(&condition, &event), on_processor()));
        assert_eq!(outcome, Ok(true), "{}...", &condition[..30]);
        assert!(took < IN_TIME, "{took:?} for {}...", &condition[..30]);
    }
}

#[test]
fn what_confuses_the_parser_is_refused_in_time() {
    for text in [
        "{1:".repeat(24) + "1" + &"}".repeat(24),
        "a{b:".repeat(24) + "1" + &"}".repeat(24),
        "(".repeat(24) + "?" + &")".repeat(24),
        "!(-(".repeat(12) + "&&" + &"))".repeat(12),
        "? ".repeat(1400),
        "a ".repeat(1400),
        "a.b(".repeat(24) + &")".repeat(24) + &" in".repeat(500),
        "[(".repeat(12) + "a?b:c?d" + &")]".repeat(12),
        "1 == ".repeat(700) + "1",
        "a.".repeat(700),
        "new".to_owned() + &"[0]".repeat(450),
    ] {
        let before = on_processor();
        assert!(Condition::compile(&text).is_err(), "{}...", &text[..10]);
        let took = on_processor().saturating_sub(before);
        assert!(took < IN_TIME, "{took:?} for {}...", &text[..10]);
    }
}

#[test]
fn deep_json_is_read_where_it_is_looked_at_and_no_deeper() {
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let objects = "{\"a\":".repeat(20_000) + "1" + &"}".repeat(20_000);
    let event = inserted(&format!(
        "{{\"deep\":{deep},\"a\":{objects},\"b\":{objects},\"n\":1}}"
    ));
    on_worker_stack(|| {
        assert_all(
            &event,
            &[("new.n == 1", true), ("size(new.deep[0][0]) == 1", true)],
        );
        assert!(failure("new.a == new.b", &event).contains("nested more than 64 deep"));
    });
}

#[test]
fn loops_within_loops_come_to_an_end() {
    let list = format!("{{\"a\":[{}1]}}", "1,".repeat(5000));
    let event = inserted(&list);
    let condition = "new.a.exists(x, new.a.exists(y, new.a.exists(z, x + y + z == 0))) || true";
    assert!(failure(condition, &event).contains("takes too long on this event"));
    let condition = "size(new.a.map(x, new.a.map(y, new.a))) == 1";
    assert!(failure(condition, &event).contains("takes too long on this event"));
}

#[test]
fn messages_are_bounded_and_hold_no_values() {
    let names: Vec<String> = (0..1000)
        .map(|n| format!("\"{}{n}\":\"secret\"", "x".repeat(300)))
        .collect();
    let event = inserted(&format!("{{{}}}", names.join(",")));
    for condition in [
        format!("new.{} == 1", "y".repeat(5000)),
        format!("new[\"{}\"].a == 1", "x".repeat(300) + "7"),
        format!("new.{}7 > 1", "x".repeat(300)),
    ] {
        let message = failure(&condition, &event);
        assert!(message.chars().count() <= 500, "{}", message.len());
        assert!(!message.contains("secret"), "{message}");
    }
    assert!(refusal(&"y".repeat(8000)).len() < 500);
}

#[test]
fn an_unreadable_field_is_the_events_fault() {
    let event = inserted(r#"{"a":"secret \ud800","b":1e99999999999999999999,"c":1}"#);
    for condition in ["new.a == \"x\"", "new.b > 1", "changed_to(\"a\", \"x\")"] {
        let failure = evaluate(condition, &event).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Event, "{failure:?}");
        assert!(!failure.message.contains("secret"), "{failure:?}");
    }
    assert_all(&event, &[("new.c == 1 && changed(\"a\")", true)]);
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,5})?([eE][-+]?[0-9]{1,12})?",
        "\"[a-zA-Z0-9 .é]{0,8}\"",
        Just("\"12.50\"".to_owned()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec(("[abc]", inner), 0..4).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "(old|new)\\.[abc](\\.[abc])?",
        "(old|new|key|tenant|operation|null|true)",
        "[0-9]{1,25}(\\.[0-9]{1,3})?(e[-+]?[0-9]{1,12})?",
        "'[a-z0-9]{0,4}'",
        "changed(_to|_from)?\\('[abc]'(, 1)?\\)",
        "x",
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = "(==|!=|<|<=|>|>=|&&|\\|\\||\\+|-|\\*|/|%|in)";
        let call = "(size|int|double|string|bool|timestamp|duration|has|-|!)";
        let method = "(startsWith|endsWith|contains|matches)";
        let loops = "(all|exists|exists_one|map|filter)";
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(l, o, r)| format!("({l} {o} {r})")),
            (call, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (inner.clone(), method, inner.clone()).prop_map(|(t, f, a)| format!("{t}.{f}({a})")),
            (inner.clone(), loops, inner.clone()).prop_map(|(t, f, b)| format!("{t}.{f}(x, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(t, i)| format!("{t}[{i}]")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(c, a, b)| format!("({c} ? {a} : {b})")),
            prop::collection::vec(inner, 0..3).prop_map(|v| format!("[{}]", v.join(", "))),
        ]
    })
}

/// A condition of any text either compiles or is refused in bounded words, and never worse.
fn survives(text: &str, event: &Event) {
    match Condition::compile(text) {
        Ok(condition) => {
            if let Err(failure) = condition.evaluate(&EventView::new(event)) {
                assert!(failure.message.chars().count() <= 500);
            }
        }
        Err(error) => {
            assert!(
                !matches!(error, crate::ConditionError::Parser),
                "parser: {text:?}"
            );
            assert!(error.to_string().len() < 1000, "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn well_formed_expressions_never_panic(text in expression(), old in json(), new in json()) {
        survives(&text, &updated(&old, &new));
    }

    #[test]
    fn odd_texts_never_panic(text in "\\PC{0,40}", words in prop::collection::vec(
        "(new|old|\\.a|\\.|==|&&|\\|\\||!|-|\\(|\\)|\\[|\\]|\\?|:|,|1|1e5|'a'|\"|`a`|in|x|exists|has|\\{|\\}|r'|//|\n| )", 0..25)) {
        let event = inserted(r#"{"a":[1,{"a":2}]}"#);
        survives(&text, &event);
        survives(&words.concat(), &event);
    }
}

#[test]
fn whatever_is_written_neither_panics_nor_hangs() {
    const CORPUS: [&str; 12] = [
        "new.total > 1000 && changed(\"status\")",
        "new.lines.exists(l, l.price > 1.5)",
        "new.note.matches(\"^a.*b$\") || old == null",
        "has(new.gone) ? new.gone == 1 : false",
        "new.id in [1, 2, 3]",
        "size(new.note) > 3",
        "new.lines.map(l, l.price * 2)[0] == 3.0",
        "timestamp(new.at) > timestamp(\"2020-01-01T00:00:00Z\")",
        "duration(\"1h\") < duration(\"2h\")",
        "string(new.id) + \"x\" == \"1x\"",
        "{\"a\": 1}.a == 1",
        "new.total / 3 * 3 == new.total",
    ];
    const WORDS: [&str; 22] = [
        " && ",
        " || ",
        "!",
        " == ",
        " in ",
        "new.lines",
        ".all(x, x > 1)",
        ".filter(x, true)",
        ".map(x, [x, x])",
        ".size()",
        ".startsWith(\"a\")",
        ".matches(\"(a+)+$\")",
        "int(",
        "double(",
        "changed(\"id\")",
        " / 0",
        " % 0",
        "9223372036854775807",
        "1e400",
        "b\"x\"",
        "0x7f",
        "null",
    ];
    let new = r#"{"id": 1, "total": 12.50, "note": "aaaaaaaaaaaaaaaaaaaaaaaaaaaab", "status": "new", "big": 1e300,
        "lines": [{"price": 1.5}, {"price": 2}, {"price": null}], "at": "2026-03-01T12:00:00Z"}"#;
    let updated = updated(r#"{"id": 1, "status": "old"}"#, new);
    let deleted = deleted(new);
    testkit::fuzz::Fuzz::new("conditions").run(&CORPUS, &WORDS, |text| {
        on_worker_stack(|| {
            let Ok(condition) = Condition::compile(text) else {
                return;
            };
            for event in [&updated, &deleted] {
                if let Err(failure) = condition.evaluate(&EventView::new(event)) {
                    assert!(failure.message.len() < 64 * 1024, "{text:?}");
                }
            }
        });
    });
}
