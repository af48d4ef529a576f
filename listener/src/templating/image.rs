//! An image as templates see it: JSON of which each field is read by itself, so that one that cannot be
//! used harms only the templates that use it.
//!
//! The text was found to be JSON when the event was read. It is gone through once, and not by way of
//! `serde_json::Value`, which takes objects with a certain key for numbers, and refuses what is nested
//! deeply: that is kept here as the JSON that it is.

use minijinja::value::Value;
use minijinja::{Error, ErrorKind};

use super::exact_number::ExactNumbers;
use super::output::{Json, MAX_DEPTH};

/// Why a value cannot be used by a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("it has half a character, an escape like \\ud800 without its other half")]
    Surrogate,
    #[error("it holds too many numbers that differ only beyond 16 digits")]
    Numbers,
    #[error("it is not JSON")]
    Syntax,
}

/// Parses an image.
pub(crate) fn read(
    name: &str,
    text: &str,
    numbers: &mut ExactNumbers,
) -> Result<Value, ImageError> {
    let mut reader = ImageReader {
        name,
        text,
        at: 0,
        numbers,
    };
    reader.value(0)
}

struct ImageReader<'a> {
    name: &'a str,
    text: &'a str,
    at: usize,
    numbers: &'a mut ExactNumbers,
}

impl<'a> ImageReader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, ImageError> {
        match self.peek()? {
            // One level is left for the image itself.
            b'{' | b'[' if depth + 1 >= MAX_DEPTH => {
                let start = self.at;
                self.skip()?;
                let json = self.slice(start)?.to_owned();
                Ok(Value::from_object(Json(json)))
            }
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::from),
            _ => {
                let start = self.at;
                self.skip()?;
                match self.slice(start)? {
                    "null" => Ok(Value::from(())),
                    "true" => Ok(Value::from(true)),
                    "false" => Ok(Value::from(false)),
                    number => self.numbers.admit(number).ok_or(ImageError::Numbers),
                }
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, ImageError> {
        let mut items = Vec::new();
        self.at += 1;
        while self.more(b']')? {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::from(items))
    }

    fn object(&mut self, depth: usize) -> Result<Value, ImageError> {
        let mut fields = Vec::new();
        self.at += 1;
        while self.more(b'}')? {
            let key = self.string()?;
            if self.peek()? != b':' {
                return Err(ImageError::Syntax);
            }
            self.at += 1;
            self.peek()?;
            let (start, mut field) = (self.at, self.value(depth + 1));
            if let (0, Err(why)) = (depth, &field) {
                let message = format!(
                    "the field {key} of the event's image `{}` cannot be used by a template: {why}",
                    self.name
                );
                let error = Error::new(ErrorKind::BadSerialization, message);
                field = Ok(Value::from(error));
                self.at = start;
                self.skip()?;
            }
            fields.push((key, field?));
        }
        Ok(Value::from_pairs(fields))
    }

    /// Goes to the next element; false at the end.
    fn more(&mut self, end: u8) -> Result<bool, ImageError> {
        if self.peek()? == b',' {
            self.at += 1;
        }
        if self.peek()? == end {
            self.at += 1;
            return Ok(false);
        }
        Ok(true)
    }

    fn string(&mut self) -> Result<String, ImageError> {
        self.peek()?;
        let start = self.at;
        self.skip_string()?;
        // What else could be wrong with it was found before.
        serde_json::from_str(self.slice(start)?).map_err(|_| ImageError::Surrogate)
    }

    /// Skips a value, however deeply it is nested.
    fn skip(&mut self) -> Result<(), ImageError> {
        let mut open = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    open += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    open = open.checked_sub(1).ok_or(ImageError::Syntax)?;
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                _ => {
                    let rest = &self.text.as_bytes()[self.at..];
                    let ends = |byte: &u8| b",:]}{[\" \t\r\n".contains(byte);
                    self.at += rest.iter().position(ends).unwrap_or(rest.len());
                }
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn skip_string(&mut self) -> Result<(), ImageError> {
        let mut escaped = true;
        for (n, byte) in self.text.as_bytes()[self.at..].iter().enumerate() {
            match byte {
                // The first quote is passed as one that is escaped is.
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => {
                    self.at += n + 1;
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(ImageError::Syntax)
    }

    /// Returns the next byte, past white space.
    fn peek(&mut self) -> Result<u8, ImageError> {
        let rest = &self.text.as_bytes()[self.at..];
        let space = rest.iter().take_while(|byte| byte.is_ascii_whitespace());
        self.at += space.count();
        let next = self.text.as_bytes().get(self.at);
        next.copied().ok_or(ImageError::Syntax)
    }

    fn slice(&self, start: usize) -> Result<&'a str, ImageError> {
        self.text.get(start..self.at).ok_or(ImageError::Syntax)
    }
}
