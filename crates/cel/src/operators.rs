//! Equality, order, membership and arithmetic.
//!
//! A number and a text that holds a number are compared as numbers, because Postgres gives
//! large numbers as text in many a JSON. Any other two kinds cannot be compared: that is an
//! error and not "unequal", since a condition that compares them was meant otherwise. Inside
//! lists and objects the kinds must agree, and differing ones are simply unequal.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

use crate::evaluate::{Evaluation, Outcome, Stop, failed};
use crate::names::shorten;
use crate::number::{Arithmetic, Number};
use crate::tree::{Comparison, Node};
use crate::value::Value;

/// Deepest nesting of lists and objects that are compared with each other.
const MAX_DEPTH: usize = 64;

/// What a digit costs in arithmetic, against one that is only compared.
const PER_DIGIT: usize = 32;

/// Where two values meet, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Site<'n> {
    pub(crate) at: usize,
    pub(crate) symbol: &'static str,
    pub(crate) left: Subject<'n>,
    pub(crate) right: Subject<'n>,
}

/// What a value is the value of.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'n> {
    Part(&'n Node),
    Field(&'static str, &'n str),
    Element,
}

impl Subject<'_> {
    fn describe(self) -> String {
        match self {
            Self::Part(node) => node.describe(),
            Self::Field(side, name) => format!("`{side}.{}`", shorten(name)),
            Self::Element => "an element of the list".to_owned(),
        }
    }
}

impl<'n> Site<'n> {
    fn of(at: usize, symbol: &'static str, parts: &'n [Node; 2]) -> Self {
        Self {
            at,
            symbol,
            left: Subject::Part(&parts[0]),
            right: Subject::Part(&parts[1]),
        }
    }

    fn kinds_differ<T>(self, left: &Value<'_>, right: &Value<'_>) -> Result<T, Stop> {
        let (symbol, l, r) = (self.symbol, self.left.describe(), self.right.describe());
        for (value, subject) in [(left, self.left), (right, self.right)] {
            if matches!(value, Value::Null) {
                let subject = subject.describe();
                let guard = match subject.strip_prefix('`').and_then(|s| s.strip_suffix('`')) {
                    Some(path) => format!("; guard with `{path} != null &&`"),
                    None => String::new(),
                };
                let message = format!("`{symbol}` needs two values, but {subject} is null{guard}");
                return failed(self.at, message);
            }
        }
        let not_a_number = |text: &str| format!("{text} is text that is not a number");
        let message = match (left, right) {
            (Value::Text(_), Value::Number(_)) => not_a_number(&l),
            (Value::Number(_), Value::Text(_)) => not_a_number(&r),
            _ => format!("{l} is {} and {r} is {}", left.kind(), right.kind()),
        };
        failed(
            self.at,
            format!("`{symbol}` cannot be used here: {message}"),
        )
    }
}

/// Both as numbers, where one is a number and the other a number or a text that holds one.
fn as_numbers<'b>(left: &'b Value<'_>, right: &'b Value<'_>) -> Option<(Number<'b>, Number<'b>)> {
    Some(match (left, right) {
        (Value::Number(l), Value::Number(r)) => (l.borrowed(), r.borrowed()),
        (Value::Number(l), Value::Text(r)) => (l.borrowed(), Number::parse(r)?),
        (Value::Text(l), Value::Number(r)) => (Number::parse(l)?, r.borrowed()),
        _ => return None,
    })
}

