//! What conditions say to events.

use super::*;

const ORDER: &str = r#"{"id":42,"total":1250.00,"status":"paid","note":null,"rush":true,
    "tags":["a","b"],"items":[{"sku":"x1","price":9.5},{"sku":"y2","price":20}],
    "address":{"city":"Graz"},"text_amount":"12.50","big_id":"9007199254740993",
    "big":12345678901234567890123,"amount":0.1,"huge":1e400,"Ship To":"Linz",
    "created_at":"2025-01-31T14:00:00+02:00"}"#;

#[test]
fn numbers_are_exact() {
    assert_all(
        &inserted(ORDER),
        &[
            ("new.total > 1000", true),
            ("new.total == 1250", true),
            ("1000 < new.total", true),
            ("new.big == 12345678901234567890123", true),
            ("new.big == 12345678901234567890124", false),
            ("new.amount == 0.1", true),
            ("new.amount + 0.2 == 0.3", true),
            ("new.amount == 0.1000000000000000000000001", false),
            ("new.huge > 1e399", true),
            ("new.huge == 1e400", true),
            ("new.huge < 1e1000000000", true),
            ("-new.amount == -0.1", true),
            ("-1e500 < -1e499", true),
            ("new.total - 1250.00 == 0", true),
            ("7 / 2 == 3.5 && 7 % 2 == 1 && 2 * 3 == 6", true),
            ("int(7 / 2) == 3", true),
            ("1-1 == 0", true),
        ],
    );
}

#[test]
fn text_that_holds_a_number_compares_as_one() {
    assert_all(
        &inserted(ORDER),
        &[
            ("new.text_amount > 10", true),
            ("9 < new.text_amount", true),
            ("new.text_amount == 12.5", true),
            ("new.text_amount * 2 == 25", true),
            ("new.big_id == 9007199254740993", true),
            ("new.big_id != 9007199254740992", true),
            ("new.text_amount == \"12.5\"", false),
            ("\"9\" > \"10\"", true),
            ("double(\"9\") > double(\"10\")", false),
        ],
    );
    for condition in ["new.status > 10", "new.status == 10", "10 != new.status"] {
        let message = failure(condition, &inserted(ORDER));
        assert!(
            message.contains("`new.status` is text that is not a number"),
            "{message}"
        );
        assert!(!message.contains("paid"), "{message}");
    }
}

#[test]
fn null_is_equal_to_null_alone_and_has_no_order() {
    assert_all(
        &inserted(ORDER),
        &[
            ("new.note == null", true),
            ("new.note != null", false),
            ("new.total == null", false),
            ("new.note == 5", false),
            ("new.note == \"x\"", false),
            ("old == null", true),
            ("new != null", true),
            ("new.note != null && new.note > 5", false),
        ],
    );
    let message = failure("new.note > 5", &inserted(ORDER));
    assert!(
        message.contains("column 10: `>` needs two values, but `new.note` is null; guard with `new.note != null &&`"),
        "{message}"
    );
}

#[test]
fn unlike_kinds_are_an_error_and_not_unequal() {
    let message = failure("new.rush == \"true\"", &inserted(ORDER));
    assert!(
        message.contains("`new.rush` is a boolean and the text is text"),
        "{message}"
    );
    let message = failure("new.tags > 1", &inserted(ORDER));
    assert!(message.contains("`new.tags` is a list"), "{message}");
}

#[test]
fn a_missing_field_is_named_with_what_was_meant() {
    let message = failure("new.totl > 5", &inserted(ORDER));
    assert!(
        message.contains("no field `totl` in `new`; did you mean `total`?"),
        "{message}"
    );
    assert!(
        message.contains("it has: Ship To, address, amount"),
        "{message}"
    );
    let message = failure("new.address.zip == 1", &inserted(ORDER));
    assert!(
        message.contains("no field `zip` in `new.address`"),
        "{message}"
    );
    let message = failure("changed(\"totl\")", &inserted(ORDER));
    assert!(message.contains("did you mean `total`?"), "{message}");
    assert_all(
        &inserted(ORDER),
        &[
            ("has(new.totl) && new.totl > 5", false),
            ("has(new.total)", true),
            ("has(new.note)", true),
            ("has(new.address.city)", true),
            ("has(new[\"Ship To\"])", true),
            ("has(old.total)", false),
        ],
    );
}

