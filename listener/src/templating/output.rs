//! Output of values: escaped by the format, and in JSON by whether they stand in a string.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crds::config::is_json;
use minijinja::value::{Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, HtmlEscape, Output, State};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use super::context::TemplateContext;
use super::exact_number::ExactNumbers;

/// Deepest nesting that is printed; images are looked into no deeper than that either.
pub(crate) const MAX_DEPTH: usize = 128;

/// Bytes printed for one unit of fuel, as the template engine itself counts them.
const BYTES_PER_FUEL: u64 = 64;

/// Format of a template's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// JSON.
    Json,
    /// HTML or XML.
    Html,
    /// Slack's mrkdwn.
    Mrkdwn,
    /// JSON with mrkdwn in its strings.
    MrkdwnJson,
    /// Markdown, as Teams shows it.
    Markdown,
    /// A parameter of a statement: as text, and a null as [`NULL`].
    Parameter,
    /// Path or query of a URL, with values percent-encoded.
    Url,
    /// Anything else.
    Text,
}

/// What a null is printed as in a parameter; no text that Postgres holds has it.
pub(crate) const NULL: &str = "\0";

impl Format {
    /// Returns whether the output is JSON.
    pub(crate) const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::MrkdwnJson)
    }

    const fn is_mrkdwn(self) -> bool {
        matches!(self, Self::Mrkdwn | Self::MrkdwnJson)
    }

    /// Returns the format of a content type.
    pub(crate) fn of_content_type(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        if is_json(content_type) {
            Self::Json
        } else if essence == "text/html" || essence.ends_with("/xml") || essence.ends_with("+xml") {
            Self::Html
        } else {
            Self::Text
        }
    }
}

/// State of the output: whether it ends within a JSON string. The template's own text changes it as
/// values do.
#[derive(Debug, Default)]
pub(crate) struct FormatState {
    in_string: AtomicBool,
    escaped: AtomicBool,
    moved: AtomicBool,
}

impl FormatState {
    /// Records further output.
    pub(crate) fn advance(&self, bytes: &[u8]) {
        self.moved.store(true, Ordering::Relaxed);
        let mut in_string = self.in_string.load(Ordering::Relaxed);
        let mut escaped = self.escaped.load(Ordering::Relaxed);
        for &byte in bytes {
            if escaped {
                escaped = false;
            } else if byte == b'"' {
                in_string = !in_string;
            } else if byte == b'\\' {
                escaped = in_string;
            }
        }
        self.in_string.store(in_string, Ordering::Relaxed);
        self.escaped.store(escaped, Ordering::Relaxed);
    }

    /// Returns the position of what is written to `out` next.
    fn position(&self, format: Format, out: &mut Output) -> Result<OutputPosition, Error> {
        // The engine does not tell whether it captures a block, but writing nothing shows whether output
        // arrives here.
        self.moved.store(false, Ordering::Relaxed);
        out.write_str("")?;
        if format.is_json() && self.escaped.load(Ordering::Relaxed) {
            // It would take the backslash that the value's own first quote is escaped by.
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "a value cannot stand right after a backslash",
            ));
        }
        Ok(if !self.moved.load(Ordering::Relaxed) {
            OutputPosition::Captured
        } else if self.in_string.load(Ordering::Relaxed) {
            OutputPosition::InString
        } else {
            OutputPosition::Bare
        })
    }
}

/// Position in the output; strings matter to JSON only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputPosition {
    /// Outside of strings.
    Bare,
    /// Within a string.
    InString,
    /// In a captured block (`{% set %}`).
    Captured,
}

/// Value that is JSON text: of the filter `tojson`, or nested too deeply to be parsed.
#[derive(Debug)]
pub(crate) struct Json(pub(crate) String);

impl Object for Json {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The filter `tojson`: a value's JSON, to be printed as it is.
pub(crate) fn tojson(state: &State, value: &Value) -> Result<Value, Error> {
    json(state, value).map(|text| Value::from_object(Json(text)))
}

/// Prints `value` where the template has `{{ }}`.
pub(crate) fn format_value(
    format: Format,
    out: &mut Output,
    state: &mut State,
    value: &Value,
) -> Result<(), Error> {
    let place = match scope(state) {
        Some(scope) if !matches!(format, Format::Text | Format::Parameter) => {
            scope.format_state().position(format, out)?
        }
        _ => OutputPosition::Bare,
    };
    if format == Format::Parameter && value.is_none() {
        return Ok(out.write_str(NULL)?);
    }
    if format == Format::Url && value.is_none() {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a null cannot be part of a URL; give what may be null a default",
        ));
    }
    let text = match value.as_str() {
        Some(text) if !format.is_json() || place != OutputPosition::Bare => Cow::Borrowed(text),
        _ => Cow::Owned(json(state, value)?),
    };
    if format == Format::Url && place != OutputPosition::Captured {
        return Ok(write!(out, "{}", percent_encoded(&text))?);
    }
    // Within JSON these letters stand in strings alone, and need no escape there.
    let text = if format.is_mrkdwn() && place != OutputPosition::Captured {
        Cow::Owned(entities(&text))
    } else if format == Format::Markdown && place != OutputPosition::Captured {
        Cow::Owned(plain_markdown(&text))
    } else {
        text
    };
    match (format, place) {
        (Format::Json | Format::MrkdwnJson, OutputPosition::InString) => {
            Ok(out.write_str(within_quotes(&quoted(&text)?))?)
        }
        (Format::Html, OutputPosition::Bare | OutputPosition::InString) => {
            Ok(write!(out, "{}", HtmlEscape(&text))?)
        }
        _ => Ok(out.write_str(&text)?),
    }
}

