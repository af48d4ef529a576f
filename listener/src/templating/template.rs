//! Templates of bodies, headers and log lines.
//!
//! A value takes the form of the place it is printed at, whatever the template does: in JSON
//! it is a JSON literal, or, between the quotes of a string, that string's escaped text; in
//! HTML it is escaped; elsewhere it is plain. A captured block is text, and becomes a value like any
//! other. So no value can end a string or add a field, and
//! marking it as safe changes nothing. What comes out as JSON has been checked to be JSON.
//! A template cannot loop or grow without bound.

mod calls;

use std::cell::Cell;
use std::io;
use std::sync::{Arc, LazyLock};

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde::de::IgnoredAny;
use tokio::runtime::Handle;

use super::MAX_BODY;
use super::compile_error::CompileError;
use super::context::{NAMES, RenderInput, TemplateContext};
use super::filters;
use super::output::{self, Format, FormatState};
use crate::delivery::failure::{Failure, FailureKind};

/// Work that one rendering may do: some steps, or 64 bytes produced, for each unit.
const FUEL: u64 = 500_000;

/// Name of the only template in its environment.
const NAME: &str = "template";

/// Globals of every template.
const GLOBALS: [&str; 3] = ["range", "dict", "null"];

/// Largest text of a template, in bytes. The parser works on constants again and again, so the
/// worst text of this size keeps it busy for a second, and one of four times the size for
/// minutes.
const MAX_SOURCE: usize = 16 * 1024;

/// Stack for the parser, which goes one level deeper for each operator of a long chain: enough
/// for [`MAX_SOURCE`] bytes of nothing else. Memory is only taken as far as it is used.
const PARSER_STACK: usize = 128 * 1024 * 1024;

/// What is wrong with a template's text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is too long.
    #[error("the template is longer than {} KiB; shorten it", MAX_SOURCE / 1024)]
    Long,
    /// There is no thread to parse it on.
    #[error("the template cannot be parsed now: {0}")]
    Thread(#[from] io::Error),
    /// It does not parse.
    #[error("line {line}: {detail}")]
    Syntax {
        /// Line within the template, from 1.
        line: usize,
        /// What the parser found.
        detail: String,
        /// The parser's error.
        source: Error,
    },
    /// It refers to an unknown name.
    #[error("line {line}: {name} is not known here; known are {}", NAMES.join(", "))]
    Unknown {
        /// Line within the template, from 1.
        line: usize,
        /// The name.
        name: String,
    },
    /// It uses a filter or a test that does not exist.
    #[error("line {line}: there is no {what} {name}{remedy}")]
    Call {
        /// Line within the template, from 1.
        line: usize,
        /// A filter or a test.
        what: &'static str,
        /// Its name.
        name: String,
        /// What was probably meant, if anything.
        remedy: String,
    },
}

/// Compiled template.
#[derive(Debug)]
pub(crate) struct Template {
    /// Its field, as in `webhook.body`.
    place: String,
    environment: Box<Environment<'static>>,
    format: Format,
}

impl Template {
    /// Compiles `source`, which stands at `place` of an action.
    pub(crate) fn compile(
        place: String,
        source: &str,
        format: Format,
    ) -> Result<Self, CompileError> {
        let fault = |error| CompileError::Template {
            field: place.clone(),
            error,
        };
        let environment = parse(source, format).map_err(fault)?;
        Ok(Self {
            environment: Box::new(environment),
            place,
            format,
        })
    }

    /// Compiles a template that may be left out.
    pub(crate) fn optional(
        place: &str,
        source: Option<&str>,
        format: Format,
    ) -> Result<Option<Self>, CompileError> {
        source
            .map(|source| Self::compile(place.to_owned(), source, format))
            .transpose()
    }

    /// Compiles a list at `place`.
    pub(crate) fn all(
        place: &str,
        sources: &[String],
        format: Format,
    ) -> Result<Vec<Self>, CompileError> {
        let sources = sources.iter().enumerate();
        sources
            .map(|(n, source)| Self::compile(format!("{place}[{n}]"), source, format))
            .collect()
    }

    /// Renders the template for one delivery; at most [`MAX_BODY`] bytes.
    pub(crate) fn render(&self, subject: &Arc<RenderInput>) -> Result<String, Failure> {
        let format_state = Arc::new(FormatState::default());
        let scope = TemplateContext::new(Arc::clone(subject), Arc::clone(&format_state));
        let mut output = BoundedOutput {
            text: Vec::new(),
            format_state,
        };
        let rendered = self
            .environment
            .get_template(NAME)
            .and_then(|template| {
                template.render_captured_to(Value::from_object(scope), &mut output)
            })
            .map(drop);
        if let Err(error) = rendered {
            return Err(self.failure(subject, &error));
        }
        let text = String::from_utf8(output.text)
            .map_err(|_| self.refusal("came out as something that is not text"))?;
        if self.format.is_json() {
            serde_json::from_str::<IgnoredAny>(&text).map_err(|error| {
                self.refusal(&format!(
                    "did not come out as JSON ({error}): check its commas and brackets, and \
                     that text around values stands in quotes"
                ))
            })?;
        }
        Ok(text)
    }

