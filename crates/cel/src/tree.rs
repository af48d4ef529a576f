//! A checked expression: every name in it exists, every call has its arguments, and it is no
//! deeper than the evaluator's stack bears.

use regex::Regex;

use crate::names::shorten;
use crate::number::{Arithmetic, Number};

/// Part of an expression.
#[derive(Debug)]
pub struct Node {
    /// The byte of the expression it is reported at.
    pub at: usize,
    /// What it is.
    pub kind: Kind,
}

/// Kind of a part.
#[derive(Debug)]
pub enum Kind {
    /// `null`.
    Null,
    /// A constant.
    Bool(bool),
    /// A constant.
    Number(Number<'static>),
    /// A constant.
    Text(String),
    /// A variable of the event's.
    Variable(Variable),
    /// The variable of a loop around this part.
    Local {
        /// Its place, counted from the outermost loop.
        slot: usize,
        /// Its name.
        name: String,
    },
    /// A list of these.
    List(Vec<Node>),
    /// A field, as in `new.total`.
    Field {
        /// Whose field.
        of: Box<Node>,
        /// The field's name.
        name: String,
    },
    /// Whether there is a field, as in `has(new.total)`.
    Has {
        /// Whose field.
        of: Box<Node>,
        /// The field's name.
        name: String,
    },
    /// An element, or a field by its name, as in `new["total"]`.
    Index {
        /// Whose element.
        of: Box<Node>,
        /// Which one.
        index: Box<Node>,
    },
    /// `!`
    Not(Box<Node>),
    /// `-` before a value.
    Negate(Box<Node>),
    /// `&&`
    Both(Box<[Node; 2]>),
    /// `||`
    Either(Box<[Node; 2]>),
    /// Condition, then, otherwise.
    Choice(Box<[Node; 3]>),
    /// A comparison.
    Compare(Comparison, Box<[Node; 2]>),
    /// Arithmetic.
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    /// Whether the first is in the second.
    In(Box<[Node; 2]>),
    /// A call of a function.
    Call(Function, Vec<Node>),
    /// Whether a pattern is found in a text.
    Matches {
        /// The text.
        text: Box<Node>,
        /// The pattern, compiled.
        pattern: Regex,
    },
    /// A loop over a list or the names of fields.
    Loop {
        /// Which one.
        kind: Loop,
        /// What it runs over.
        over: Box<Node>,
        /// What is asked of each element.
        body: Box<Node>,
        /// What `map` makes of the elements that satisfy `body`, if it has both.
        result: Option<Box<Node>>,
    },
}

/// Variable of the event's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `old`: the row before.
    Old,
    /// `new`: the row after.
    New,
    /// `operation`.
    Operation,
    /// `entity`.
    Entity,
    /// `key`.
    Key,
    /// `tenant`.
    Tenant,
    /// `enrich`: the results of lookups, where there are some.
    Enrich,
}

impl Variable {
    /// Those of every event.
    pub const OF_EVENT: [Self; 6] = [
        Self::Old,
        Self::New,
        Self::Operation,
        Self::Entity,
        Self::Key,
        Self::Tenant,
    ];

    /// Its name in an expression.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Operation => "operation",
            Self::Entity => "entity",
            Self::Key => "key",
            Self::Tenant => "tenant",
            Self::Enrich => "enrich",
        }
    }
}

/// Comparison of two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// Loop over a list or the names of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// Whether the body holds for all.
    All,
    /// Whether it holds for any.
    Exists,
    /// Whether it holds for exactly one.
    ExistsOne,
    /// What the body makes of each.
    Map,
    /// Those for which it holds.
    Filter,
}

impl Loop {
    /// The loop of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "exists" => Self::Exists,
            "exists_one" | "existsOne" => Self::ExistsOne,
            "map" => Self::Map,
            "filter" => Self::Filter,
            _ => return None,
        })
    }
}

/// Function that an expression may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `size`: characters, elements or fields.
    Size,
    /// `startsWith`.
    StartsWith,
    /// `endsWith`.
    EndsWith,
    /// `contains`.
    Contains,
    /// `int`: a number without what stands after the point.
    Int,
    /// `double`: a number.
    Double,
    /// `string`: a text.
    Text,
    /// `bool`: true or false.
    Bool,
    /// `timestamp`: a point in time.
    Timestamp,
    /// `duration`: a span of time.
    Duration,
    /// `changed`: whether a field differs between before and after.
    Changed,
    /// `changed_to`: whether a field has a value that it did not have before.
    ChangedTo,
    /// `changed_from`: whether a field had a value that it has no more.
    ChangedFrom,
}

/// How a function is called.
pub(crate) struct Signature {
    pub(crate) name: &'static str,
    pub(crate) function: Function,
    /// With the value it is called on.
    pub(crate) arguments: usize,
    /// Shown to who calls it otherwise.
    pub(crate) usage: &'static str,
    pub(crate) as_method: bool,
    pub(crate) as_global: bool,
}

const fn method(name: &'static str, function: Function, usage: &'static str) -> Signature {
    Signature {
        name,
        function,
        arguments: 2,
        usage,
        as_method: true,
        as_global: false,
    }
}

