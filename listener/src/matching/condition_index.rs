//! Index of rules by the fields that their conditions compare with a constant: of a thousand conditions
//! that each ask for another status, one lookup finds those that may hold.
//!
//! A condition that is a conjunction holds only if each of its parts does, and a part that is false
//! makes the whole false with any value of the others. So where one part is `new.status == "paid"`
//! or `changed_to("status", "paid")`, the condition need not be evaluated on an event with another
//! status. Where that part would fail, as on a field that is missing or of another kind, the condition is
//! evaluated, and says why.

use std::collections::HashMap;

use cel::number::Number;
use cel::tree::{Comparison, Function, Kind, Node, Variable};
use cel::value::Value;
use cel::{Image, Inputs, Side};

use super::event_view::EventView;

/// Equality of a field with a constant that a condition needs to hold.
struct EqualityFilter<'n> {
    side: Side,
    field: &'n str,
    is: &'n Kind,
    /// Whether the part reads both images, and fails if one cannot be read.
    both: bool,
}

/// Rules that compare one field with a constant, by the constant.
#[derive(Debug)]
struct FieldIndex {
    side: Side,
    field: String,
    both: bool,
    texts: HashMap<String, Vec<usize>>,
    numbers: HashMap<Number<'static>, Vec<usize>>,
    bools: HashMap<bool, Vec<usize>>,
}

/// Index of the rules of one entity and operation, by their positions.
#[derive(Debug, Default)]
pub(crate) struct ConditionIndex {
    /// All of them, ascending.
    pub(crate) all: Vec<usize>,
    /// Those without a filter, which every event is a candidate of.
    always: Vec<usize>,
    by_field: Vec<FieldIndex>,
}

impl ConditionIndex {
    /// Adds the rule at a position behind all that are there; does nothing if it is there already.
    pub(crate) fn push(&mut self, place: usize, condition: Option<&Node>) {
        if self.all.last() == Some(&place) {
            return;
        }
        self.all.push(place);
        let Some(filter) = condition.and_then(equality_filter) else {
            return self.always.push(place);
        };
        let same = |by: &FieldIndex| by.side == filter.side && by.field == filter.field;
        let at = self.by_field.iter().position(same).unwrap_or_else(|| {
            self.by_field.push(FieldIndex::new(&filter));
            self.by_field.len() - 1
        });
        let by = &mut self.by_field[at];
        by.both |= filter.both;
        match filter.is {
            Kind::Text(text) => by.texts.entry(text.clone()).or_default().push(place),
            Kind::Number(number) => by.numbers.entry(number.clone()).or_default().push(place),
            Kind::Bool(flag) => by.bools.entry(*flag).or_default().push(place),
            // There is no filter of another kind.
            _ => self.always.push(place),
        }
    }

    /// Returns the rules that may match an event, ascending.
    pub(crate) fn candidates(&self, view: &EventView<'_>) -> Vec<usize> {
        let mut found = self.always.clone();
        if !self.by_field.is_empty() {
            for by in &self.by_field {
                by.candidates(view, &mut found);
            }
            found.sort_unstable();
        }
        found
    }
}

impl FieldIndex {
    fn new(filter: &EqualityFilter<'_>) -> Self {
        Self {
            side: filter.side,
            field: filter.field.to_owned(),
            both: false,
            texts: HashMap::new(),
            numbers: HashMap::new(),
            bools: HashMap::new(),
        }
    }

    /// Adds those whose constant equals the field, and all whose constant it cannot be compared with, so
    /// that their conditions say what is wrong.
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
            Some(Value::Bool(flag)) => found.extend(self.bools.get(flag).into_iter().flatten()),
            _ => found.extend(self.bools.values().flatten()),
        }
    }

    /// Returns the value of the field, if it can be read.
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

/// Returns the first part of a condition that compares a field with a constant.
fn equality_filter(node: &Node) -> Option<EqualityFilter<'_>> {
    match &node.kind {
        Kind::Both(parts) => equality_filter(&parts[0]).or_else(|| equality_filter(&parts[1])),
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
            ] if is_constant(wanted) => Some(EqualityFilter {
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

fn equality<'n>(field: &'n Node, wanted: &'n Node) -> Option<EqualityFilter<'n>> {
    let Kind::Field { of, name } = &field.kind else {
        return None;
    };
    let side = match of.kind {
        Kind::Variable(Variable::Old) => Side::Old,
        Kind::Variable(Variable::New) => Side::New,
        _ => return None,
    };
    is_constant(wanted).then_some(EqualityFilter {
        side,
        field: name,
        is: &wanted.kind,
        both: false,
    })
}

const fn is_constant(node: &Node) -> bool {
    matches!(node.kind, Kind::Text(_) | Kind::Number(_) | Kind::Bool(_))
}
