//! Why a condition is false, by its parts.

use super::*;

const ORDER: &str = r#"{"total":5,"status":"a && b","paid":false,"tags":["x"]}"#;

fn unmet(condition: &str) -> Vec<String> {
    let event = inserted(ORDER);
    let condition = Condition::compile(condition).unwrap_or_else(|e| panic!("{condition}: {e}"));
    condition.unmet(&EventView::new(&event))
}

#[test]
fn false_parts_are_the_innermost_that_join_the_whole() {
    for (condition, expected) in [
        ("new.total > 1", &[][..]),
        ("new.total > 10", &["new.total > 10"]),
        ("new.total > 1 && new.paid", &["new.paid"]),
        ("new.paid && new.total > 9", &["new.paid", "new.total > 9"]),
        ("new.paid || new.total > 9", &["new.paid", "new.total > 9"]),
        (
            "(new.paid || new.total > 9)",
            &["new.paid", "new.total > 9"],
        ),
        (
            "new.total == 5 && (new.paid || (new.total > 9 && new.total > 1))",
            &["new.paid", "new.total > 9"],
        ),
        // Brackets that are not around the whole.
        ("(new.paid) && (new.total > 1)", &["new.paid"]),
        ("((new.paid))", &["new.paid"]),
        // What looks like an operator, and is text or a comment.
        ("new.status == \"x && y\"", &["new.status == \"x && y\""]),
        ("new.total > 1 // && new.paid\n  && new.paid", &["new.paid"]),
        // Not joined by these two: as a whole.
        ("!(new.total > 1 && true)", &["!(new.total > 1 && true)"]),
        (
            "new.paid ? true : new.total > 9",
            &["new.paid ? true : new.total > 9"],
        ),
        (
            "new.tags.exists(t, t == 'y' || t == 'z')",
            &["new.tags.exists(t, t == 'y' || t == 'z')"],
        ),
        // A part that fails decides nothing.
        ("new.missing > 1 && new.paid", &["new.paid"]),
        ("  new.total\n    > 10 ", &["new.total > 10"]),
    ] {
        assert_eq!(unmet(condition), expected, "{condition}");
    }
}

#[test]
fn failing_condition_has_no_false_part() {
    assert!(unmet("new.missing > 1").is_empty());
    assert!(unmet("new.missing > 1 || new.paid").is_empty());
}
