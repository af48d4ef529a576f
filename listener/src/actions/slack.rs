//! Slack actions: messages by incoming webhooks.
//!
//! What a value holds is escaped as Slack asks for (`&`, `<` and `>`), so that it can neither
//! mention anybody nor make a link.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::SlackConfig;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::log::summary;
use super::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::egress::http_client::{HttpEndpoint, json_headers};
use crate::egress::redaction::Secrets;
use crate::egress::response::{DeliveryError, append_remedy, is_permanent};
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::{Format, entities};
use crate::templating::template::Template;

/// Longest text, in characters; Slack cuts off what is beyond.
const MAX_TEXT: usize = 40_000;

/// Permanent errors of Slack, and remedies. See
/// <https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>.
const REMEDIES: [(&str, &str); 9] = [
    (
        "invalid_blocks",
        "correct slack.blocks, for instance in Slack's Block Kit Builder",
    ),
    (
        "invalid_payload",
        "correct slack.blocks: they make no message",
    ),
    ("no_text", "give slack.text something to say"),
    (
        "no_service",
        "the webhook was removed or disabled: make a new one, and put its URL into the Secret",
    ),
    (
        "no_active_hooks",
        "the webhook was disabled: make a new one, and put its URL into the Secret",
    ),
    (
        "invalid_token",
        "the URL is wrong or was revoked: copy it from Slack into the Secret once more",
    ),
    (
        "channel_not_found",
        "the channel is gone: make a webhook for another one",
    ),
    (
        "channel_is_archived",
        "bring the channel back, or make a webhook for another one",
    ),
    (
        "action_prohibited",
        "an administrator of the workspace has forbidden such messages",
    ),
];

/// Compiled message.
pub(super) struct Slack {
    endpoint: HttpEndpoint,
    text: Option<Template>,
    blocks: Option<Template>,
}

impl Slack {
    fn compile(config: &SlackConfig) -> Result<Self, CompileError> {
        Ok(Self {
            endpoint: HttpEndpoint::compile("slack.url", &config.url, std::iter::empty())?,
            text: Template::optional("slack.text", config.text.as_deref(), Format::Mrkdwn)?,
            blocks: Template::optional(
                "slack.blocks",
                config.blocks.as_deref(),
                Format::MrkdwnJson,
            )?,
        })
    }

    /// Renders the message.
    fn message(&self, delivery: &Delivery) -> Result<Value, Failure> {
        let subject = RenderInput::new(delivery);
        let text = match &self.text {
            Some(text) => text.render(&subject)?,
            None => entities(&summary(delivery)),
        };
        let mut message = json!({"text": text.chars().take(MAX_TEXT).collect::<String>()});
        if let Some(blocks) = &self.blocks {
            let blocks: Value = serde_json::from_str(&blocks.render(&subject)?)
                .map_err(|error| no_blocks(&error.to_string()))?;
            if !blocks.is_array() {
                return Err(no_blocks("it is no array"));
            }
            message["blocks"] = blocks;
        }
        Ok(message)
    }
}

impl ActionDefinition for SlackConfig {
    fn name(&self) -> &'static str {
        "slack"
    }

    fn address_field(&self) -> &'static str {
        "slack.url"
    }

    fn compile(&self, _: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Slack::compile(self)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        TemplateSources::default()
            .text("slack.text", &self.text)
            .add("slack.blocks", &self.blocks, TemplateOutput::SlackBlocks)
            .into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        secrets.url(&self.url);
    }
}

impl DeliverAction for Slack {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some(self.endpoint.names())
    }

    fn preview(&self, delivery: &Delivery, _: DateTime<Utc>) -> Result<Preview, Failure> {
        let message = self.message(delivery)?.to_string();
        Ok(vec![(format!("POST {}", self.endpoint.host), message)])
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let body = self.message(request.delivery)?.to_string().into_bytes();
        let post = (Method::POST, json_headers(), body);
        Ok(self.endpoint.transmit(request, post))
    }

    /// Appends the remedy of a permanent error that Slack has a name for.
    fn explain(&self, mut error: DeliveryError, _: Instant) -> DeliveryError {
        if let DeliveryError::Status {
            status, excerpt, ..
        } = &mut error
            && is_permanent(*status)
        {
            let said = std::mem::take(excerpt);
            let known = |name: &str| said.contains(name);
            *excerpt = append_remedy(said.clone(), &REMEDIES, known);
        }
        error
    }
}

fn no_blocks(why: &str) -> Failure {
    let message = format!(
        "the template slack.blocks did not come out as a JSON array of blocks ({why}): write \
         it as [{{\"type\": \"section\", ...}}]"
    );
    Failure::of(FailureKind::Template, message)
}

#[cfg(test)]
mod tests;
