//! Body: the output of a template, or the whole event as JSON.

use std::sync::Arc;

use super::MAX_BODY;
use super::compile_error::CompileError;
use super::context::RenderInput;
use super::output::Format;
use super::template::Template;
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};

/// Compiled body, message or value.
pub(crate) struct Body {
    /// Field of its template, as in `webhook.body`.
    place: &'static str,
    template: Option<Template>,
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
        })
    }

    /// Renders the body; at most [`MAX_BODY`] bytes.
    pub(crate) fn render(&self, subject: &Arc<RenderInput>) -> Result<Vec<u8>, Failure> {
        match &self.template {
            Some(template) => template.render(subject).map(String::into_bytes),
            None => self.envelope(subject.delivery()),
        }
    }

    fn envelope(&self, delivery: &Delivery) -> Result<Vec<u8>, Failure> {
        let envelope = delivery.event.envelope(
            &delivery.observer,
            &delivery.action,
            delivery.replay.is_some(),
        );
        let body = serde_json::to_vec(&envelope).map_err(|error| {
            let message = format!("the event cannot be written as JSON: {error}");
            Failure::of(FailureKind::Event, message)
        })?;
        if body.len() > MAX_BODY {
            let message = format!(
                "the event is {} bytes as JSON, more than may be sent ({MAX_BODY}): give the action a template \
                 {} that picks what it needs",
                body.len(),
                self.place
            );
            return Err(Failure::of(FailureKind::Event, message));
        }
        Ok(body)
    }
}
