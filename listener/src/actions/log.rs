//! Log actions: one line in the listener's own log.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{LogConfig, LogLevel};

use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::template_source::{TemplateSource, TemplateSources};
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::egress::redaction::Secrets;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Longest message, in bytes; what is beyond is cut.
const MAX_MESSAGE: usize = 8 * 1024;

/// Compiled log action.
pub(super) struct LogLine {
    level: LogLevel,
    message: Option<Template>,
}

impl LogLine {
    fn compile(config: &LogConfig) -> Result<Self, CompileError> {
        let message = config.message.as_deref();
        Ok(Self {
            level: config.level,
            message: Template::optional("log.message", message, Format::Text)?,
        })
    }

    fn line(&self, delivery: &Delivery) -> Result<String, Failure> {
        match &self.message {
            None => Ok(summary(delivery)),
            Some(template) => Ok(one_line(&template.render(&RenderInput::new(delivery))?)),
        }
    }
}

impl ActionDefinition for LogConfig {
    fn name(&self) -> &'static str {
        "log"
    }

    fn address_field(&self) -> &'static str {
        "log"
    }

    fn compile(&self, _: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(LogLine::compile(self)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        TemplateSources::default()
            .text("log.message", &self.message)
            .into_vec()
    }

    fn secrets(&self, _: &mut Secrets) {}
}

impl DeliverAction for LogLine {
    fn endpoint(&self) -> Option<(&str, &str)> {
        None
    }

    fn preview(&self, delivery: &Delivery, _: DateTime<Utc>) -> Result<Preview, Failure> {
        Ok(vec![(format!("{:?}", self.level), self.line(delivery)?)])
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let line = self.line(request.delivery)?;
        write(self.level, request.delivery, &line);
        Ok(Transmission::Done)
    }
}

/// Returns a summary of the event in one line.
pub(super) fn summary(delivery: &Delivery) -> String {
    let event = &delivery.event;
    let operation = event.operation.as_str();
    let line = match &event.key {
        Some(key) => format!("{operation} of {} in {}", key, event.entity),
        None => format!("{operation} of {}", event.entity),
    };
    one_line(&line)
}

/// Returns the text on one line, so that no value can forge another line of the log.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io;
    use std::sync::{Arc, Mutex};

    use crds::config::ActionKind;
    use futures::FutureExt as _;

    use super::super::Action;
    use super::super::fixture::{action, delivery, now, runtime};
    use super::*;
    use crate::delivery::failure::FailureKind;
    use crate::delivery::outcome::Outcome;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The outcome, and the line that was written, as JSON.
    fn logged(message: Option<&str>, level: LogLevel) -> (Outcome, serde_json::Value) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .finish();
        let log = ActionKind::Log(LogConfig {
            message: message.map(str::to_owned),
            level,
        });
        let log = Action::compile(&action(log), &runtime()).unwrap();
        let delivery = delivery(None, Some(r#"{"note": "a\nFORGED line", "total": 10.00}"#));
        let outcome = tracing::subscriber::with_default(subscriber, || {
            log.attempt(&delivery, now()).now_or_never().unwrap()
        });
        let bytes = lines.0.lock().unwrap().clone();
        (outcome, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    #[test]
    fn a_line_says_what_happened_to_what() {
        let (outcome, line) = logged(None, LogLevel::Warn);
        assert_eq!(outcome, Outcome::Delivered);
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["target"], "observer::action");
        for (field, expected) in [
            ("message", "Update of 7 in public.orders"),
            ("observer", "default/big-orders"),
            ("action", "notify"),
            ("event", "a1b2-42"),
            ("entity", "public.orders"),
            ("operation", "Update"),
            ("key", "7"),
        ] {
            assert_eq!(line["fields"][field], expected, "{field}");
        }
    }

    #[test]
    fn a_message_stays_one_line_of_bounded_length() {
        let (_, line) = logged(Some("{{ new.note }}: {{ new.total }}"), LogLevel::Debug);
        assert_eq!(line["level"], "DEBUG");
        assert_eq!(line["fields"]["message"], "a FORGED line: 10.00");
        let (_, line) = logged(Some("{{ 'é' * 100000 }}"), LogLevel::Info);
        assert_eq!(
            line["fields"]["message"].as_str().unwrap().len(),
            MAX_MESSAGE
        );
    }

    #[test]
    fn failed_template_is_rejected_and_writes_nothing() {
        let (outcome, line) = logged(Some("{{ new.nothing }}"), LogLevel::Info);
        assert!(
            matches!(&outcome, Outcome::Rejected(Failure { kind: FailureKind::Template, message, .. })
                if message.contains("log.message")),
            "{outcome:?}"
        );
        assert!(line.is_null());
    }
}
