//! The walk over a condition for one event.
//!
//! `&&`, `||`, `all` and `exists` are decided by any part that suffices, and only where none
//! does, an error of another part is the result. What a walk may cost is bounded by a budget in
//! about bytes looked at; once it is spent nothing decides any more, and the walk ends.

use std::borrow::Cow;
use std::rc::Rc;

use crate::condition::Place;
use crate::inputs::{Image, Inputs, Side};
use crate::names::{did_you_mean, list, shorten};
use crate::number::Number;
use crate::tree::{Kind, Loop, Node, Variable};
use crate::value::{Fields, JsonError, Value, read_list};

/// What one condition may cost on one event, in bytes looked at or written.
/// An image of 16 MiB can be read through several times.
const BUDGET: usize = 128 * 1024 * 1024;
/// What each part costs by itself.
const STEP: usize = 64;
/// Most characters of a failure's message.
const MAX_MESSAGE: usize = 500;

/// Why a condition has no answer for an event. The message names fields and parts of the expression, but
/// quotes no value of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvaluationError {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// For a person: what happened, and what to do about it.
    pub message: String,
}

/// Whose fault it is that a condition has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The condition's: it was not written with such an event in mind.
    Condition,
    /// The event's: its JSON cannot be read.
    Event,
}

/// Why a walk, or a part of it, ended without a value.
#[derive(Debug)]
pub(crate) enum Stop {
    /// This part has no value; another may decide.
    Failed {
        kind: ErrorKind,
        at: usize,
        message: String,
    },
    /// The budget is spent.
    Spent { at: usize },
}

impl Stop {
    /// The error that the condition ends with.
    pub(crate) fn into_error(self, place: impl Fn(usize) -> Place) -> EvaluationError {
        let (kind, at, message) = match self {
            Self::Failed { kind, at, message } => (kind, at, message),
            Self::Spent { at } => (
                ErrorKind::Condition,
                at,
                "the condition takes too long on this event; loop over less".to_owned(),
            ),
        };
        let mut message = format!("condition, {}: {message}", place(at));
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
        }
        EvaluationError { kind, message }
    }
}

/// What a part gives.
pub(crate) type Outcome<'v> = Result<Value<'v>, Stop>;

/// One walk.
pub(crate) struct Evaluation<'v> {
    pub(crate) inputs: &'v dyn Inputs,
    /// Values of the loops' variables, the innermost last.
    pub(crate) locals: Vec<Value<'v>>,
    budget: usize,
}

impl<'v> Evaluation<'v> {
    pub(crate) fn new(inputs: &'v dyn Inputs) -> Self {
        Self {
            inputs,
            locals: Vec::new(),
            budget: BUDGET,
        }
    }

    /// Whether the whole condition holds.
    pub(crate) fn condition(mut self, root: &'v Node) -> Result<bool, Stop> {
        self.truth(root)
    }

