//! Log actions: one line in the listener's own log.

use crds::config::{LogConfig, LogLevel};

use super::escape::Format;
use super::scope::Subject;
use super::template::Template;
use super::{CompileError, Delivery, Outcome};

/// Longest message, in bytes; what is beyond is cut.
const MAX_MESSAGE: usize = 8 * 1024;

/// A compiled log action.
pub(super) struct Log {
    level: LogLevel,
    message: Option<Template>,
}

impl Log {
    pub(super) fn compile(config: &LogConfig) -> Result<Self, CompileError> {
        let message = match &config.message {
            None => None,
            Some(source) => {
                let place = "log.message".to_owned();
                Some(Template::compile(place, source, Format::Text)?)
            }
        };
        Ok(Self {
            level: config.level,
            message,
        })
    }

    pub(super) fn attempt(&self, delivery: &Delivery) -> Outcome {
        let message = match &self.message {
            None => summary(delivery),
            Some(template) => match template.render(&Subject::new(delivery)) {
                Ok(text) => one_line(&text),
                Err(failure) => return Outcome::Refused(failure),
            },
        };
        write(self.level, delivery, &message);
        Outcome::Done
    }
}

fn summary(delivery: &Delivery) -> String {
    let event = &delivery.event;
    let operation = event.operation.as_str();
    let line = match &event.key {
        Some(key) => format!("{operation} of {} in {}", key, event.entity),
        None => format!("{operation} of {}", event.entity),
    };
    one_line(&line)
}

/// The text on one line, so that no value can forge another line of the log.
fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_MESSAGE);
    text[..end]
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

fn write(level: LogLevel, delivery: &Delivery, message: &str) {
    // The level of a line is fixed where it is written, so there is one place for each.
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: "observer::action",
                tracing::Level::$level,
                observer = &*delivery.observer,
                action = &*delivery.action,
                event = delivery.event.id,
                entity = &*delivery.event.entity,
                operation = delivery.event.operation.as_str(),
                key = delivery.event.key,
                "{message}"
            )
        };
    }
    match level {
        LogLevel::Warn => line!(WARN),
        LogLevel::Info => line!(INFO),
        LogLevel::Debug => line!(DEBUG),
    }
}
