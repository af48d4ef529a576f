//! The parts of a document that are searched, each with its field.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use serde_json::value::RawValue;

use super::json::{Leaf, leaves};
use super::terms::Path;
use crate::document::{DeliveryEntry, Document};

/// Fields beside those of the rows, in the order in which they are told to users.
pub(crate) const FIELDS: [&str; 19] = [
    "id",
    "entity",
    "operation",
    "key",
    "tenant",
    "traceId",
    "changed",
    "observer",
    "notMatched",
    "action",
    "state",
    "attempts",
    "status",
    "kind",
    "error",
    "delivery",
    "replay",
    "job",
    "deadLetter",
];

/// A value of a document.
pub(crate) struct Section<'a> {
    /// Its field; absent where it is too deep or its name too long.
    pub(crate) path: Option<Path>,
    /// The value.
    pub(crate) leaf: Leaf<'a>,
    /// Whether it is found by words without a field.
    pub(crate) full_text: bool,
}

/// Visits the parts of a document in order, those of its own before those of the rows, until told to stop.
pub(crate) fn visit<'a>(document: &'a Document, visit: Visit<'_, 'a>) {
    let flow = own(document, visit);
    for (name, image) in [("new", &document.new), ("old", &document.old)] {
        if let (ControlFlow::Continue(()), Some(image)) = (flow, image) {
            row(name, image, visit);
        }
    }
}

/// How a part is visited.
type Visit<'v, 'a> = &'v mut dyn FnMut(Section<'a>) -> ControlFlow<()>;

fn text<'a>(
    visit: Visit<'_, 'a>,
    field: &'static str,
    value: &'a str,
    full_text: bool,
) -> ControlFlow<()> {
    visit(Section {
        path: Some(Path::field(field)),
        leaf: Leaf::Text(value.into()),
        full_text,
    })
}

fn own<'a>(document: &'a Document, visit: Visit<'_, 'a>) -> ControlFlow<()> {
    text(visit, "id", &document.id, true)?;
    text(visit, "entity", &document.entity, true)?;
    text(visit, "operation", document.operation.as_str(), false)?;
    for (field, value) in [
        ("key", &document.key),
        ("tenant", &document.tenant),
        ("traceId", &document.trace_id),
    ] {
        if let Some(value) = value {
            text(visit, field, value, true)?;
        }
    }
    for column in &document.changed {
        text(visit, "changed", column, false)?;
    }
    let mut errors = BTreeSet::new();
    for one in &document.observers {
        match &one.not_matched {
            Some(reason) => {
                text(visit, "notMatched", &one.observer, false)?;
                text(visit, "notMatched", reason, false)?;
            }
            None => text(visit, "observer", &one.observer, true)?,
        }
        for one in &one.deliveries {
            delivery(one, &mut errors, visit)?;
        }
    }
    ControlFlow::Continue(())
}

fn delivery<'a>(
    delivery: &'a DeliveryEntry,
    errors: &mut BTreeSet<&'a str>,
    visit: Visit<'_, 'a>,
) -> ControlFlow<()> {
    text(visit, "action", &delivery.action, true)?;
    text(visit, "state", delivery.state.as_str(), false)?;
    text(visit, "delivery", &delivery.delivery, true)?;
    for (field, value) in [("replay", &delivery.replay), ("job", &delivery.job)] {
        if let Some(value) = value {
            text(visit, field, value, true)?;
        }
    }
    for attempt in &delivery.history {
        if let Some(kind) = &attempt.kind {
            text(visit, "kind", kind, false)?;
        }
        // Most attempts of a delivery fail in the same way.
        if let Some(error) = attempt
            .error
            .as_deref()
            .filter(|error| errors.insert(error))
        {
            text(visit, "error", error, true)?;
        }
    }
    let statuses = delivery.history.iter().filter_map(|one| one.status);
    let statuses = statuses.map(|status| ("status", i64::from(status)));
    let letter = delivery.dead_letter.map(|id| ("deadLetter", id));
    let attempts = ("attempts", i64::from(delivery.attempts));
    for (field, number) in statuses.chain(letter).chain([attempts]) {
        visit(Section {
            path: Some(Path::field(field)),
            leaf: Leaf::Number(number.to_string().into()),
            full_text: false,
        })?;
    }
    ControlFlow::Continue(())
}

fn row<'a>(name: &'static str, image: &'a RawValue, visit: Visit<'_, 'a>) {
    leaves(image.get(), |names, leaf| {
        let path = names.get().and_then(|names| {
            let names = names.iter().map(Cow::as_ref);
            Path::of([name].into_iter().chain(names))
        });
        let full_text = matches!(leaf, Leaf::Text(_) | Leaf::Number(_));
        visit(Section {
            path,
            leaf,
            full_text,
        })
    });
}
