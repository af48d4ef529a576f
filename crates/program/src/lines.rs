//! Lines of the log for who sends them on, besides standard error.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Most bytes of a text in a line.
const MAX_TEXT: usize = 4096;

/// A line of the log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When it was written.
    pub at: SystemTime,
    /// How grave it is.
    pub level: Level,
    /// The part of the program that wrote it.
    pub target: Cow<'static, str>,
    /// The message.
    pub message: String,
    /// The other fields.
    pub fields: Vec<(&'static str, FieldValue)>,
}

/// Value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A text.
    Text(String),
    /// An integer.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Yes or no.
    Bool(bool),
}

/// Takes the lines of the log. Who logs waits for it.
pub trait LineReader: Send + Sync {
    /// Takes a line.
    fn take(&self, line: LogLine);
}

static READER: RwLock<Option<Arc<dyn LineReader>>> = RwLock::new(None);

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Gives all lines from now on to a reader, or to nobody.
pub fn set_reader(reader: Option<Arc<dyn LineReader>>) {
    let mut current = READER.write().unwrap_or_else(PoisonError::into_inner);
    let last = std::mem::replace(&mut *current, reader);
    drop(current);
    // It may log at its end.
    drop(last);
}

/// Keeps the lines of this thread from the reader: for a thread that sends lines on.
pub fn silence_thread() {
    IS_QUIET.set(true);
}

/// Layer that gives lines to the reader.
pub(crate) struct ReaderLayer;

impl<S: Subscriber> Layer<S> for ReaderLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // A thread that ends has no such flag any more.
        if IS_QUIET.try_with(Cell::get).unwrap_or(true) {
            return;
        }
        let reader = READER
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(reader) = reader else {
            return;
        };
        let mut line = LogLine {
            at: SystemTime::now(),
            level: *event.metadata().level(),
            target: Cow::Borrowed(event.metadata().target()),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        reader.take(line);
    }
}

impl LogLine {
    fn add(&mut self, field: &Field, value: FieldValue) {
        match (field.name(), value) {
            ("message", FieldValue::Text(text)) => self.message = text,
            // Lines of libraries that log by the crate `log` have their target and their place in fields.
            ("log.target", FieldValue::Text(text)) => self.target = Cow::Owned(text),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for LogLine {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // A value that cannot be formatted is as far as it could be.
        let _formatted = write!(text, "{value:?}");
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        self.add(field, FieldValue::Text(text));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = &value[..value.floor_char_boundary(MAX_TEXT)];
        self.add(field, FieldValue::Text(text.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, FieldValue::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let text = || FieldValue::Text(value.to_string());
        let number = i64::try_from(value).map_or_else(|_| text(), FieldValue::Int);
        self.add(field, number);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, FieldValue::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, FieldValue::Bool(value));
    }
}