#[test]
fn an_absent_image_is_explained() {
    let message = failure("new.total > 1000", &deleted(ORDER));
    assert!(
        message.contains(
            "`new` is absent on Delete: guard with `new != null &&`, or watch fewer operations"
        ),
        "{message}"
    );
    assert!(failure("old.total > 1", &inserted(ORDER)).contains("`old` is absent on Insert"));
    assert_all(
        &deleted(ORDER),
        &[
            ("operation != \"Delete\" && new.total > 1000", false),
            ("new != null && new.total > 1000", false),
            ("old.total > 1000", true),
        ],
    );
}

#[test]
fn either_side_of_and_or_may_decide() {
    assert_all(
        &inserted(ORDER),
        &[
            ("new.nope == 1 || true", true),
            ("true || new.nope == 1", true),
            ("new.nope == 1 && false", false),
            ("new.tags.exists(t, t == \"b\" || t > 5)", true),
            ("new.tags.all(t, t > 5 || t == \"x\") || true", true),
            ("new.rush ? new.total > 1 : new.nope", true),
        ],
    );
    for condition in [
        "new.nope == 1 || false",
        "new.nope == 1 && true",
        "true && new.nope == 1",
    ] {
        assert!(failure(condition, &inserted(ORDER)).contains("no field `nope`"));
    }
}

#[test]
fn rows_are_looked_into() {
    assert_all(
        &inserted(ORDER),
        &[
            ("new.address.city == \"Graz\"", true),
            ("new[\"address\"][\"city\"] == \"Graz\"", true),
            ("new.`Ship To` == \"Linz\"", true),
            ("new.tags[1] == \"b\"", true),
            ("new.items[0].price < new.items[1].price", true),
            (
                "new.items.exists(i, i.price >= 20 && i.sku.startsWith(\"y\"))",
                true,
            ),
            ("new.items.all(i, i.price > 10)", false),
            ("new.items.exists_one(i, i.price > 10)", true),
            ("new.items.map(i, i.sku) == [\"x1\", \"y2\"]", true),
            ("new.items.map(i, i.price > 10, i.sku) == [\"y2\"]", true),
            ("size(new.items.filter(i, i.price > 10)) == 1", true),
            (
                "new.items.exists(i, new.tags.exists(t, t == \"a\" && i.sku == \"x1\"))",
                true,
            ),
            (
                "new.tags.size() == 2 && size(new.status) == 4 && size(new.address) == 1",
                true,
            ),
            ("new.status in [\"paid\", \"sent\"]", true),
            ("new.id in [1, \"42\"]", true),
            ("\"a\" in new.tags", true),
            ("\"city\" in new.address", true),
            ("new.address.exists(name, name == \"city\")", true),
            ("new.tags + [\"c\"] == [\"a\", \"b\", \"c\"]", true),
            ("new == new && new.items == new.items", true),
            ("[1, \"a\"] == [1.0, \"a\"]", true),
            ("[1] == [\"1\"]", false),
        ],
    );
    let event = inserted(ORDER);
    assert!(failure("new.tags[2] == \"c\"", &event).contains("`new.tags` has 2 elements"));
    assert!(
        failure("new.status.x == 1", &event).contains("`new.status` is text and has no fields")
    );
    assert!(
        failure("new.total.exists(x, x)", &event).contains("`new.total` is a number, not a list")
    );
    assert!(failure("new.note.x == 1", &event).contains("guard with `new.note` != null"));
}

#[test]
fn text_functions_and_conversions() {
    assert_all(
        &inserted(ORDER),
        &[
            (
                "new.status.endsWith(\"id\") && new.status.contains(\"ai\")",
                true,
            ),
            (
                "new.status.matches(\"^p.*d$\") && matches(new.status, 'a')",
                true,
            ),
            ("string(new.total) == \"1250\"", true),
            ("\"n\" + string(new.amount) == \"n0.1\"", true),
            ("bool(\"true\") && !bool(\"f\")", true),
            (
                "timestamp(new.created_at) == timestamp(\"2025-01-31T12:00:00Z\")",
                true,
            ),
            (
                "timestamp(new.created_at) + duration(\"1h\") > timestamp(\"2025-01-31\")",
                true,
            ),
            (
                "timestamp(new.created_at) - timestamp(\"2025-01-31\") == duration(\"12h\")",
                true,
            ),
            (
                "\"3 > 2 'and' 1e999\" == '3 > 2 \\'and\\' 1e999' // and = 1e999",
                true,
            ),
            ("r\"\\d 123456\" == \"\\\\d 123456\"", true),
            (
                "\"\"\"a \"quoted\" 12345\"\"\" == 'a \"quoted\" 12345'",
                true,
            ),
        ],
    );
    let event = inserted(ORDER);
    assert!(failure("new.total.contains(\"1\")", &event).contains("`contains` needs text"));
    assert!(failure("int(new.status) == 1", &event).contains("cannot be read as a number"));
    assert!(failure("new.total / 0 > 1", &event).contains("division by zero"));
    assert!(failure("new.total % (1 - 1) > 1", &event).contains("division by zero"));
    assert!(
        failure("new.huge * new.huge * new.huge > 1", &event).contains("more than 1000 digits")
    );
}

