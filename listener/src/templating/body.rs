//! Body: the output of a template, or the event in a format.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::MessageFormat;

use super::MAX_BODY;
use super::compile_error::CompileError;
use super::context::RenderInput;
use super::output::Format;
use super::template::Template;
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::formats::{HeaderProtocol, Headers, MessageWriter};

/// Compiled body, message or value.
pub(crate) struct Body {
    /// Field of its template, as in `webhook.body`.
    place: &'static str,
    template: Option<Template>,
    /// Used where there is no template.
    writer: MessageWriter,
}

impl Body {
    pub(crate) fn compile(
        place: &'static str,
        source: Option<&str>,
        content_type: &str,
    ) -> Result<Self, CompileError> {
        let format = Format::of_content_type(content_type);
        Ok(Self {
            place,
            template: Template::optional(place, source, format)?,
            writer: MessageWriter::new(MessageFormat::Event, ""),
        })
    }

    /// Returns it with the format of events that no template writes, and the identity of their listener.
    pub(crate) fn with_format(self, format: MessageFormat, listener: &str) -> Self {
        Self {
            writer: MessageWriter::new(format, listener),
            ..self
        }
    }

    /// Renders the body of an attempt that is made `now`; at most [`MAX_BODY`] bytes.
    pub(crate) fn render(
        &self,
        subject: &Arc<RenderInput>,
        now: DateTime<Utc>,
    ) -> Result<Vec<u8>, Failure> {
        match &self.template {
            Some(template) => template.render(subject).map(String::into_bytes),
            None => self.written(subject.delivery(), now),
        }
    }

    /// Returns the headers that its format adds to a message.
    pub(crate) fn headers(&self, delivery: &Delivery, protocol: HeaderProtocol) -> Headers {
        match &self.template {
            Some(_) => Headers::new(),
            None => self.writer.headers(delivery, protocol),
        }
    }

    fn written(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Vec<u8>, Failure> {
        let body = self.writer.body(delivery, now).map_err(|error| {
            let message = format!("the event cannot be written as JSON: {error}");
            Failure::of(FailureKind::Event, message)
        })?;
        if body.len() > MAX_BODY {
            let instead = if self.writer.is_event() {
                ""
            } else {
                ", in place of its format"
            };
            let message = format!(
                "the event is {} bytes as JSON, more than may be sent ({MAX_BODY}): give the action a template \
                 {} that picks what it needs{instead}",
                body.len(),
                self.place
            );
            return Err(Failure::of(FailureKind::Event, message));
        }
        Ok(body)
    }
}
