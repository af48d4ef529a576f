#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod bounds;
mod conditions;
mod explain;

use std::cell::OnceCell;

use crate::value::JsonError;
use crate::{Condition, ErrorKind, EvaluationError, Image, Inputs, Side};

/// An event of `public.orders`.
#[derive(Debug)]
struct Event {
    operation: &'static str,
    old: Option<String>,
    new: Option<String>,
    enrich: Option<String>,
}

/// The event as conditions see it.
#[derive(Debug)]
struct EventView<'e> {
    event: &'e Event,
    images: [OnceCell<Result<Image<'e>, JsonError>>; 2],
    enrich: OnceCell<Result<Image<'e>, JsonError>>,
}

impl<'e> EventView<'e> {
    fn new(event: &'e Event) -> Self {
        Self {
            event,
            images: [OnceCell::new(), OnceCell::new()],
            enrich: OnceCell::new(),
        }
    }
}

impl Inputs for EventView<'_> {
    fn operation(&self) -> &str {
        self.event.operation
    }

    fn entity(&self) -> &'static str {
        "public.orders"
    }

    fn key(&self) -> Option<&str> {
        Some("42")
    }

    fn tenant(&self) -> Option<&str> {
        Some("acme")
    }

    fn image(&self, side: Side) -> Result<&Image<'_>, JsonError> {
        let json = match side {
            Side::Old => &self.event.old,
            Side::New => &self.event.new,
        };
        self.images[side as usize]
            .get_or_init(|| Image::read(json.as_deref()))
            .as_ref()
            .map_err(|error| *error)
    }

    fn enrich(&self) -> Result<&Image<'_>, JsonError> {
        self.enrich
            .get_or_init(|| Image::read(self.event.enrich.as_deref()))
            .as_ref()
            .map_err(|error| *error)
    }

    fn is_row_change(&self) -> bool {
        !matches!(self.event.operation, "Truncate" | "Custom")
    }
}

fn event(operation: &'static str, old: Option<&str>, new: Option<&str>) -> Event {
    Event {
        operation,
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
        enrich: None,
    }
}

fn inserted(new: &str) -> Event {
    event("Insert", None, Some(new))
}

fn updated(old: &str, new: &str) -> Event {
    event("Update", Some(old), Some(new))
}

fn deleted(old: &str) -> Event {
    event("Delete", Some(old), None)
}

/// What a condition says to an event.
fn evaluate(condition: &str, event: &Event) -> Result<bool, EvaluationError> {
    let condition = Condition::compile(condition).unwrap_or_else(|e| panic!("{condition}: {e}"));
    condition.evaluate(&EventView::new(event))
}

/// Why a condition fails on an event, in words.
fn failure(condition: &str, event: &Event) -> String {
    let failure = evaluate(condition, event).expect_err(condition);
    assert_eq!(failure.kind, ErrorKind::Condition, "{failure:?}");
    failure.message
}

/// Why a condition is refused, in words.
fn refusal(condition: &str) -> String {
    Condition::compile(condition)
        .expect_err(condition)
        .to_string()
}

/// Asserts that each condition says what stands beside it.
fn assert_all(event: &Event, expected: &[(&str, bool)]) {
    for (condition, expected) in expected {
        assert_eq!(evaluate(condition, event), Ok(*expected), "{condition}");
    }
}
