//! The text of an expression, looked over before the parser sees it.
//!
//! Two things are done here that the parser cannot do. The bounds on length, tokens and nesting
//! hold before its recursion starts, and common slips (`=`, `and`) are named in plain words.
//! And it reads numbers into 64 bits, so it is given a text in which each number is replaced by
//! a short one of the same width; the digits are then taken from here by their place.

use std::collections::BTreeMap;

use crate::condition::{ConditionError, Place};

/// Most bytes of an expression.
pub(crate) const MAX_BYTES: usize = 8 * 1024;
/// Most names, values, operators and brackets of an expression.
const MAX_TOKENS: usize = 1500;
/// Most brackets open at one place. The parser's effort grows steeply with it.
const MAX_OPEN_BRACKETS: usize = 24;

/// What people write who know another language, and what it is called here.
const FOREIGN_WORDS: [(&str, &str); 4] = [("and", "&&"), ("or", "||"), ("not", "!"), ("is", "==")];

/// An expression within bounds.
pub(crate) struct Source<'s> {
    text: &'s str,
    masked: Vec<u8>,
    /// Where numbers begin, and their text.
    numbers: BTreeMap<usize, &'s str>,
    open: Vec<usize>,
    tokens: usize,
}

/// Splits an expression at its outermost operators where these are all `&&`, or `||` with or without `&&`
/// below them; brackets around the whole are taken off first. One part where there are none.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let text = text.trim();
    let whole = || vec![text];
    let Ok(mut source) = Source::read("true") else {
        return whole();
    };
    source = Source {
        text,
        masked: text.as_bytes().to_vec(),
        ..source
    };
    let (mut at, mut and, mut or) = (0, Vec::new(), Vec::new());
    let mut wrapped = text.starts_with('(');
    while at < text.len() {
        let depth = source.open.len();
        let Ok(next) = source.token(at) else {
            return whole();
        };
        match text.as_bytes().get(at..next) {
            Some(b"&&") if depth == 0 => and.push(at),
            Some(b"||") if depth == 0 => or.push(at),
            Some(b"?") if depth == 0 => return whole(),
            _ => {}
        }
        wrapped &= !source.open.is_empty() || next >= text.len();
        at = next;
    }
    if wrapped && text.len() > 2 {
        return split(&text[1..text.len() - 1]);
    }
    let cuts = if or.is_empty() { and } else { or };
    let mut parts = Vec::with_capacity(cuts.len() + 1);
    let mut from = 0;
    for cut in cuts {
        parts.push(text[from..cut].trim());
        from = cut + 2;
    }
    parts.push(text[from..].trim());
    parts
}

impl<'s> Source<'s> {
    /// Looks the text over.
    pub(crate) fn read(text: &'s str) -> Result<Self, ConditionError> {
        if text.len() > MAX_BYTES {
            return Err(ConditionError::TooLong { bytes: text.len() });
        }
        let mut source = Self {
            text,
            masked: text.as_bytes().to_vec(),
            numbers: BTreeMap::new(),
            open: Vec::new(),
            tokens: 0,
        };
        let mut at = 0;
        while at < text.len() {
            at = source.token(at)?;
        }
        match source.open.pop() {
            Some(open) => Err(source.error(open, "this bracket is never closed")),
            None if source.tokens == 0 => Err(ConditionError::Empty),
            None => Ok(source),
        }
    }

    /// The text for the parser: of the same length, with every number within its reach.
    pub(crate) fn masked(&self) -> String {
        String::from_utf8_lossy(&self.masked).into_owned()
    }