const fn global(
    name: &'static str,
    function: Function,
    arguments: usize,
    usage: &'static str,
) -> Signature {
    Signature {
        name,
        function,
        arguments,
        usage,
        as_method: false,
        as_global: true,
    }
}

/// Every function but `has`, `matches` and the loops, which are parts of the language.
pub(crate) const SIGNATURES: [Signature; 14] = [
    Signature {
        name: "size",
        function: Function::Size,
        arguments: 1,
        usage: "size(new.tags)",
        as_method: true,
        as_global: true,
    },
    method(
        "startsWith",
        Function::StartsWith,
        "new.name.startsWith(\"A\")",
    ),
    method("endsWith", Function::EndsWith, "new.name.endsWith(\"z\")"),
    method("contains", Function::Contains, "new.name.contains(\"x\")"),
    global("int", Function::Int, 1, "int(new.total)"),
    global("uint", Function::Int, 1, "uint(new.total)"),
    global("double", Function::Double, 1, "double(new.total)"),
    global("string", Function::Text, 1, "string(new.id)"),
    global("bool", Function::Bool, 1, "bool(new.flag)"),
    global(
        "timestamp",
        Function::Timestamp,
        1,
        "timestamp(new.created_at)",
    ),
    global("duration", Function::Duration, 1, "duration(\"1h30m\")"),
    global("changed", Function::Changed, 1, "changed(\"status\")"),
    global(
        "changed_to",
        Function::ChangedTo,
        2,
        "changed_to(\"status\", \"paid\")",
    ),
    global(
        "changed_from",
        Function::ChangedFrom,
        2,
        "changed_from(\"status\", \"new\")",
    ),
];

/// The names of the language's own calls.
pub(crate) const OWN_CALLS: [&str; 8] = [
    "has",
    "matches",
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
];

impl Node {
    /// The parts that it is made of.
    pub(crate) fn parts(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::Null
            | Kind::Bool(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::Variable(_)
            | Kind::Local { .. } => Vec::new(),
            Kind::List(parts) | Kind::Call(_, parts) => parts.iter().collect(),
            Kind::Field { of: part, .. }
            | Kind::Has { of: part, .. }
            | Kind::Not(part)
            | Kind::Negate(part)
            | Kind::Matches { text: part, .. } => vec![part],
            Kind::Index { of, index } => vec![of, index],
            Kind::Both(parts)
            | Kind::Either(parts)
            | Kind::Compare(_, parts)
            | Kind::Arithmetic(_, parts)
            | Kind::In(parts) => parts.iter().collect(),
            Kind::Choice(parts) => parts.iter().collect(),
            Kind::Loop {
                over, body, result, ..
            } => [Some(over), Some(body), result.as_ref()]
                .into_iter()
                .flatten()
                .map(|part| &**part)
                .collect(),
        }
    }

    /// What the part always gives, where that is certain and no boolean.
    pub(crate) fn never_bool(&self) -> Option<&'static str> {
        Some(match &self.kind {
            Kind::Null => "null",
            Kind::Number(_) | Kind::Negate(_) => "a number",
            Kind::Variable(Variable::Old | Variable::New | Variable::Enrich) => "a row",
            Kind::Text(_) | Kind::Variable(_) => "text",
            Kind::List(_)
            | Kind::Loop {
                kind: Loop::Map | Loop::Filter,
                ..
            } => "a list",
            Kind::Arithmetic(..) => "the result of arithmetic",
            Kind::Choice(parts) => {
                return parts[1].never_bool().and(parts[2].never_bool());
            }
            Kind::Call(function, _) => match function {
                Function::Size | Function::Int | Function::Double => "a number",
                Function::Text => "text",
                Function::Timestamp => "a timestamp",
                Function::Duration => "a duration",
                _ => return None,
            },
            _ => return None,
        })
    }

    /// The part as a message names it: a path as it was written, other things by what they are.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Variable(variable) => format!("`{}`", variable.name()),
            Kind::Local { name, .. } => format!("`{}`", shorten(name)),
            Kind::Field { of, name } => {
                let name = shorten(name);
                match of.describe().strip_suffix('`') {
                    Some(path) if path.len() < 120 => format!("{path}.{name}`"),
                    _ => format!("field `{name}`"),
                }
            }
            Kind::Index { of, .. } => match of.describe().strip_suffix('`') {
                Some(path) => format!("{path}[...]`"),
                None => "the element".to_owned(),
            },
            Kind::Null => "null".to_owned(),
            Kind::Bool(value) => value.to_string(),
            Kind::Number(_) => "the number".to_owned(),
            Kind::Text(_) => "the text".to_owned(),
            Kind::List(_) => "the list".to_owned(),
            Kind::Call(function, _) => SIGNATURES
                .iter()
                .find(|signature| signature.function == *function)
                .map_or_else(String::new, |signature| {
                    format!("what `{}` gives", signature.name)
                }),
            Kind::Arithmetic(operator, _) => format!("what `{}` gives", operator.symbol()),
            _ => "the expression".to_owned(),
        }
    }
}
