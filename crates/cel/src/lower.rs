//! From the parser's tree to a checked one: names are resolved, numbers get their digits back,
//! patterns are compiled, and what cannot be evaluated is refused with its remedy.

use cel_parser::common::ast::{
    CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use regex::{Regex, RegexBuilder};

use crate::condition::ConditionError;
use crate::functions::{duration, timestamp};
use crate::inputs::OPERATIONS;
use crate::names::{did_you_mean, list, shorten};
use crate::number::{Arithmetic, Number};
use crate::source::Source;
use crate::tree::{Comparison, Function, Kind, Loop, Node, OWN_CALLS, SIGNATURES, Variable};

/// Deepest nesting of parts in each other. The evaluator calls itself once for each, and must
/// fit the two MiB of a runtime's worker.
const MAX_DEPTH: usize = 64;
/// Most mistakes that are told of one condition.
const MAX_ERRORS: usize = 8;
/// Most bytes of a compiled pattern, and of its cache while it runs.
const MAX_PATTERN: usize = 512 * 1024;

type Lowered<T = Node> = Result<T, ConditionError>;

/// The walk over one tree.
pub(crate) struct Lowering<'s> {
    source: &'s Source<'s>,
    info: &'s SourceInfo,
    /// Names of the lookups whose results it may refer to.
    lookups: &'s [String],
    /// Names of the loops' variables around the part under way.
    locals: Vec<String>,
    depth: usize,
    numbers: usize,
    /// Mistakes so far. What is wrong is passed over, so that the rest is looked at too.
    errors: Vec<ConditionError>,
}

impl<'s> Lowering<'s> {
    pub(crate) fn new(source: &'s Source<'s>, info: &'s SourceInfo, lookups: &'s [String]) -> Self {
        Self {
            source,
            info,
            lookups,
            locals: Vec::new(),
            depth: 0,
            numbers: 0,
            errors: Vec::new(),
        }
    }

    /// Lowers the whole tree.
    pub(crate) fn whole(mut self, tree: &IdedExpr) -> Lowered {
        let root = self.node(tree)?;
        match self.errors.len() {
            0 => {}
            1 => return Err(self.errors.remove(0)),
            _ => {
                self.errors.truncate(MAX_ERRORS);
                return Err(ConditionError::Several(self.errors));
            }
        }
        // Were a number seen where the parser saw none, a text would have been altered.
        if self.numbers == self.source.number_count() {
            Ok(root)
        } else {
            Err(ConditionError::Parser)
        }
    }

    fn node(&mut self, expr: &IdedExpr) -> Lowered {
        let (known, depth, locals) = (self.errors.len(), self.depth, self.locals.len());
        match self.part(expr) {
            Err(error @ (ConditionError::Meaning { .. } | ConditionError::Pattern { .. })) => {
                (self.depth, _) = (depth, self.locals.drain(locals..));
                // What is wrong around something wrong may be its doing.
                if self.errors.len() == known {
                    self.errors.push(error);
                }
                Ok(Node {
                    at: self.at(expr),
                    kind: Kind::Null,
                })
            }
            done => done,
        }
    }

    fn part(&mut self, expr: &IdedExpr) -> Lowered {
        let at = self.at(expr);
        if self.depth == MAX_DEPTH {
            let place = self.source.place(at);
            return Err(ConditionError::TooDeep { place });
        }
        self.depth += 1;
        let kind = match &expr.expr {
            Expr::Literal(literal) => self.literal(at, literal)?,
            Expr::Ident(name) => self.name(at, name)?,
            Expr::Select(SelectExpr { operand, field, .. }) => {
                let of = self.boxed(operand)?;
                self.check_lookup(at, &of, field)?;
                Kind::Field {
                    of,
                    name: field.clone(),
                }
            }
            Expr::List(list) => Kind::List(self.nodes(&list.elements)?),
            Expr::Call(call) => self.call(at, call)?,
            Expr::Map(_) | Expr::Struct(_) => {
                return Err(self.error(at, "objects in braces are not offered; use a list"));
            }
            Expr::Comprehension(_) | Expr::Unspecified => return Err(ConditionError::Parser),
        };
        self.depth -= 1;
        Ok(Node { at, kind })
    }