    fn failure(&self, subject: &RenderInput, error: &Error) -> Failure {
        if let Some(message) = subject.fault() {
            return Failure::of(FailureKind::Event, message.to_owned());
        }
        let line = error.line().unwrap_or(1);
        let remedy = match error.kind() {
            ErrorKind::UndefinedError => {
                ": correct the name, or give what may be missing a default, as in \
                 {{ new.note if new.note is defined else null }}"
            }
            ErrorKind::OutOfFuel => ": it does too much work; make its loops shorter",
            ErrorKind::WriteFailure => ": its output is larger than 16 MiB",
            _ => "",
        };
        self.refusal(&format!(
            "failed at line {line}: {}{remedy}",
            describe(error)
        ))
    }

    pub(crate) fn refusal(&self, what: &str) -> Failure {
        Failure::of(
            FailureKind::Template,
            format!("the template {} {what}", self.place),
        )
    }
}

/// Parses a template where no chain of operators, however long, overflows the stack and takes
/// the process with it.
fn parse(source: &str, format: Format) -> Result<Environment<'static>, TemplateError> {
    if source.len() > MAX_SOURCE {
        return Err(TemplateError::Long);
    }
    with_parser_stack(|| {
        let environment = environment(source, format)?;
        check_names(&environment, source)?;
        calls::check(&environment, source)?;
        Ok(environment)
    })?
}

thread_local! {
    /// Whether this thread has the parser's stack.
    static HAS_PARSER_STACK: Cell<bool> = const { Cell::new(false) };
}

/// Calls `run` on a thread with the parser's stack: the current thread if it has one, otherwise a new one. To compile many
/// templates on one thread, wrap all of it in a single call. Fails if the thread cannot be created.
pub(crate) fn with_parser_stack<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<T> {
    if HAS_PARSER_STACK.get() {
        return Ok(run());
    }
    // What it makes may belong to the runtime of this thread.
    let runtime = Handle::try_current().ok();
    std::thread::scope(|scope| {
        let parser = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, || {
                HAS_PARSER_STACK.set(true);
                let _context = runtime.as_ref().map(Handle::enter);
                run()
            })?;
        let done = parser.join();
        Ok(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Creates an environment that holds the template alone. What is the same in all of them is shared.
fn environment(source: &str, format: Format) -> Result<Environment<'static>, TemplateError> {
    static SHARED: LazyLock<Environment<'static>> = LazyLock::new(empty_environment);
    let mut environment = SHARED.clone();
    environment
        .set_formatter(move |out, state, value| output::format_value(format, out, state, value));
    environment
        .add_template_owned(NAME, source.to_owned())
        .map_err(|error| TemplateError::Syntax {
            line: error.line().unwrap_or(1),
            detail: describe(&error),
            source: error,
        })?;
    Ok(environment)
}

/// Creates an environment without a template.
fn empty_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Errors name the expression at fault.
    environment.set_debug(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", output::tojson);
    filters::add(&mut environment);
    environment.remove_global("debug");
    // It lets a loop nest values without end, and freeing those overflows the stack.
    environment.remove_global("namespace");
    // The language says `none`, but authors of JSON write `null`.
    environment.add_global("null", ());
    environment
}

/// Rejects names that no delivery has, so that a typo shows before the first event.
fn check_names(environment: &Environment<'_>, source: &str) -> Result<(), TemplateError> {
    let Ok(template) = environment.get_template(NAME) else {
        return Ok(());
    };
    let unknown = template
        .undeclared_variables(false)
        .into_iter()
        .filter(|name| !NAMES.contains(&name.as_str()) && !GLOBALS.contains(&name.as_str()))
        .min();
    match unknown {
        Some(name) => Err(TemplateError::Unknown {
            line: 1 + source
                .lines()
                .position(|line| line.contains(&name))
                .unwrap_or(0),
            name,
        }),
        None => Ok(()),
    }
}

/// The error's kind and detail, without the place that the caller adds in its own words.
fn describe(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Output of a rendering within its bound, which keeps the format state.
struct BoundedOutput {
    text: Vec<u8>,
    format_state: Arc<FormatState>,
}

impl io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    // Told apart from `write`, which is not called for no bytes at all.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.text.len() + bytes.len() > MAX_BODY {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.text.extend_from_slice(bytes);
        self.format_state.advance(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