#[test]
fn the_event_itself_can_be_asked() {
    assert_all(
        &inserted(ORDER),
        &[
            ("operation == \"Insert\"", true),
            ("operation in [\"Update\", \"Delete\"]", false),
            (
                "entity == \"public.orders\" && key == \"42\" && key == 42",
                true,
            ),
            ("tenant == \"acme\"", true),
        ],
    );
}

#[test]
fn changed_compares_before_and_after() {
    const OLD: &str = r#"{"status":"new","total":1,"note":null}"#;
    const NEW: &str = r#"{"status":"paid","total":1,"note":null}"#;
    let (update, insert, delete) = (updated(OLD, NEW), inserted(NEW), deleted(OLD));
    for (condition, on_update, on_insert, on_delete) in [
        ("changed(\"status\")", true, true, true),
        ("changed(\"total\")", false, true, true),
        ("changed(\"sta\" + \"tus\")", true, true, true),
        ("changed_to(\"status\", \"paid\")", true, true, false),
        ("changed_to(\"total\", 1)", false, true, false),
        ("changed_to(\"note\", null)", false, true, false),
        ("changed_from(\"status\", \"new\")", true, false, true),
        ("changed_from(\"total\", 1)", false, false, true),
        ("changed_from(\"status\", \"paid\")", false, false, false),
    ] {
        assert_eq!(
            evaluate(condition, &update),
            Ok(on_update),
            "{condition} on Update"
        );
        assert_eq!(
            evaluate(condition, &insert),
            Ok(on_insert),
            "{condition} on Insert"
        );
        assert_eq!(
            evaluate(condition, &delete),
            Ok(on_delete),
            "{condition} on Delete"
        );
    }
    let custom = event("Custom", None, Some("[1, 2]"));
    assert_all(
        &custom,
        &[
            ("changed(\"status\")", false),
            ("changed_to(\"status\", 1)", false),
            ("new[1] == 2", true),
        ],
    );
    let truncate = event("Truncate", None, None);
    assert_all(
        &truncate,
        &[("changed(\"status\")", false), ("new == old", true)],
    );
}

#[test]
fn a_result_must_be_true_or_false() {
    let message = failure("new.total", &inserted(ORDER));
    assert!(
        message.contains("`new.total` is a number, not true or false"),
        "{message}"
    );
    assert_all(
        &inserted(ORDER),
        &[("new.rush", true), ("!new.rush", false)],
    );
    assert!(failure("new.total || false", &inserted(ORDER)).contains("is a number"));
}

