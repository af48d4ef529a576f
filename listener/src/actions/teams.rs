//! Microsoft Teams actions: messages by workflows that post the Adaptive Card that they receive.
//!
//! A text is Markdown, in which values are shown as they are.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{TeamsConfig, TeamsContent};
use reqwest::Method;
use serde_json::{Value, json};

use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::log::summary;
use super::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::egress::http_client::{HttpEndpoint, json_headers};
use crate::egress::redaction::Secrets;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::{Format, plain_markdown};
use crate::templating::template::Template;

/// Most bytes of a message, as Teams has it.
const MAX_MESSAGE: usize = 28 * 1024;

/// Compiled message.
pub(super) struct Teams {
    endpoint: HttpEndpoint,
    content: Content,
}

enum Content {
    Summary,
    Text(Template),
    Card(Template),
}

impl Teams {
    fn compile(config: &TeamsConfig) -> Result<Self, CompileError> {
        let content = match &config.content {
            TeamsContent::Summary => Content::Summary,
            TeamsContent::Text(source) => {
                let place = "teams.text".to_owned();
                Content::Text(Template::compile(place, source, Format::Markdown)?)
            }
            TeamsContent::Card(source) => {
                let place = "teams.card".to_owned();
                Content::Card(Template::compile(place, source, Format::Json)?)
            }
        };
        Ok(Self {
            endpoint: HttpEndpoint::compile("teams.url", &config.url, std::iter::empty())?,
            content,
        })
    }

    /// Renders the message.
    fn message(&self, delivery: &Delivery) -> Result<Vec<u8>, Failure> {
        let subject = RenderInput::new(delivery);
        let card = match &self.content {
            Content::Summary => text_card(&plain_markdown(&summary(delivery))),
            Content::Text(template) => text_card(&template.render(&subject)?),
            Content::Card(template) => {
                let card: Value =
                    serde_json::from_str(&template.render(&subject)?).unwrap_or_default();
                if card["type"] != "AdaptiveCard" {
                    return Err(refusal(
                        "the template teams.card did not come out as an Adaptive Card: write it as \
                         {\"type\": \"AdaptiveCard\", \"version\": \"1.4\", \"body\": [...]}",
                    ));
                }
                card
            }
        };
        let message = json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "contentUrl": null,
                "content": card,
            }],
        });
        let body = message.to_string().into_bytes();
        if body.len() > MAX_MESSAGE {
            return Err(refusal(&format!(
                "the message is {} bytes, more than Teams takes ({MAX_MESSAGE}): let it say less",
                body.len()
            )));
        }
        Ok(body)
    }
}

impl ActionDefinition for TeamsConfig {
    fn name(&self) -> &'static str {
        "teams"
    }

    fn address_field(&self) -> &'static str {
        "teams.url"
    }

    fn compile(&self, _: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Teams::compile(self)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        let sources = TemplateSources::default();
        let sources = match &self.content {
            TeamsContent::Summary => sources,
            TeamsContent::Text(source) => sources.text("teams.text", source),
            TeamsContent::Card(source) => {
                sources.add("teams.card", source, TemplateOutput::AdaptiveCard)
            }
        };
        sources.into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        secrets.url(&self.url);
    }
}

impl DeliverAction for Teams {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some(self.endpoint.names())
    }

    fn preview(&self, delivery: &Delivery, _: DateTime<Utc>) -> Result<Preview, Failure> {
        let message = String::from_utf8_lossy(&self.message(delivery)?).into_owned();
        Ok(vec![(format!("POST {}", self.endpoint.host), message)])
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let post = (
            Method::POST,
            json_headers(),
            self.message(request.delivery)?,
        );
        Ok(self.endpoint.transmit(request, post))
    }
}

fn text_card(text: &str) -> Value {
    json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "TextBlock", "text": text, "wrap": true}],
    })
}

fn refusal(message: &str) -> Failure {
    Failure::of(FailureKind::Template, message)
}

#[cfg(test)]
mod tests;
