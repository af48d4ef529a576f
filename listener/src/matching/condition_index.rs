//! Rules found by what a field is: of a thousand conditions that each ask for another status, one
//! look finds those that may hold.
//!
//! A condition that is a conjunction holds only if each of its parts does, and a part that is false
//! makes the whole false whatever becomes of the others. So where one part is `new.status == "paid"`
//! or `changed_to("status", "paid")`, an event with another status need not be shown to the condition.
//! Where that part would fail, as on a field that is missing or of another kind, the condition is
//! asked, and says why.

use std::collections::HashMap;

use cel::number::Number;
use cel::tree::{Comparison, Function, Kind, Node, Variable};
use cel::value::Value;
use cel::{Image, Inputs, Side};

use super::event_view::EventView;

/// What one field must be for a condition to hold.
struct Guard<'n> {
    side: Side,
    field: &'n str,
    is: &'n Kind,
    /// Whether the part looks into both images, and fails where one cannot be read.
    both: bool,
}

/// Rules that need a field to be something, by what that is.
#[derive(Debug)]
struct ByField {
    side: Side,
    field: String,
    both: bool,
    texts: HashMap<String, Vec<usize>>,
    numbers: HashMap<Number<'static>, Vec<usize>>,
    truths: HashMap<bool, Vec<usize>>,
}

/// Rules of one entity and operation, by their places.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// All of them, ascending.
    pub(crate) all: Vec<usize>,
    /// Those that every event is shown to.
    always: Vec<usize>,
    guarded: Vec<ByField>,
}

impl Watchers {
    /// Adds the rule at a place behind all that are there; nothing if it is there already.
    pub(crate) fn push(&mut self, place: usize, condition: Option<&Node>) {
        if self.all.last() == Some(&place) {
            return;
        }
        self.all.push(place);
        let Some(guard) = condition.and_then(guard) else {
            return self.always.push(place);
        };
        let same = |by: &ByField| by.side == guard.side && by.field == guard.field;
        let at = self.guarded.iter().position(same).unwrap_or_else(|| {
            self.guarded.push(ByField::new(&guard));
            self.guarded.len() - 1
        });
        let by = &mut self.guarded[at];
        by.both |= guard.both;
        match guard.is {
            Kind::Text(text) => by.texts.entry(text.clone()).or_default().push(place),
            Kind::Number(number) => by.numbers.entry(number.clone()).or_default().push(place),
            Kind::Bool(truth) => by.truths.entry(*truth).or_default().push(place),
            // `guard` gives no other.
            _ => self.always.push(place),
        }
    }

    /// The rules that an event may concern, ascending.
    pub(crate) fn candidates(&self, view: &EventView<'_>) -> Vec<usize> {
        let mut found = self.always.clone();
        if !self.guarded.is_empty() {
            for by in &self.guarded {
                by.candidates(view, &mut found);
            }
            found.sort_unstable();
        }
        found
    }
}

impl ByField {
    fn new(guard: &Guard<'_>) -> Self {
        Self {
            side: guard.side,
            field: guard.field.to_owned(),
            both: false,
            texts: HashMap::new(),
            numbers: HashMap::new(),
            truths: HashMap::new(),
        }
    }

    /// Of each kind of constant those that equal the field; all of a kind that it cannot be compared
    /// with, so that the conditions say what is wrong.
    fn candidates(&self, view: &EventView<'_>, found: &mut Vec<usize>) {
        let value = self.value(view);
        let number = match &value {
            // Nothing but null equals null.
            Some(Value::Null) => return,
            Some(Value::Number(number)) => Some(number.borrowed()),
            Some(Value::Text(text)) => Number::parse(text),
            _ => None,
        };
        match &value {
            Some(Value::Text(text)) => found.extend(self.texts.get(&**text).into_iter().flatten()),
            _ => found.extend(self.texts.values().flatten()),
        }
        match &number {
            Some(number) => found.extend(self.numbers.get(number).into_iter().flatten()),
            None => found.extend(self.numbers.values().flatten()),
        }
        match &value {
            Some(Value::Bool(truth)) => found.extend(self.truths.get(truth).into_iter().flatten()),
            _ => found.extend(self.truths.values().flatten()),
        }
    }

    /// What the field is, if it can be told.
    fn value<'v>(&self, view: &'v EventView<'_>) -> Option<Value<'v>> {
        if self.both && (view.image(Side::Old).is_err() || view.image(Side::New).is_err()) {
            return None;
        }
        match view.image(self.side) {
            Ok(Image::Row(fields)) => Value::from_json(fields.get(&self.field)?).ok(),
            _ => None,
        }
    }
}

/// The first part of a condition that asks for a field to be something.
fn guard(node: &Node) -> Option<Guard<'_>> {
    match &node.kind {
        Kind::Both(parts) => guard(&parts[0]).or_else(|| guard(&parts[1])),
        Kind::Compare(Comparison::Equal, parts) => {
            let [left, right] = &**parts;
            equality(left, right).or_else(|| equality(right, left))
        }
        Kind::Call(Function::ChangedTo, arguments) => match &arguments[..] {
            [
                Node {
                    kind: Kind::Text(field),
                    ..
                },
                wanted,
            ] if is_constant(wanted) => Some(Guard {
                side: Side::New,
                field,
                is: &wanted.kind,
                both: true,
            }),
            _ => None,
        },
        _ => None,
    }
}

fn equality<'n>(field: &'n Node, wanted: &'n Node) -> Option<Guard<'n>> {
    let Kind::Field { of, name } = &field.kind else {
        return None;
    };
    let side = match of.kind {
        Kind::Variable(Variable::Old) => Side::Old,
        Kind::Variable(Variable::New) => Side::New,
        _ => return None,
    };
    is_constant(wanted).then_some(Guard {
        side,
        field: name,
        is: &wanted.kind,
        both: false,
    })
}

const fn is_constant(node: &Node) -> bool {
    matches!(node.kind, Kind::Text(_) | Kind::Number(_) | Kind::Bool(_))
}