#[test]
fn what_cannot_work_is_refused_with_its_place_and_remedy() {
    for (condition, expected) in [
        ("", "empty"),
        ("  // nothing", "empty"),
        ("5", "gives a number, not true or false"),
        ("new.total + 1", "gives the result of arithmetic"),
        ("\"x\"", "gives text"),
        ("new", "gives a row"),
        ("new.items.map(i, i)", "gives a list"),
        ("size(new.tags)", "gives a number"),
        (
            "total > 5",
            "column 1: unknown name `total`; a field of the row is written `new.total`",
        ),
        (
            "new.a == 1 && nwe.b == 1",
            "column 15: unknown name `nwe`; did you mean `new`?",
        ),
        (
            "old.a == 1 &&\n  neww.b",
            "line 2, column 3: unknown name `neww`",
        ),
        (
            "chnged(\"a\")",
            "column 1: unknown function `chnged`; did you mean `changed`?",
        ),
        (
            "new.a.startswith(\"b\")",
            "column 7: unknown function `startswith`; did you mean `startsWith`?",
        ),
        ("foo(1)", "unknown function `foo`; known are: size"),
        ("changed()", "write changed(\"status\")"),
        ("new.a.changed()", "write changed(\"status\")"),
        ("has(new)", "write has(new.total)"),
        ("new.a.matches(new.b)", "must be a text in quotes"),
        (
            "new.a.matches(\"(\")",
            "the pattern of `matches` cannot be used: unclosed group",
        ),
        (
            "new.a.matches(\"(a{1000}){1000}\")",
            "cannot be used: it is too large",
        ),
        (
            "new.a - new.b < duration(\"5 days\")",
            "\"5 days\" is no duration; write hours",
        ),
        ("new.a > timestamp(\"today\")", "\"today\" is no time"),
        ("new.a ==", "something is missing at the end"),
        ("new.a new.b", "`new` cannot stand here"),
        ("new.a.exists(i)", "write new.items.exists(item"),
        ("new.a.exists(new.b, true)", "first argument is a name"),
        ("new.a = 1", "column 7: `=` does not compare; write `==`"),
        ("new.a == 1 and new.b", "`and` is written `&&`"),
        ("NOT new.a", "`NOT` is written `!`"),
        ("new.a <> 1", "`<>` is written `!=`"),
        ("(new.a", "column 1: this bracket is never closed"),
        ("new.a)", "column 6: this bracket closes none"),
        ("new.a == 'x", "column 10: this text is never closed"),
        ("new.a == 0x1F", "decimal digits only"),
        ("new.a == 1u", "decimal digits only"),
        (
            "new.a == 1e99999999999999999999",
            "exponent of this number is too large",
        ),
        ("{\"a\": 1} == new.a", "objects in braces are not offered"),
        ("b\"x\" == new.a", "bytes are not offered"),
        ("operation == \"delete\"", "did you mean `Delete`?"),
        (
            "operation in [\"Inserted\", new.a]",
            "did you mean `Insert`?",
        ),
        ("new.a == ", "column 10"),
        ("new.a ü", "means nothing here"),
        ("new.?a == 1", "column"),
    ] {
        let message = refusal(condition);
        assert!(message.contains(expected), "{condition}: {message}");
    }
}

#[test]
fn all_mistakes_of_a_condition_are_told() {
    let text = "nwe.a == 1 && chnged(\"b\", old2) || new.c.matches(\"[\") && !has(neww.d)";
    let error = Condition::compile(text).expect_err(text);
    let said: Vec<String> = error.each().iter().map(ToString::to_string).collect();
    let expected = [
        "column 1: unknown name `nwe`",
        "unknown function `chnged`",
        "unknown name `old2`",
        "unclosed character class",
        "unknown name `neww`",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(error.to_string().ends_with("(and 4 more)"), "{error}");
}

#[test]
fn a_loop_variable_may_hide_a_name_within_its_loop_only() {
    assert_all(
        &inserted(ORDER),
        &[("new.tags.exists(key, key == \"a\") && key == \"42\"", true)],
    );
    assert!(refusal("new.tags.exists(t, true) && t == 1").contains("unknown name `t`"));
}

#[test]
fn what_the_guide_shows_compiles() {
    let guide = include_str!("../../../../docs/how-to/conditions.md");
    let blocks = guide.split("\n```\n").skip(2).step_by(2);
    let shown: Vec<&str> = blocks
        .flat_map(str::lines)
        .filter(|line| line.contains("new"))
        .collect();
    assert!(shown.len() >= 8, "{shown:?}");
    for condition in shown {
        Condition::compile(condition).expect(condition);
    }
}

#[test]
fn results_of_lookups_are_compared_like_rows() {
    let mut event = inserted(r#"{"total": 5}"#);
    event.enrich =
        Some(r#"{"customer": {"tier": "gold", "limit": 10.5}, "note": null}"#.to_owned());
    let known = || ["customer", "note"].map(str::to_owned).to_vec();
    for (text, holds) in [
        (
            "enrich.customer.tier == 'gold' && new.total < enrich.customer.limit",
            true,
        ),
        ("enrich.note == null", true),
        ("has(enrich.customer.name)", false),
        ("enrich['customer'].tier == 'silver'", false),
    ] {
        let condition = Condition::compile_with_lookups(text, known()).unwrap();
        assert_eq!(
            condition.evaluate(&EventView::new(&event)),
            Ok(holds),
            "{text}"
        );
    }
    let condition = Condition::compile_with_lookups("enrich.note.tier == 1", known()).unwrap();
    let error = condition.evaluate(&EventView::new(&event)).unwrap_err();
    assert!(error.message.contains("`enrich.note` is null"), "{error}");
}
