//! A condition: checked and compiled once, then evaluated on any number of events.
//!
//! Compiling refuses all that cannot work on any event, and names the place and the remedy.

use std::fmt;
use std::thread;

use cel_parser::Env;
use cel_parser::common::ast::{IdedExpr, SourceInfo};

use crate::evaluate::Evaluation;
use crate::evaluate::EvaluationError;
use crate::inputs::Inputs;
use crate::lower::Lowering;
use crate::names::shorten;
use crate::source::{MAX_BYTES, Source};
use crate::tree::Node;

/// Stack of the thread that parses. The parser calls itself for each of a chain of operators;
/// the longest chain that the bounds on an expression admit takes an eighth of this without
/// optimisation.
const PARSER_STACK: usize = 64 * 1024 * 1024;

/// A place in an expression, for people: both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Place {
    /// Where the byte `at` of the text is.
    pub(crate) fn of(text: &str, at: usize) -> Self {
        let before = &text[..text.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, ", self.line)?;
        }
        write!(f, "column {}", self.column)
    }
}

/// Why an expression is no condition.
#[derive(Debug, thiserror::Error)]
pub enum ConditionError {
    /// There is nothing in it.
    #[error("the condition is empty; leave it out to match every event")]
    Empty,
    /// It is too long.
    #[error("the condition has {bytes} bytes, and {MAX_BYTES} are allowed; split the observer")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It has too many parts.
    #[error(
        "the condition has more than {limit} names, values and operators; shorten it, or split the observer"
    )]
    TooManyTokens {
        /// The bound.
        limit: usize,
    },
    /// It nests too deeply.
    #[error("{place}: nested too deeply; split the condition, or the observer")]
    TooDeep {
        /// Where the bound is passed.
        place: Place,
    },
    /// It does not follow the grammar.
    #[error("{place}: {message}")]
    Syntax {
        /// Where the reader stumbled.
        place: Place,
        /// What is wrong.
        message: String,
    },
    /// It uses a name that means nothing, or something in a way in which it cannot be used.
    #[error("{place}: {message}")]
    Meaning {
        /// Where.
        place: Place,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// The pattern of `matches` is no regular expression, or too large.
    #[error("{place}: the pattern of `matches` cannot be used: {}", reason(source))]
    Pattern {
        /// Where it stands.
        place: Place,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
    /// It can never be true or false.
    #[error("the condition gives {what}, not true or false; compare it with something")]
    NotBool {
        /// What it gives.
        what: &'static str,
    },
    /// There are several mistakes, all of which are [`ConditionError::each`].
    #[error("{} (and {} more)", .0.first().map(ToString::to_string).unwrap_or_default(), .0.len() - 1)]
    Several(Vec<ConditionError>),
    /// The parser failed where it should have given an error.
    #[error("the condition cannot be parsed; write it in a simpler way")]
    Parser,
}

impl ConditionError {
    /// The mistakes one by one.
    #[must_use]
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Several(all) => all,
            one => std::slice::from_ref(one),
        }
    }
}

/// Why a pattern cannot be used, in one line.
fn reason(error: &regex::Error) -> String {
    if let regex::Error::CompiledTooBig(_) = error {
        return "it is too large; shorten it, or bound its repetitions".to_owned();
    }
    // The lines before show the pattern with a mark beneath it.
    let text = error.to_string();
    let reason = text.rsplit("error: ").next().unwrap_or_default();
    reason.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the parser stumbled over, in words for people.
fn in_words(message: &str) -> String {
    let quoted = || {
        let (_, rest) = message.split_once('\'')?;
        let (text, _) = rest.split_once('\'')?;
        // Of several words only the last is not understood.
        text.split_whitespace().next_back().map(str::to_owned)
    };
    match quoted() {
        Some(word) if word.ends_with("<EOF>") => "something is missing at the end".to_owned(),
        Some(word) => format!(
            "`{}` cannot stand here: is an operator missing before it, or a value?",
            shorten(&word)
        ),
        None => "this cannot be read".to_owned(),
    }
}

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    text: String,
    lookups: Vec<String>,
    root: Node,
}

impl Condition {
    /// Compiles an expression of at most 8 KiB.
    pub fn compile(text: &str) -> Result<Self, ConditionError> {
        Self::compile_with_lookups(text, Vec::new())
    }

    /// Compiles an expression that may refer to the results of these lookups, as `enrich.NAME`.
    pub fn compile_with_lookups(text: &str, lookups: Vec<String>) -> Result<Self, ConditionError> {
        let source = Source::read(text)?;
        // A thread of its own has the stack that the parser may need, and should the parser
        // panic on an input we have not thought of, one observer is refused and nothing else
        // is harmed.
        let root = thread::scope(|scope| {
            thread::Builder::new()
                .name("condition".to_owned())
                .stack_size(PARSER_STACK)
                .spawn_scoped(scope, || parse(&source, &lookups))
                .map_err(|_| ConditionError::Parser)?
                .join()
                .map_err(|_| ConditionError::Parser)?
        })?;
        if let Some(what) = root.never_bool() {
            return Err(ConditionError::NotBool { what });
        }
        Ok(Self {
            text: text.to_owned(),
            lookups,
            root,
        })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Names of the lookups whose results it may refer to.
    pub(crate) fn known_lookups(&self) -> &[String] {
        &self.lookups
    }

    /// The expression's tree, for those who look for what it asks of an event.
    #[must_use]
    pub const fn root(&self) -> &Node {
        &self.root
    }

    /// Evaluates the condition on an event: whether it holds, or why that cannot be said.
    pub fn evaluate(&self, inputs: &dyn Inputs) -> Result<bool, EvaluationError> {
        Evaluation::new(inputs)
            .condition(&self.root)
            .map_err(|stop| stop.into_error(|at| Place::of(&self.text, at)))
    }
}

fn parse(source: &Source<'_>, lookups: &[String]) -> Result<Node, ConditionError> {
    let (tree, info) = parse_masked(source)?;
    Lowering::new(source, &info, lookups).whole(&tree)
}

/// The parser's tree with the language's macros left as the calls they are written as.
fn parse_masked(source: &Source<'_>) -> Result<(IdedExpr, SourceInfo), ConditionError> {
    Env::default()
        .parser()
        .enable_optional_syntax(false)
        .enable_ident_escape_syntax(true)
        .parse_with_source_info(&source.masked())
        .map_err(|errors| {
            let Some(error) = errors.errors.into_iter().next() else {
                return ConditionError::Parser;
            };
            let count = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
            ConditionError::Syntax {
                place: Place {
                    line: count(error.pos.0),
                    column: count(error.pos.1),
                },
                message: in_words(&error.msg),
            }
        })
}