/// A text as one part of a path or a query: all but letters, digits, `-`, `_`, `~` and `.` is
/// percent-encoded, as RFC 3986 has its unreserved characters.
fn percent_encoded(text: &str) -> PercentEncode<'_> {
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'~')
        .remove(b'.');
    utf8_percent_encode(text, ENCODED)
}

/// The three letters that mean something to Slack, as it asks for them.
pub(crate) fn entities(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The text as Markdown that shows it as it is, so that no value makes a link.
pub(crate) fn plain_markdown(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if "\\`*_[]<>".contains(letter) {
            plain.push('\\');
        }
        plain.push(letter);
    }
    plain
}

fn scope(state: &State) -> Option<Arc<TemplateContext>> {
    state.lookup(TemplateContext::KEY)?.downcast_object()
}

/// A number as it was written, or any other value as JSON.
pub(crate) fn number(state: &State, value: &Value) -> Result<String, Error> {
    json(state, value)
}

/// The value as a JSON document.
fn json(state: &State, value: &Value) -> Result<String, Error> {
    let scope = scope(state);
    let numbers = scope.as_ref().map(|scope| scope.subject().numbers());
    let mut writer = JsonWriter {
        out: String::new(),
        state,
        numbers,
    };
    writer.write(value, MAX_DEPTH)?;
    Ok(writer.out)
}

struct JsonWriter<'a> {
    out: String,
    state: &'a State<'a, 'a>,
    numbers: Option<&'a ExactNumbers>,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.push("null"),
            ValueKind::Bool => self.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.push(&quoted(value.as_str().unwrap_or_default())?),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, inner(depth)?),
            ValueKind::Map => self.map(value, inner(depth)?),
            ValueKind::Plain => match value.downcast_object_ref::<Json>() {
                Some(Json(text)) => self.push(text),
                None => self.push(&quoted(&value.to_string())?),
            },
            ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
            // It says itself why.
            ValueKind::Invalid => Err(Error::new(ErrorKind::BadSerialization, value.to_string())),
            kind => Err(Error::new(
                ErrorKind::BadSerialization,
                format!("a {kind} has no JSON form"),
            )),
        }
    }

    /// Adds text and pays for it, so that no list of shared values grows without bound.
    fn push(&mut self, text: &str) -> Result<(), Error> {
        self.out.push_str(text);
        let bytes = u64::try_from(text.len()).unwrap_or(u64::MAX);
        self.state.consume_fuel(1 + bytes / BYTES_PER_FUEL)
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            return self.push(&value.to_string());
        }
        let float = f64::try_from(value.clone())?;
        let text = match self.numbers {
            Some(numbers) => numbers.text(float),
            None => ExactNumbers::default().text(float),
        };
        let text = text.ok_or_else(|| {
            Error::new(
                ErrorKind::BadSerialization,
                "the result is not a finite number",
            )
        })?;
        self.push(&text)
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.push("[")?;
        for (index, item) in value.try_iter()?.enumerate() {
            if index > 0 {
                self.push(",")?;
            }
            self.write(&item, depth)?;
        }
        self.push("]")
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.push("{")?;
        for (index, key) in value.try_iter()?.enumerate() {
            if index > 0 {
                self.push(",")?;
            }
            match key.as_str() {
                Some(name) => self.push(&quoted(name)?)?,
                None => self.push(&quoted(&key.to_string())?)?,
            }
            self.push(":")?;
            self.write(&value.get_item(&key)?, depth)?;
        }
        self.push("}")
    }
}

fn inner(depth: usize) -> Result<usize, Error> {
    depth.checked_sub(1).ok_or_else(|| {
        Error::new(
            ErrorKind::BadSerialization,
            "the value is nested too deeply",
        )
    })
}

/// The text as a JSON string, quotes included.
fn quoted(text: &str) -> Result<String, Error> {
    serde_json::to_string(text).map_err(|error| {
        Error::new(ErrorKind::BadSerialization, "text cannot be quoted").with_source(error)
    })
}

fn within_quotes(literal: &str) -> &str {
    literal
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(literal)
}