    /// The number that begins at a byte, as it was written.
    pub(crate) fn number_at(&self, at: usize) -> Option<&'s str> {
        self.numbers.get(&at).copied()
    }

    /// How many numbers there are.
    pub(crate) fn number_count(&self) -> usize {
        self.numbers.len()
    }

    /// Where a word begins that stands before a byte.
    pub(crate) fn word_before(&self, at: usize, word: &str) -> Option<usize> {
        let before = self.text.get(..at)?.trim_end();
        before.strip_suffix(word).map(str::len)
    }

    /// Line and column of a byte.
    pub(crate) fn place(&self, at: usize) -> Place {
        Place::of(self.text, at)
    }

    fn error(&self, at: usize, message: impl Into<String>) -> ConditionError {
        ConditionError::Syntax {
            place: self.place(at),
            message: message.into(),
        }
    }

    /// Passes over what begins at `at`, and says where the next begins.
    fn token(&mut self, at: usize) -> Result<usize, ConditionError> {
        let rest = &self.text.as_bytes()[at..];
        let Some(&first) = rest.first() else {
            return Ok(at);
        };
        if first.is_ascii_whitespace() || first == 0x0b {
            return Ok(at + 1);
        }
        if rest.starts_with(b"//") {
            let comment = rest.iter().position(|&byte| byte == b'\n');
            return Ok(at + comment.unwrap_or(rest.len()));
        }
        self.tokens += 1;
        if self.tokens > MAX_TOKENS {
            return Err(ConditionError::TooManyTokens { limit: MAX_TOKENS });
        }
        match first {
            b'0'..=b'9' => self.number(at),
            b'.' if rest.get(1).is_some_and(u8::is_ascii_digit) => self.number(at),
            b'"' | b'\'' => self.string(at, at, false),
            b'`' => match rest[1..].iter().position(|&b| matches!(b, b'`' | b'\n')) {
                Some(end) if rest[1 + end] == b'`' => Ok(at + end + 2),
                _ => Err(self.error(at, "this name in backticks is never closed")),
            },
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word(at),
            b'(' | b'[' | b'{' | b')' | b']' | b'}' => self.bracket(at, first),
            _ => self.operator(at, rest),
        }
    }

    fn bracket(&mut self, at: usize, byte: u8) -> Result<usize, ConditionError> {
        let opening = match byte {
            b')' => b'(',
            b']' => b'[',
            b'}' => b'{',
            _ => {
                self.open.push(at);
                if self.open.len() > MAX_OPEN_BRACKETS {
                    return Err(ConditionError::TooDeep {
                        place: self.place(at),
                    });
                }
                return Ok(at + 1);
            }
        };
        match self.open.pop() {
            Some(open) if self.text.as_bytes()[open] == opening => Ok(at + 1),
            _ => Err(self.error(at, "this bracket closes none that is open")),
        }
    }

    fn operator(&self, at: usize, rest: &[u8]) -> Result<usize, ConditionError> {
        match rest {
            [b'=' | b'!' | b'<' | b'>', b'=', ..] | [b'&', b'&', ..] | [b'|', b'|', ..] => {
                Ok(at + 2)
            }
            [b'<', b'>', ..] => Err(self.error(at, "`<>` is written `!=`")),
            [b'=', ..] => Err(self.error(at, "`=` does not compare; write `==`")),
            [b'&', ..] => Err(self.error(at, "`&` is written `&&`")),
            [b'|', ..] => Err(self.error(at, "`|` is written `||`")),
            [
                b'!' | b'<' | b'>' | b'+' | b'-' | b'*' | b'/' | b'%' | b'?' | b':' | b'.' | b',',
                ..,
            ] => Ok(at + 1),
            _ => {
                let character = self.text[at..].chars().next().unwrap_or_default();
                let message = format!("`{}` means nothing here", character.escape_debug());
                Err(self.error(at, message))
            }
        }
    }

    fn word(&self, at: usize) -> Result<usize, ConditionError> {
        let end = self.run(at, |byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let word = &self.text[at..end];
        if matches!(self.text.as_bytes().get(end), Some(b'"' | b'\''))
            && ["r", "b", "br"].contains(&word.to_ascii_lowercase().as_str())
        {
            return self.string(at, end, word.contains(['r', 'R']));
        }
        let after_point = self.text[..at].trim_end().ends_with('.');
        for (foreign, ours) in FOREIGN_WORDS {
            if word.eq_ignore_ascii_case(foreign) && !after_point {
                return Err(self.error(at, format!("`{word}` is written `{ours}`")));
            }
        }
        Ok(end)
    }

    fn string(&self, start: usize, quote_at: usize, raw: bool) -> Result<usize, ConditionError> {
        let bytes = self.text.as_bytes();
        let quote = bytes[quote_at];
        let triple = bytes[quote_at..].starts_with(&[quote; 3]);
        let mut at = quote_at + if triple { 3 } else { 1 };
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'\\' if !raw => at += 1,
                b'\n' | b'\r' if !triple => break,
                _ if byte == quote && !triple => return Ok(at + 1),
                _ if triple && bytes[at..].starts_with(&[quote; 3]) => return Ok(at + 3),
                _ => {}
            }
            at += 1;
        }
        Err(self.error(start, "this text is never closed"))
    }

    fn number(&mut self, at: usize) -> Result<usize, ConditionError> {
        let bytes = self.text.as_bytes();
        let digit = |byte: &u8| byte.is_ascii_digit();
        let mut end = self.run(at, u8::is_ascii_digit);
        if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(digit) {
            end = self.run(end + 1, u8::is_ascii_digit);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let signed = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if bytes.get(end + 1 + signed).is_some_and(digit) {
                end = self.run(end + 1 + signed, u8::is_ascii_digit);
            }
        }
        if bytes
            .get(end)
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        {
            let message = "numbers are written in decimal digits only, such as 12, 0.5 or 1e6";
            return Err(self.error(at, message));
        }
        self.numbers.insert(at, &self.text[at..end]);
        if end - at > 2 {
            self.masked[at..end].fill(b'1');
            self.masked[at..at + 2].copy_from_slice(b"0.");
        }
        Ok(end)
    }

    /// The end of a run of bytes.
    fn run(&self, from: usize, of: impl Fn(&u8) -> bool) -> usize {
        let rest = &self.text.as_bytes()[from..];
        from + rest.iter().position(|byte| !of(byte)).unwrap_or(rest.len())
    }
}