    /// Pays for a piece of work before it is done.
    pub(crate) fn spend(&mut self, at: usize, cost: usize) -> Result<(), Stop> {
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(Stop::Spent { at }),
        }
    }

    /// The value of a part.
    pub(crate) fn value(&mut self, node: &'v Node) -> Outcome<'v> {
        self.spend(node.at, STEP)?;
        match &node.kind {
            Kind::Null => Ok(Value::Null),
            Kind::Bool(value) => Ok(Value::Bool(*value)),
            Kind::Number(number) => Ok(Value::Number(number.borrowed())),
            Kind::Text(text) => Ok(Value::Text(Cow::Borrowed(text))),
            Kind::Variable(variable) => self.variable(node.at, *variable),
            Kind::Local { slot, .. } => self.local(node.at, *slot),
            Kind::List(elements) => self.list(node.at, elements),
            Kind::Field { of, name } => self.field(node.at, of, name),
            Kind::Index { of, index } => self.index(node.at, of, index),
            Kind::Choice(parts) => {
                let chosen = if self.truth(&parts[0])? { 1 } else { 2 };
                self.value(&parts[chosen])
            }
            Kind::Negate(operand) => self.negate(node.at, operand),
            Kind::Arithmetic(operator, parts) => self.arithmetic(node.at, *operator, parts),
            Kind::Call(function, arguments) => self.call(node.at, *function, arguments),
            Kind::Loop {
                kind: kind @ (Loop::Map | Loop::Filter),
                over,
                body,
                result,
            } => self.collect(node.at, *kind, over, (body, result.as_deref())),
            _ => self.decide(node).map(Value::Bool),
        }
    }

    /// The value of a part that is always a boolean.
    fn decide(&mut self, node: &'v Node) -> Result<bool, Stop> {
        match &node.kind {
            Kind::Not(operand) => Ok(!self.truth(operand)?),
            Kind::Both(parts) => self.settle(parts, false),
            Kind::Either(parts) => self.settle(parts, true),
            Kind::Compare(comparison, parts) => self.compare(node.at, *comparison, parts),
            Kind::In(parts) => self.contains(node.at, parts),
            Kind::Has { of, name } => self.has(node.at, of, name),
            Kind::Matches { text, pattern } => self.matches(node.at, text, pattern),
            Kind::Loop {
                kind, over, body, ..
            } => self.quantify(node.at, *kind, over, body),
            _ => failed(node.at, format!("{} is no boolean", node.describe())),
        }
    }

    /// The value of a part that must be true or false.
    pub(crate) fn truth(&mut self, node: &'v Node) -> Result<bool, Stop> {
        match self.value(node)? {
            Value::Bool(value) => Ok(value),
            other => failed(
                node.at,
                format!("{} is {}, not true or false", node.describe(), other.kind()),
            ),
        }
    }

    /// `&&` is settled by a false part, `||` by a true one.
    fn settle(&mut self, parts: &'v [Node; 2], by: bool) -> Result<bool, Stop> {
        let left = match self.truth(&parts[0]) {
            Ok(value) if value == by => return Ok(by),
            Err(stop @ Stop::Spent { .. }) => return Err(stop),
            left => left,
        };
        match self.truth(&parts[1]) {
            Ok(value) if value == by => Ok(by),
            Err(stop) => left.and(Err(stop)),
            Ok(_) => left,
        }
    }

    fn variable(&mut self, at: usize, variable: Variable) -> Outcome<'v> {
        let inputs = self.inputs;
        let text = |text: Option<&'v str>| {
            text.map_or(Value::Null, |text| Value::Text(Cow::Borrowed(text)))
        };
        Ok(match variable {
            Variable::Old => return self.image(at, Side::Old),
            Variable::New => return self.image(at, Side::New),
            Variable::Operation => text(Some(inputs.operation())),
            Variable::Entity => text(Some(inputs.entity())),
            Variable::Key => text(inputs.key()),
            Variable::Tenant => text(inputs.tenant()),
            Variable::Enrich => {
                let results = inputs.enrich();
                let read = results.map_err(|error| unreadable(at, "`enrich`", error))?;
                return self.of_image(at, "`enrich`", read);
            }
        })
    }

    fn image(&mut self, at: usize, side: Side) -> Outcome<'v> {
        let name = match side {
            Side::Old => "`old`",
            Side::New => "`new`",
        };
        let image = self.inputs.image(side);
        let image = image.map_err(|error| unreadable(at, name, error))?;
        self.of_image(at, name, image)
    }

    fn of_image(&mut self, at: usize, name: &str, image: &'v Image<'v>) -> Outcome<'v> {
        match image {
            Image::Absent => Ok(Value::Null),
            Image::Row(fields) => Ok(Value::Row(fields)),
            Image::Other(text) => {
                self.spend(at, text.len())?;
                Value::from_json(text).map_err(|error| unreadable(at, name, error))
            }
        }
    }

    fn local(&mut self, at: usize, slot: usize) -> Outcome<'v> {
        let value = self.locals.get(slot).cloned().unwrap_or(Value::Null);
        if let Value::Text(_) | Value::Number(_) = value {
            self.spend(at, value.weight())?;
        }
        Ok(value)
    }

    fn list(&mut self, at: usize, elements: &'v [Node]) -> Outcome<'v> {
        self.spend(at, size_of::<Value<'_>>() * elements.len())?;
        let values: Result<Vec<_>, _> = elements.iter().map(|e| self.value(e)).collect();
        Ok(Value::List(Rc::new(values?)))
    }

    fn field(&mut self, at: usize, of: &'v Node, name: &str) -> Outcome<'v> {
        let owner = self.value(of)?;
        self.member(at, of, &owner, name)
    }

    fn member(&mut self, at: usize, of: &'v Node, owner: &Value<'v>, name: &str) -> Outcome<'v> {
        let Some(fields) = self.open(at, owner, || of.describe())? else {
            return failed(at, self.no_fields(of, owner, name));
        };
        match fields.get(name) {
            Some(text) => self.read(at, name, text),
            None => failed(at, missing(name, &of.describe(), &[&fields])),
        }
    }

    /// The value of a field.
    pub(crate) fn read(&mut self, at: usize, name: &str, text: &'v str) -> Outcome<'v> {
        self.spend(at, text.len())?;
        Value::from_json(text)
            .map_err(|error| unreadable(at, &format!("field `{}`", shorten(name)), error))
    }

    fn no_fields(&self, of: &Node, owner: &Value<'_>, name: &str) -> String {
        let described = of.describe();
        match (&of.kind, owner) {
            (Kind::Variable(variable @ (Variable::Old | Variable::New)), Value::Null) => {
                let operation = self.inputs.operation();
                format!(
                    "{described} is absent on {operation}: guard with `{} != null &&`, or watch fewer operations",
                    variable.name()
                )
            }
            (_, Value::Null) => format!(
                "{described} is null and has no field `{}`; guard with {described} != null &&",
                shorten(name)
            ),
            _ => format!("{described} is {} and has no fields", owner.kind()),
        }
    }

    fn has(&mut self, at: usize, of: &'v Node, name: &str) -> Result<bool, Stop> {
        let owner = self.value(of)?;
        match self.open(at, &owner, || of.describe())? {
            Some(fields) => Ok(fields.get(name).is_some()),
            None if matches!(owner, Value::Null) => Ok(false),
            None => failed(at, self.no_fields(of, &owner, name)),
        }
    }

    fn index(&mut self, at: usize, of: &'v Node, index: &'v Node) -> Outcome<'v> {
        let owner = self.value(of)?;
        let number = match self.value(index)? {
            Value::Number(number) => number,
            Value::Text(name) => return self.member(at, of, &owner, &name),
            other => return failed(at, format!("{} is no index", other.kind())),
        };
        let Some(elements) = self.elements(at, &owner, || of.describe())? else {
            let message = format!("{} is {}, not a list", of.describe(), owner.kind());
            return failed(at, message);
        };
        match number.as_index().and_then(|place| elements.get(place)) {
            Some(element) => {
                self.spend(at, element.weight())?;
                Ok(element.clone())
            }
            None => failed(
                at,
                format!(
                    "{} has {} elements, counted from 0, and none at this place",
                    of.describe(),
                    elements.len()
                ),
            ),
        }
    }

    /// The fields of an object; nothing where the value is none.
    pub(crate) fn open(
        &mut self,
        at: usize,
        value: &Value<'v>,
        name: impl Fn() -> String,
    ) -> Result<Option<Cow<'v, Fields<'v>>>, Stop> {
        match value {
            Value::Row(fields) => Ok(Some(Cow::Borrowed(fields))),
            Value::RawObject(text) => {
                self.spend(at, text.len())?;
                let fields = Fields::read(text).map_err(|e| unreadable(at, &name(), e))?;
                Ok(Some(Cow::Owned(fields)))
            }
            _ => Ok(None),
        }
    }

    /// The elements of a list; nothing where the value is none.
    pub(crate) fn elements(
        &mut self,
        at: usize,
        value: &Value<'v>,
        name: impl Fn() -> String,
    ) -> Result<Option<Rc<Vec<Value<'v>>>>, Stop> {
        match value {
            Value::List(elements) => Ok(Some(Rc::clone(elements))),
            Value::RawList(text) => {
                self.spend(at, text.len())?;
                let elements = read_list(text).map_err(|e| unreadable(at, &name(), e))?;
                self.spend(at, elements.len() * size_of::<Value<'_>>())?;
                Ok(Some(Rc::new(elements)))
            }
            _ => Ok(None),
        }
    }

    fn negate(&mut self, at: usize, operand: &'v Node) -> Outcome<'v> {
        let value = self.value(operand)?;
        let number = match &value {
            Value::Number(number) => Some(number.clone()),
            Value::Text(text) => Number::parse(text).map(Number::into_owned),
            _ => None,
        };
        number.map_or_else(
            || {
                let (subject, kind) = (operand.describe(), value.kind());
                failed(at, format!("`-` needs a number, but {subject} is {kind}"))
            },
            |number| Ok(Value::Number(number.negated())),
        )
    }
}

/// A part that has no value.
pub(crate) fn failed<T>(at: usize, message: String) -> Result<T, Stop> {
    Err(Stop::Failed {
        kind: ErrorKind::Condition,
        at,
        message,
    })
}

/// An image that cannot be read, here at `what`.
pub(crate) fn unreadable(at: usize, what: &str, error: JsonError) -> Stop {
    Stop::Failed {
        kind: ErrorKind::Event,
        at,
        message: format!("{what} {error}"),
    }
}

/// No such field in any of the objects.
pub(crate) fn missing(name: &str, owner: &str, objects: &[&Fields<'_>]) -> String {
    let known = || objects.iter().flat_map(|o| o.names()).map(|name| &**name);
    let hint = match did_you_mean(name, known()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    };
    let has = list(known());
    format!(
        "no field `{}` in {owner}{hint}; it has: {has}",
        shorten(name)
    )
}
