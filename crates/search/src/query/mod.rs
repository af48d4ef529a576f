//! Queries as both backends understand them.

pub(crate) mod clause;
pub(crate) mod parser;
pub(crate) mod token;

/// Which documents are found. What `and` and `or` mean is fixed here: a document matches `And` if it
/// matches all, `Or` if it matches one at least, `Not` if it does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those with this term.
    Term(String),
    /// Those with a term that begins with this.
    TermPrefix(String),
    /// Those with a term in a range.
    TermRange(TermRange),
    /// Those with these words one after the other; at least one word.
    Phrase(Vec<String>),
    /// Those with a word that begins with this.
    WordPrefix(String),
    /// Those that match all of these.
    And(Vec<Query>),
    /// Those that match one of these at least.
    Or(Vec<Query>),
    /// Those that do not match.
    Not(Box<Query>),
}

/// Terms between two, by the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TermRange {
    /// What all terms of the range begin with, the bounds as well.
    pub(crate) prefix: String,
    /// The rest of the lower bound, and whether it belongs to the range; open where absent.
    pub(crate) from: Option<(String, bool)>,
    /// The rest of the upper bound, and whether it belongs to the range; open where absent. Then the
    /// range ends before the prefix with a `~` after it.
    pub(crate) to: Option<(String, bool)>,
}

impl Query {
    /// Joins queries that must all match; without `All`, and with nothing nested in vain.
    pub(crate) fn all_of(queries: Vec<Self>) -> Self {
        let mut parts = Vec::new();
        for query in queries {
            match query {
                Self::All => {}
                Self::Nothing => return Self::Nothing,
                Self::And(more) => parts.extend(more),
                query => parts.push(query),
            }
        }
        joined(parts, Self::All, Self::And)
    }

    /// Joins queries of which one must match.
    pub(crate) fn any_of(queries: Vec<Self>) -> Self {
        let mut parts = Vec::new();
        for query in queries {
            match query {
                Self::Nothing => {}
                Self::All => return Self::All,
                Self::Or(more) => parts.extend(more),
                query => parts.push(query),
            }
        }
        joined(parts, Self::Nothing, Self::Or)
    }

    /// Negates a query.
    pub(crate) fn none_of(query: Self) -> Self {
        match query {
            Self::All => Self::Nothing,
            Self::Nothing => Self::All,
            Self::Not(query) => *query,
            query => Self::Not(Box::new(query)),
        }
    }
}

/// Joins parts, of which one alone needs no join, and none is something else.
fn joined(mut parts: Vec<Query>, none: Query, join: fn(Vec<Query>) -> Query) -> Query {
    match parts.len() {
        0 | 1 => parts.pop().unwrap_or(none),
        _ => join(parts),
    }
}

impl TermRange {
    /// Whether a term is in the range.
    pub(crate) fn has(&self, term: &str) -> bool {
        let Some(rest) = term.strip_prefix(self.prefix.as_str()) else {
            return false;
        };
        let above =
            |(from, closed): &(String, bool)| rest > from.as_str() || (*closed && rest == from);
        let below = |(to, closed): &(String, bool)| rest < to.as_str() || (*closed && rest == to);
        self.from.as_ref().is_none_or(above) && self.to.as_ref().is_none_or(below)
    }
}