impl<'v> Evaluation<'v> {
    pub(crate) fn compare(
        &mut self,
        at: usize,
        comparison: Comparison,
        parts: &'v [Node; 2],
    ) -> Result<bool, Stop> {
        let site = Site::of(at, comparison.symbol(), parts);
        let (left, right) = (self.value(&parts[0])?, self.value(&parts[1])?);
        if let Comparison::Equal | Comparison::Unequal = comparison {
            let equal = self.equal(site, &left, &right)?;
            return Ok(equal == (comparison == Comparison::Equal));
        }
        self.spend(at, left.weight().min(right.weight()))?;
        let order = match (&left, &right) {
            (Value::Text(l), Value::Text(r)) => l.cmp(r),
            (Value::Bool(l), Value::Bool(r)) => l.cmp(r),
            (Value::Timestamp(l), Value::Timestamp(r)) => l.cmp(r),
            (Value::Duration(l), Value::Duration(r)) => l.cmp(r),
            _ => match as_numbers(&left, &right) {
                Some((l, r)) => l.cmp(&r),
                None => return site.kinds_differ(&left, &right),
            },
        };
        Ok(match comparison {
            Comparison::Less => order == Ordering::Less,
            Comparison::LessOrEqual => order != Ordering::Greater,
            Comparison::Greater => order == Ordering::Greater,
            _ => order != Ordering::Less,
        })
    }

    /// Whether two values are equal; an error where their kinds cannot be compared.
    pub(crate) fn equal(
        &mut self,
        site: Site<'_>,
        left: &Value<'v>,
        right: &Value<'v>,
    ) -> Result<bool, Stop> {
        if matches!(left, Value::Null) || matches!(right, Value::Null) {
            return Ok(matches!((left, right), (Value::Null, Value::Null)));
        }
        if left.kind() == right.kind() {
            return self.same(site.at, left, right, 0);
        }
        self.spend(site.at, left.weight().min(right.weight()))?;
        match as_numbers(left, right) {
            Some((left, right)) => Ok(left == right),
            None => site.kinds_differ(left, right),
        }
    }