    fn boxed(&mut self, expr: &IdedExpr) -> Lowered<Box<Node>> {
        self.node(expr).map(Box::new)
    }

    fn nodes(&mut self, exprs: &[IdedExpr]) -> Lowered<Vec<Node>> {
        exprs.iter().map(|expr| self.node(expr)).collect()
    }

    fn exactly<const N: usize>(&mut self, args: &[IdedExpr]) -> Lowered<Box<[Node; N]>> {
        let nodes = self.nodes(args)?.into_boxed_slice();
        nodes.try_into().map_err(|_| ConditionError::Parser)
    }

    fn at(&self, expr: &IdedExpr) -> usize {
        self.info
            .offset_for(expr.id)
            .and_then(|(start, _)| usize::try_from(start).ok())
            .unwrap_or(0)
    }

    fn error(&self, at: usize, message: impl Into<String>) -> ConditionError {
        ConditionError::Meaning {
            place: self.source.place(at),
            message: message.into(),
        }
    }

    fn literal(&mut self, at: usize, literal: &LiteralValue) -> Lowered<Kind> {
        let negative = match literal {
            LiteralValue::Null => return Ok(Kind::Null),
            LiteralValue::Boolean(value) => return Ok(Kind::Bool(*value.inner())),
            LiteralValue::String(text) => return Ok(Kind::Text(text.inner().to_owned())),
            LiteralValue::Int(value) => *value.inner() < 0,
            LiteralValue::Double(value) => value.inner().is_sign_negative(),
            LiteralValue::UInt(_) | LiteralValue::Bytes(_) => {
                return Err(self.error(at, "values of bytes are not offered; write a text"));
            }
        };
        self.numbers += 1;
        let digits = self.source.number_at(at).ok_or(ConditionError::Parser)?;
        let number = Number::parse(digits)
            .ok_or_else(|| self.error(at, "the exponent of this number is too large"))?
            .into_owned();
        Ok(Kind::Number(if negative {
            number.negated()
        } else {
            number
        }))
    }

