//! Tokens of the query language.

use super::parser::QueryError;

/// A token and where it begins, in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// Number of characters before it.
    pub(crate) position: usize,
    /// The token.
    pub(crate) kind: TokenKind,
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Open,
    Close,
    And,
    Or,
    Not,
    /// Name of a field and the colon after it; as names that lead to the value.
    Field(Vec<String>),
    /// Text as it is, with whether it stands in quotes, and whether a `*` follows.
    Text {
        text: String,
        quoted: bool,
        prefix: bool,
    },
    /// `>`, `>=`, `<` or `<=` after a field: whether greater, and whether the bound belongs to it.
    Comparison {
        greater: bool,
        closed: bool,
    },
    /// `[1 TO 10}` after a field: the bounds, absent where open, and whether they belong to it.
    Range {
        from: Option<String>,
        to: Option<String>,
        from_closed: bool,
        to_closed: bool,
    },
}

/// Splits a query into tokens.
pub(crate) fn tokens(query: &str) -> Result<Vec<Token>, QueryError> {
    let mut lexer = Lexer {
        characters: query.chars().collect(),
        place: 0,
    };
    let mut tokens = Vec::new();
    while lexer.skip_space() {
        let position = lexer.place;
        let kind = match tokens.last().map(|one: &Token| &one.kind) {
            Some(TokenKind::Field(_)) => lexer.value()?,
            Some(TokenKind::Comparison { .. }) if lexer.peek() != Some('"') => lexer.bare(false)?,
            _ => lexer.token()?,
        };
        tokens.push(Token { position, kind });
    }
    Ok(tokens)
}

struct Lexer {
    characters: Vec<char>,
    place: usize,
}

/// A character, and whether a backslash stands before it.
type Read = (char, bool);