    /// Whether two values are of one kind and equal.
    fn same(
        &mut self,
        at: usize,
        left: &Value<'v>,
        right: &Value<'v>,
        depth: usize,
    ) -> Result<bool, Stop> {
        self.spend(at, 1)?;
        if depth > MAX_DEPTH {
            let message = format!("values nested more than {MAX_DEPTH} deep cannot be compared");
            return failed(at, message);
        }
        Ok(match (left, right) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(l), Value::Bool(r)) => l == r,
            (Value::Timestamp(l), Value::Timestamp(r)) => l == r,
            (Value::Duration(l), Value::Duration(r)) => l == r,
            (Value::Number(l), Value::Number(r)) => {
                self.spend(at, l.len())?;
                l == r
            }
            (Value::Text(l), Value::Text(r)) => {
                self.spend(at, l.len())?;
                l == r
            }
            _ if left.kind() == "a list" && right.kind() == "a list" => {
                return self.same_lists(at, left, right, depth);
            }
            _ if left.kind() == "an object" && right.kind() == "an object" => {
                return self.same_objects(at, left, right, depth);
            }
            _ => false,
        })
    }

    fn same_lists(
        &mut self,
        at: usize,
        left: &Value<'v>,
        right: &Value<'v>,
        depth: usize,
    ) -> Result<bool, Stop> {
        let name = || "a list".to_owned();
        let (Some(left), Some(right)) = (
            self.elements(at, left, name)?,
            self.elements(at, right, name)?,
        ) else {
            return Ok(false);
        };
        if left.len() != right.len() {
            return Ok(false);
        }
        for (l, r) in left.iter().zip(right.iter()) {
            if !self.same(at, l, r, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn same_objects(
        &mut self,
        at: usize,
        left: &Value<'v>,
        right: &Value<'v>,
        depth: usize,
    ) -> Result<bool, Stop> {
        let name = || "an object".to_owned();
        let unreadable = |error| crate::evaluate::unreadable(at, "an object", error);
        let (Some(left), Some(right)) = (self.open(at, left, name)?, self.open(at, right, name)?)
        else {
            return Ok(false);
        };
        if left.len() != right.len() {
            return Ok(false);
        }
        for field in left.names() {
            let (Some(l), Some(r)) = (left.get(field), right.get(field)) else {
                return Ok(false);
            };
            let l = Value::from_json(l).map_err(unreadable)?;
            let r = Value::from_json(r).map_err(unreadable)?;
            if !self.same(at, &l, &r, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn contains(&mut self, at: usize, parts: &'v [Node; 2]) -> Result<bool, Stop> {
        let (item, container) = (self.value(&parts[0])?, self.value(&parts[1])?);
        let name = || parts[1].describe();
        let mut site = Site::of(at, "in", parts);
        if let Some(elements) = self.elements(at, &container, name)? {
            site.right = Subject::Element;
            let mut first_failure = None;
            for element in elements.iter() {
                self.spend(at, 1)?;
                match self.equal(site, &item, element) {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(stop @ Stop::Failed { .. }) => {
                        first_failure.get_or_insert(stop);
                    }
                    Err(stop) => return Err(stop),
                }
            }
            return first_failure.map_or(Ok(false), Err);
        }
        match (&item, self.open(at, &container, name)?) {
            (Value::Text(field), Some(fields)) => Ok(fields.get(field).is_some()),
            _ => site.kinds_differ(&item, &container),
        }
    }

    pub(crate) fn arithmetic(
        &mut self,
        at: usize,
        operator: Arithmetic,
        parts: &'v [Node; 2],
    ) -> Outcome<'v> {
        let (left, right) = (self.value(&parts[0])?, self.value(&parts[1])?);
        let weight = left.weight().saturating_add(right.weight());
        self.spend(at, weight.saturating_mul(PER_DIGIT))?;
        let site = Site::of(at, operator.symbol(), parts);
        let out_of_range = || failed(at, "this time is out of range".to_owned());
        let timestamp = |sum: Option<_>| sum.map_or_else(out_of_range, |t| Ok(Value::Timestamp(t)));
        let duration = |sum: Option<_>| sum.map_or_else(out_of_range, |d| Ok(Value::Duration(d)));
        match (operator, &left, &right) {
            (Arithmetic::Add, Value::Text(l), Value::Text(r)) => {
                Ok(Value::Text(Cow::Owned([&**l, &**r].concat())))
            }
            (
                Arithmetic::Add,
                Value::List(_) | Value::RawList(_),
                Value::List(_) | Value::RawList(_),
            ) => self.joined(at, &left, &right),
            (Arithmetic::Add, Value::Timestamp(time), Value::Duration(span))
            | (Arithmetic::Add, Value::Duration(span), Value::Timestamp(time)) => {
                timestamp(time.checked_add_signed(*span))
            }
            (Arithmetic::Subtract, Value::Timestamp(time), Value::Duration(span)) => {
                timestamp(time.checked_sub_signed(*span))
            }
            (Arithmetic::Subtract, Value::Timestamp(l), Value::Timestamp(r)) => {
                duration(Some(l.signed_duration_since(r)))
            }
            (Arithmetic::Add, Value::Duration(l), Value::Duration(r)) => duration(l.checked_add(r)),
            (Arithmetic::Subtract, Value::Duration(l), Value::Duration(r)) => {
                duration(l.checked_sub(r))
            }
            (_, Value::Text(l), Value::Text(r)) => match (Number::parse(l), Number::parse(r)) {
                (Some(l), Some(r)) => calculate(at, operator, &l, &r),
                _ => site.kinds_differ(&left, &right),
            },
            _ => match as_numbers(&left, &right) {
                Some((l, r)) => calculate(at, operator, &l, &r),
                None => site.kinds_differ(&left, &right),
            },
        }
    }

    fn joined(&mut self, at: usize, left: &Value<'v>, right: &Value<'v>) -> Outcome<'v> {
        let mut all = Vec::new();
        for part in [left, right] {
            let elements = self.elements(at, part, || "the list".to_owned())?;
            for element in elements.iter().flat_map(|elements| elements.iter()) {
                self.spend(at, size_of::<Value<'_>>() + element.weight())?;
                all.push(element.clone());
            }
        }
        Ok(Value::List(Rc::new(all)))
    }
}

fn calculate<'v>(at: usize, operator: Arithmetic, l: &Number<'_>, r: &Number<'_>) -> Outcome<'v> {
    match l.calculate(operator, r) {
        Ok(result) => Ok(Value::Number(result)),
        Err(error) => failed(at, format!("`{}`: {error}", operator.symbol())),
    }
}