    fn name(&self, at: usize, name: &str) -> Lowered<Kind> {
        if let Some(slot) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Kind::Local {
                slot,
                name: name.to_owned(),
            });
        }
        let enrich = (!self.lookups.is_empty()).then_some(&Variable::Enrich);
        let variables = || Variable::OF_EVENT.iter().chain(enrich);
        let known = || variables().map(|variable| variable.name());
        if let Some(variable) = variables().find(|one| one.name() == name) {
            return Ok(Kind::Variable(*variable));
        }
        if name == Variable::Enrich.name() {
            let message = "the results of lookups are there in `when` of an action alone, and only where \
                           `spec.enrich` has lookups";
            return Err(self.error(at, message));
        }
        let remedy = match did_you_mean(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!(
                "a field of the row is written `new.{0}` or `old.{0}`.",
                shorten(name)
            ),
        };
        let message = format!(
            "unknown name `{}`; {remedy} Known names are: {}",
            shorten(name),
            list(known())
        );
        Err(self.error(at, message))
    }

    /// A lookup that does not exist would make a condition that always fails.
    fn check_lookup(&self, at: usize, of: &Node, name: &str) -> Lowered<()> {
        let is_lookup = matches!(of.kind, Kind::Variable(Variable::Enrich));
        if !is_lookup || self.lookups.iter().any(|known| known == name) {
            return Ok(());
        }
        let known = || self.lookups.iter().map(String::as_str);
        let remedy = match did_you_mean(name, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are: {}", list(known())),
        };
        let message = format!("there is no lookup `{}`; {remedy}", shorten(name));
        Err(self.error(at, message))
    }

    fn call(&mut self, at: usize, call: &CallExpr) -> Lowered<Kind> {
        if call.target.is_none()
            && let Some(kind) = self.operator(&call.func_name, &call.args)?
        {
            self.check_operation(&kind)?;
            return Ok(kind);
        }
        match (call.func_name.as_str(), call.target.as_deref(), &*call.args) {
            ("has", None, args) => self.has(at, args),
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                Ok(Kind::Matches {
                    text: self.boxed(text)?,
                    pattern: self.pattern(pattern)?,
                })
            }
            ("matches", ..) => Err(self.error(at, "write new.code.matches(\"^A[0-9]+$\")")),
            (name, Some(over), args) if let Some(kind) = Loop::named(name) => {
                self.iteration(at, kind, over, args)
            }
            _ => self.function(at, call),
        }
    }

    fn operator(&mut self, name: &str, args: &[IdedExpr]) -> Lowered<Option<Kind>> {
        let compare = |comparison| move |parts| Kind::Compare(comparison, parts);
        let arithmetic = |operator| move |parts| Kind::Arithmetic(operator, parts);
        Ok(Some(match name {
            operators::CONDITIONAL => Kind::Choice(self.exactly(args)?),
            operators::LOGICAL_AND => Kind::Both(self.exactly(args)?),
            operators::LOGICAL_OR => Kind::Either(self.exactly(args)?),
            operators::LOGICAL_NOT | operators::NEGATE => {
                let [operand] = *self.exactly(args)?;
                match name {
                    operators::NEGATE => Kind::Negate(Box::new(operand)),
                    _ => Kind::Not(Box::new(operand)),
                }
            }
            operators::IN => Kind::In(self.exactly(args)?),
            operators::INDEX => {
                let [of, index] = *self.exactly(args)?;
                Kind::Index {
                    of: Box::new(of),
                    index: Box::new(index),
                }
            }
            operators::EQUALS => compare(Comparison::Equal)(self.exactly(args)?),
            operators::NOT_EQUALS => compare(Comparison::Unequal)(self.exactly(args)?),
            operators::LESS => compare(Comparison::Less)(self.exactly(args)?),
            operators::LESS_EQUALS => compare(Comparison::LessOrEqual)(self.exactly(args)?),
            operators::GREATER => compare(Comparison::Greater)(self.exactly(args)?),
            operators::GREATER_EQUALS => compare(Comparison::GreaterOrEqual)(self.exactly(args)?),
            operators::ADD => arithmetic(Arithmetic::Add)(self.exactly(args)?),
            operators::SUBSTRACT => arithmetic(Arithmetic::Subtract)(self.exactly(args)?),
            operators::MULTIPLY => arithmetic(Arithmetic::Multiply)(self.exactly(args)?),
            operators::DIVIDE => arithmetic(Arithmetic::Divide)(self.exactly(args)?),
            operators::MODULO => arithmetic(Arithmetic::Remainder)(self.exactly(args)?),
            _ => return Ok(None),
        }))
    }

    /// An operation that does not exist would make a condition that never holds.
    fn check_operation(&self, kind: &Kind) -> Lowered<()> {
        let (Kind::Compare(_, parts) | Kind::In(parts)) = kind else {
            return Ok(());
        };
        let compared = match &**parts {
            [a, b] if matches!(a.kind, Kind::Variable(Variable::Operation)) => b,
            [a, b] if matches!(b.kind, Kind::Variable(Variable::Operation)) => a,
            _ => return Ok(()),
        };
        let values = match &compared.kind {
            Kind::List(elements) => elements.as_slice(),
            _ => std::slice::from_ref(compared),
        };
        let known = || OPERATIONS.iter().copied();
        for value in values {
            if let Kind::Text(text) = &value.kind
                && !known().any(|operation| operation == text)
            {
                let remedy = match did_you_mean(text, known()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known are: {}", list(known())),
                };
                let message = format!("there is no operation `{}`; {remedy}", shorten(text));
                return Err(self.error(value.at, message));
            }
        }
        Ok(())
    }

    fn has(&mut self, at: usize, args: &[IdedExpr]) -> Lowered<Kind> {
        if let [argument] = args {
            match self.node(argument)?.kind {
                Kind::Field { of, name } => return Ok(Kind::Has { of, name }),
                Kind::Index { of, index } => {
                    if let Kind::Text(name) = index.kind {
                        return Ok(Kind::Has { of, name });
                    }
                }
                _ => {}
            }
        }
        Err(self.error(at, "`has` asks for a field: write has(new.total)"))
    }

    fn pattern(&mut self, pattern: &IdedExpr) -> Lowered<Regex> {
        let at = self.at(pattern);
        let Kind::Text(text) = self.node(pattern)?.kind else {
            let message =
                "the pattern of `matches` must be a text in quotes, so that it is compiled once";
            return Err(self.error(at, message));
        };
        RegexBuilder::new(&text)
            .size_limit(MAX_PATTERN)
            .dfa_size_limit(MAX_PATTERN)
            .build()
            .map_err(|source| ConditionError::Pattern {
                place: self.source.place(at),
                source,
            })
    }

    fn iteration(
        &mut self,
        at: usize,
        kind: Loop,
        over: &IdedExpr,
        args: &[IdedExpr],
    ) -> Lowered<Kind> {
        let (variable, body, result) = match args {
            [variable, body] => (variable, body, None),
            [variable, body, result] if kind == Loop::Map => (variable, body, Some(result)),
            _ => return Err(self.error(at, "write new.items.exists(item, item.price > 10)")),
        };
        let Expr::Ident(name) = &variable.expr else {
            let message =
                "the first argument is a name for the element: new.items.exists(item, ...)";
            return Err(self.error(at, message));
        };
        let over = self.boxed(over)?;
        self.locals.push(name.clone());
        let body = self.boxed(body)?;
        let result = result.map(|result| self.boxed(result)).transpose()?;
        self.locals.pop();
        Ok(Kind::Loop {
            kind,
            over,
            body,
            result,
        })
    }

    fn function(&mut self, at: usize, call: &CallExpr) -> Lowered<Kind> {
        let name = &call.func_name;
        // The parser places a call at its bracket; people look for its name.
        let at = self.source.word_before(at, name).unwrap_or(at);
        let Some(signature) = SIGNATURES.iter().find(|signature| signature.name == *name) else {
            let known = || SIGNATURES.iter().map(|one| one.name).chain(OWN_CALLS);
            let remedy = match did_you_mean(name, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are: {}", known().collect::<Vec<_>>().join(", ")),
            };
            let message = format!("unknown function `{}`; {remedy}", shorten(name));
            self.errors.push(self.error(at, message));
            let _told = self.nodes(&call.args)?;
            return Ok(Kind::Null);
        };
        let form = if call.target.is_some() {
            signature.as_method
        } else {
            signature.as_global
        };
        let given = call.args.len() + usize::from(call.target.is_some());
        if !form || given != signature.arguments {
            return Err(self.error(at, format!("write {}", signature.usage)));
        }
        let mut arguments = Vec::with_capacity(given);
        if let Some(target) = &call.target {
            arguments.push(self.node(target)?);
        }
        arguments.extend(self.nodes(&call.args)?);
        self.check_constant(signature.function, &arguments)?;
        Ok(Kind::Call(signature.function, arguments))
    }

    /// A constant that cannot be converted would make a condition that always fails.
    fn check_constant(&self, function: Function, arguments: &[Node]) -> Lowered<()> {
        let [
            Node {
                at,
                kind: Kind::Text(text),
            },
        ] = arguments
        else {
            return Ok(());
        };
        let remedy = match function {
            Function::Duration if duration(text).is_none() => {
                "is no duration; write hours, minutes and seconds, as in \"120h\" (5 days) or \"1h30m\""
            }
            Function::Timestamp if timestamp(text).is_none() => {
                "is no time; write it as in \"2025-01-31T12:00:00Z\""
            }
            _ => return Ok(()),
        };
        Err(self.error(*at, format!("\"{}\" {remedy}", shorten(text))))
    }
}