impl Lexer {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.place).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.place += usize::from(found);
        found
    }

    /// Returns whether anything is left.
    fn skip_space(&mut self) -> bool {
        while self.peek().is_some_and(char::is_whitespace) {
            self.place += 1;
        }
        self.peek().is_some()
    }

    fn token(&mut self) -> Result<TokenKind, QueryError> {
        let start = self.place;
        let next_is_space = self
            .characters
            .get(start + 1)
            .is_none_or(|next| next.is_whitespace());
        match self.peek() {
            Some('(') => Ok(self.single(TokenKind::Open)),
            Some(')') => Ok(self.single(TokenKind::Close)),
            Some('-') if !next_is_space => Ok(self.single(TokenKind::Not)),
            Some('!') if !next_is_space => {
                Err(QueryError::new(start, "write NOT or - in place of !"))
            }
            Some('"') => self.quoted(),
            Some('[' | '{') => Err(QueryError::new(
                start,
                "a range needs a field before it, as in new.total:[1 TO 10]; put other brackets in quotes",
            )),
            _ => self.bare(true),
        }
    }

    /// What follows a field.
    fn value(&mut self) -> Result<TokenKind, QueryError> {
        match self.peek() {
            Some('"') => self.quoted(),
            Some('[' | '{') => self.range(),
            Some(one @ ('<' | '>')) => {
                self.place += 1;
                let closed = self.take('=');
                let greater = one == '>';
                Ok(TokenKind::Comparison { greater, closed })
            }
            Some('(') => Err(QueryError::new(
                self.place,
                "a field takes one value; write (a:1 OR a:2) in place of a:(1 OR 2)",
            )),
            _ => self.bare(false),
        }
    }

    fn single(&mut self, kind: TokenKind) -> TokenKind {
        self.place += 1;
        kind
    }

    /// Reads a character of a text, or the one after a backslash.
    fn character(&mut self) -> Result<Option<Read>, QueryError> {
        let Some(one) = self.peek() else {
            return Ok(None);
        };
        self.place += 1;
        if one != '\\' {
            return Ok(Some((one, false)));
        }
        let Some(one) = self.peek() else {
            return Err(QueryError::new(
                self.place - 1,
                "nothing follows the backslash",
            ));
        };
        self.place += 1;
        Ok(Some((one, true)))
    }

    fn quoted_text(&mut self) -> Result<String, QueryError> {
        let start = self.place;
        self.place += 1;
        let mut text = String::new();
        loop {
            match self.character()? {
                None => return Err(QueryError::new(start, "this quote is not closed")),
                Some(('"', false)) => return Ok(text),
                Some((one, _)) => text.push(one),
            }
        }
    }

    fn quoted(&mut self) -> Result<TokenKind, QueryError> {
        let text = self.quoted_text()?;
        let message = match self.peek() {
            Some('~') => "words near each other (~) are not supported",
            Some('^') => "weights (^) are not supported: hits are in the order of time",
            Some('*') => "a phrase cannot end with *",
            _ => {
                return Ok(TokenKind::Text {
                    text,
                    quoted: true,
                    prefix: false,
                });
            }
        };
        Err(QueryError::new(self.place, message))
    }

    /// Reads a text without quotes, or a field and its colon.
    fn bare(&mut self, may_be_field: bool) -> Result<TokenKind, QueryError> {
        let start = self.place;
        let mut read: Vec<Read> = Vec::new();
        while let Some(one) = self.peek() {
            if one.is_whitespace() || matches!(one, '(' | ')' | '"') {
                break;
            }
            if one == ':' && may_be_field && !read.is_empty() {
                self.place += 1;
                return self.field(start, &read);
            }
            read.extend(self.character()?);
        }
        let plain: Option<String> = read
            .iter()
            .map(|(one, escaped)| (!escaped).then_some(*one))
            .collect();
        match plain.as_deref() {
            Some("AND") if may_be_field => return Ok(TokenKind::And),
            Some("OR") if may_be_field => return Ok(TokenKind::Or),
            Some("NOT") if may_be_field => return Ok(TokenKind::Not),
            Some("&&") => return Err(QueryError::new(start, "write AND in place of &&")),
            Some("||") => return Err(QueryError::new(start, "write OR in place of ||")),
            _ => {}
        }
        text(start, &read)
    }

    fn field(&self, start: usize, read: &[Read]) -> Result<TokenKind, QueryError> {
        let mut names = vec![String::new()];
        for (one, escaped) in read {
            match names.last_mut() {
                Some(name) if *one != '.' || *escaped => name.push(*one),
                _ => names.push(String::new()),
            }
        }
        if self.peek().is_none_or(char::is_whitespace) {
            return Err(QueryError::new(
                self.place,
                "a value must follow the colon; put text with a colon in quotes",
            ));
        }
        if names.iter().any(String::is_empty) {
            return Err(QueryError::new(
                start,
                "a part of this field's name is empty",
            ));
        }
        Ok(TokenKind::Field(names))
    }

    fn range(&mut self) -> Result<TokenKind, QueryError> {
        let start = self.place;
        let from_closed = self.peek() == Some('[');
        self.place += 1;
        let malformed = || QueryError::new(start, "a range is written as [1 TO 10] or {1 TO 10}");
        let from = self.bound()?.ok_or_else(malformed)?;
        if self.bound()?.as_deref() != Some("TO") {
            return Err(malformed());
        }
        let to = self.bound()?.ok_or_else(malformed)?;
        if !self.skip_space() {
            return Err(QueryError::new(start, "this range is not closed"));
        }
        let to_closed = self.take(']');
        if !to_closed && !self.take('}') {
            return Err(malformed());
        }
        let open = |bound: String| (bound != "*").then_some(bound);
        Ok(TokenKind::Range {
            from: open(from),
            to: open(to),
            from_closed,
            to_closed,
        })
    }

    fn bound(&mut self) -> Result<Option<String>, QueryError> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted_text().map(Some);
        }
        let mut text = String::new();
        while let Some(one) = self.peek() {
            if one.is_whitespace() || matches!(one, ']' | '}' | '[' | '{') {
                break;
            }
            text.extend(self.character()?.map(|(one, _)| one));
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

/// Makes a text of what was read, unless it is grammar that is not supported.
fn text(start: usize, read: &[Read]) -> Result<TokenKind, QueryError> {
    let is = |place: Option<usize>, wanted: char| {
        place.and_then(|place| read.get(place)) == Some(&(wanted, false))
    };
    let last = read.len().checked_sub(1);
    if read.len() > 2 && is(Some(0), '/') && is(last, '/') {
        return Err(QueryError::new(
            start,
            "regular expressions are not supported; put text between slashes in quotes",
        ));
    }
    let digits = read
        .iter()
        .rev()
        .take_while(|(one, _)| one.is_ascii_digit() || *one == '.')
        .count();
    let sign = read
        .len()
        .checked_sub(digits + 1)
        .filter(|place| *place > 0);
    if digits > 0 && is(sign, '^') {
        let message = "weights (^) are not supported: hits are in the order of time";
        return Err(QueryError::new(start + sign.unwrap_or_default(), message));
    }
    if is(sign, '~') {
        let message = "words like another (~) are not supported";
        return Err(QueryError::new(start + sign.unwrap_or_default(), message));
    }
    let prefix = is(last, '*');
    let kept = if prefix {
        &read[..read.len() - 1]
    } else {
        read
    };
    if kept.contains(&('*', false)) {
        return Err(QueryError::new(
            start,
            "a * can only stand at the end of a word; write \\* for the character itself",
        ));
    }
    Ok(TokenKind::Text {
        text: kept.iter().map(|(one, _)| one).collect(),
        quoted: false,
        prefix,
    })
}
