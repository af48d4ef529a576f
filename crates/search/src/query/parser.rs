//! The query language.
//!
//! A parser of our own: that of Tantivy (`tantivy-query-grammar` 0.27) tells no position for a query that
//! it refuses, and repairs others without a word.

use super::Query;
use super::clause::{self, Clause};
use super::token::{Token, TokenKind, tokens};

/// Maximum length of a query in bytes.
pub const MAX_QUERY_BYTES: usize = 1024;

/// Maximum depth of parentheses and negations.
const MAX_DEPTH: usize = 16;

/// Maximum number of words, phrases and values.
const MAX_CLAUSES: usize = 64;

/// Maximum number of ranges.
const MAX_RANGES: usize = 8;

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {message}", .position + 1)]
pub(crate) struct QueryError {
    /// Number of characters before the place.
    pub(crate) position: usize,
    /// What is wrong, and what to write.
    pub(crate) message: String,
}

impl QueryError {
    pub(crate) fn new(position: usize, message: impl Into<String>) -> Self {
        Self {
            position,
            message: message.into(),
        }
    }
}

/// Parses a query, for which some fields do not exist. What has no words, such as a lone `&`, says nothing, as
/// it is nothing in a document.
pub(crate) fn parse(query: &str, hidden: &'static [&'static str]) -> Result<Query, QueryError> {
    if query.len() > MAX_QUERY_BYTES {
        let kept = &query[..query.floor_char_boundary(MAX_QUERY_BYTES)];
        let message = format!("a query has at most {MAX_QUERY_BYTES} bytes");
        return Err(QueryError::new(kept.chars().count(), message));
    }
    let mut parser = Parser {
        tokens: tokens(query)?,
        place: 0,
        end: query.chars().count(),
        hidden,
        depth: 0,
        clauses: 0,
        ranges: 0,
    };
    if parser.tokens.is_empty() {
        return Ok(Query::All);
    }
    let parsed = parser.any()?;
    if let Some(token) = parser.peek() {
        let message = "there is no open parenthesis for this one";
        return Err(QueryError::new(token.position, message));
    }
    parsed.ok_or_else(|| QueryError::new(0, "there is no word to search for"))
}

struct Parser {
    tokens: Vec<Token>,
    place: usize,
    /// Length of the query in characters.
    end: usize,
    /// Fields that do not exist for who asks.
    hidden: &'static [&'static str],
    depth: usize,
    clauses: usize,
    ranges: usize,
}

/// A part of a query; nothing where it has no words.
type Parsed = Result<Option<Query>, QueryError>;

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.place)
    }

    fn take(&mut self, wanted: &TokenKind) -> bool {
        let found = self.peek().is_some_and(|token| token.kind == *wanted);
        self.place += usize::from(found);
        found
    }

    fn any(&mut self) -> Parsed {
        let mut parts = vec![self.all()?];
        while self.take(&TokenKind::Or) {
            parts.push(self.all()?);
        }
        let parts: Vec<Query> = parts.into_iter().flatten().collect();
        Ok((!parts.is_empty()).then(|| Query::any_of(parts)))
    }

    fn all(&mut self) -> Parsed {
        let mut parts = vec![self.one()?];
        loop {
            let and = self.take(&TokenKind::And);
            let ends = self
                .peek()
                .is_none_or(|next| matches!(next.kind, TokenKind::Or | TokenKind::Close));
            if ends && !and {
                break;
            }
            parts.push(self.one()?);
        }
        let parts: Vec<Query> = parts.into_iter().flatten().collect();
        Ok((!parts.is_empty()).then(|| Query::all_of(parts)))
    }

    fn one(&mut self) -> Parsed {
        let Some(token) = self.peek().cloned() else {
            return Err(QueryError::new(self.end, "something is missing at the end"));
        };
        self.place += 1;
        match token.kind {
            TokenKind::Not => {
                self.enter(token.position)?;
                let negated = self.one()?;
                self.depth -= 1;
                Ok(negated.map(Query::none_of))
            }
            TokenKind::Open => {
                self.enter(token.position)?;
                let inner = self.any()?;
                self.depth -= 1;
                if !self.take(&TokenKind::Close) {
                    let message = "this parenthesis is not closed";
                    return Err(QueryError::new(token.position, message));
                }
                Ok(inner)
            }
            TokenKind::Text {
                text,
                quoted,
                prefix,
            } => {
                self.count(token.position)?;
                Ok(clause::words(&text, quoted, prefix))
            }
            TokenKind::Field(names) => self.field(token.position, &names),
            TokenKind::Close => Err(QueryError::new(
                token.position,
                "something is missing before this parenthesis",
            )),
            TokenKind::And | TokenKind::Or => Err(QueryError::new(
                token.position,
                "something is missing before this; put the word in quotes to search for it",
            )),
            TokenKind::Comparison { .. } | TokenKind::Range { .. } => {
                Err(QueryError::new(token.position, "a field is missing"))
            }
        }
    }

    fn field(&mut self, position: usize, names: &[String]) -> Parsed {
        self.count(position)?;
        let missing = || QueryError::new(position, "a value must follow the colon");
        let value = self.peek().cloned().ok_or_else(missing)?;
        self.place += 1;
        let clause = match value.kind {
            TokenKind::Text {
                text,
                quoted,
                prefix,
            } => {
                if text.is_empty() && !quoted && !prefix {
                    return Err(missing());
                }
                Clause::Value {
                    text,
                    quoted,
                    prefix,
                }
            }
            TokenKind::Comparison { greater, closed } => {
                let Some(Token {
                    kind:
                        TokenKind::Text {
                            text,
                            prefix: false,
                            ..
                        },
                    ..
                }) = self.peek().cloned()
                else {
                    return Err(QueryError::new(
                        value.position,
                        "a number or a date must follow",
                    ));
                };
                self.place += 1;
                let bound = Some((text, closed));
                let (from, to) = if greater {
                    (bound, None)
                } else {
                    (None, bound)
                };
                Clause::Range { from, to }
            }
            TokenKind::Range {
                from,
                to,
                from_closed,
                to_closed,
            } => Clause::Range {
                from: from.map(|bound| (bound, from_closed)),
                to: to.map(|bound| (bound, to_closed)),
            },
            _ => return Err(missing()),
        };
        if matches!(clause, Clause::Range { .. }) {
            self.ranges += 1;
            if self.ranges > MAX_RANGES {
                let message = format!("a query has at most {MAX_RANGES} ranges");
                return Err(QueryError::new(position, message));
            }
        }
        let compiled = clause::field(names, clause, self.hidden);
        compiled
            .map(Some)
            .map_err(|message| QueryError::new(position, message))
    }

    fn enter(&mut self, position: usize) -> Result<(), QueryError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("a query is nested at most {MAX_DEPTH} deep");
            return Err(QueryError::new(position, message));
        }
        Ok(())
    }

    fn count(&mut self, position: usize) -> Result<(), QueryError> {
        self.clauses += 1;
        if self.clauses > MAX_CLAUSES {
            let message = format!("a query has at most {MAX_CLAUSES} words, phrases and values");
            return Err(QueryError::new(position, message));
        }
        Ok(())
    }
}
