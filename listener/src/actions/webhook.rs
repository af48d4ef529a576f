//! Webhook actions: one HTTP request for each delivery or batch, signed after Standard Webhooks.
//!
//! The id of a request stays the same on every attempt, replay and takeover.

use std::borrow::Borrow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{HeaderValue as HeaderConfig, Method, Redacted, WebhookConfig};
use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::batcher::{Batcher, send_bisecting};
use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
    transmit,
};
use super::deliver_batch::{DeliverBatch, join_batch};
use super::http::{RequestHeaders, shown};
use super::signature::Signer;
use super::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::admission::control::AdmissionControl;
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::formats::HeaderProtocol;
use crate::delivery::outcome::Outcome;
use crate::egress::http_client::HttpEndpoint;
use crate::egress::redaction::Secrets;
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::text::hex::hex;

/// Compiled webhook.
pub(super) struct Webhook {
    endpoint: HttpEndpoint,
    method: reqwest::Method,
    headers: RequestHeaders,
    content_type: HeaderValue,
    body: Body,
    signer: Signer,
    batcher: Option<Batcher<BatchItem>>,
}

/// Rendered body of one delivery, which a batch joins with others.
pub(super) struct BatchItem {
    input: Arc<RenderInput>,
    body: Vec<u8>,
}

impl Webhook {
    fn compile(config: &WebhookConfig, context: CompileContext<'_>) -> Result<Self, CompileError> {
        let content_type = HeaderValue::from_str(&config.content_type).map_err(|_| {
            CompileError::field(
                "webhook.contentType",
                "is no content type; write it like application/json",
            )
        })?;
        let secrets = config
            .headers
            .iter()
            .filter_map(|(_, value)| match value {
                HeaderConfig::Secret(secret) => Some(secret),
                HeaderConfig::Template(_) => None,
            })
            .chain(&config.signing_secrets)
            .map(Redacted::reveal);
        Ok(Self {
            endpoint: HttpEndpoint::compile("webhook.url", &config.url, secrets)?
                .with_tls("webhook.tls", config.tls.as_ref())?,
            method: match config.method {
                Method::Post => reqwest::Method::POST,
                Method::Put => reqwest::Method::PUT,
                Method::Patch => reqwest::Method::PATCH,
                Method::Delete => reqwest::Method::DELETE,
            },
            headers: RequestHeaders::compile("webhook.headers", &config.headers)?,
            content_type,
            body: Body::compile("webhook.body", config.body.as_deref(), &config.content_type)?
                .with_format(config.format, context.listener),
            signer: Signer::new(&config.signing_secrets)
                .map_err(|error| CompileError::field("webhook.signingSecret", error.to_string()))?,
            batcher: config
                .batch
                .map(|limits| Batcher::new(limits, context.max_concurrency)),
        })
    }

    fn transmit<'a>(
        &'a self,
        items: &[impl Borrow<BatchItem>],
        request: AttemptRequest<'a>,
    ) -> Result<Transmission<'a>, Failure> {
        let (headers, body) = self.request(items, request.now)?;
        let http = (self.method.clone(), headers, body);
        Ok(self.endpoint.transmit(request, http))
    }

    /// Returns the headers and the body of one request. In a batch, headers hold no templates, and those
    /// that name a delivery name the first.
    fn request(
        &self,
        items: &[impl Borrow<BatchItem>],
        now: DateTime<Utc>,
    ) -> Result<(HeaderMap, Vec<u8>), Failure> {
        let Some(first) = items.first().map(Borrow::borrow) else {
            return Ok((HeaderMap::new(), Vec::new()));
        };
        let (input, delivery) = (&first.input, first.input.delivery());
        let mut headers = self.headers.render(input)?;
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        for (name, value) in self.body.headers(delivery, HeaderProtocol::Http) {
            let name = HeaderName::try_from(&name).map_err(|_| no_header(&name))?;
            let value = HeaderValue::try_from(value).map_err(|_| no_header(name.as_str()))?;
            headers.insert(name, value);
        }
        let body = self.joined(items);
        let id = request_id(items);
        let timestamp = now.timestamp();
        let own = [
            ("traceparent", Some(delivery.trace_context(&id).to_string())),
            ("webhook-signature", self.signer.sign(&id, timestamp, &body)),
            ("webhook-timestamp", Some(timestamp.to_string())),
            ("webhook-id", Some(id)),
            (
                "webhook-replay",
                delivery.replay.as_ref().map(|_| "true".to_owned()),
            ),
        ];
        for (name, value) in own {
            let Some(value) = value else { continue };
            let value = HeaderValue::try_from(value).map_err(|_| no_header(name))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok((headers, body))
    }

    /// Returns the body of a request: an array where there may be several.
    fn joined(&self, items: &[impl Borrow<BatchItem>]) -> Vec<u8> {
        let bodies = items.iter().map(|item| &*item.borrow().body);
        let bodies: Vec<&[u8]> = bodies.collect();
        if self.batcher.is_none() {
            bodies.concat()
        } else {
            [b"[", &*bodies.join(&b','), b"]"].concat()
        }
    }
}

impl ActionDefinition for WebhookConfig {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn address_field(&self) -> &'static str {
        "webhook.url"
    }

    fn compile(&self, context: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Webhook::compile(self, context)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        let output = TemplateOutput::of_content_type(&self.content_type);
        let sources = TemplateSources::default().add("webhook.body", &self.body, output);
        let headers = self.headers.iter();
        let sources = headers.fold(sources, |sources, (name, value)| match value {
            HeaderConfig::Template(source) => {
                sources.text(format!("webhook.headers[{name}]"), source)
            }
            HeaderConfig::Secret(_) => sources,
        });
        sources.into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        secrets.url(&self.url);
        for (_, value) in &self.headers {
            if let HeaderConfig::Secret(secret) = value {
                secrets.secret(secret.reveal());
            }
        }
        for secret in &self.signing_secrets {
            secrets.secret(secret.reveal());
        }
    }
}

impl DeliverAction for Webhook {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some(self.endpoint.names())
    }

    fn http_method(&self) -> reqwest::Method {
        self.method.clone()
    }

    fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        let (headers, body) = self.request(&[self.item(delivery, now)?], now)?;
        let mut preview = vec![(self.method.to_string(), self.endpoint.host.clone())];
        preview.extend(shown(&headers));
        preview.push((
            "body".to_owned(),
            String::from_utf8_lossy(&body).into_owned(),
        ));
        Ok(preview)
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let item = self.item(request.delivery, request.now)?;
        self.transmit(&[item], request)
    }

    fn max_batch_size(&self) -> Option<usize> {
        self.batcher.as_ref().map(Batcher::max_batch_size)
    }

    fn join_batch<'a>(
        self: Arc<Self>,
        admission: &'a Arc<AdmissionControl>,
        delivery: &'a Delivery,
        now: DateTime<Utc>,
    ) -> Option<BoxFuture<'a, Outcome>> {
        join_batch(self, admission, delivery, now)
    }
}

impl DeliverBatch for Webhook {
    type Item = BatchItem;

    fn batcher(&self) -> Option<&Batcher<BatchItem>> {
        self.batcher.as_ref()
    }

    /// A replay goes alone, since a header marks it.
    fn may_join(delivery: &Delivery) -> bool {
        delivery.attempt == 1 && delivery.replay.is_none()
    }

    fn item(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<BatchItem, Failure> {
        let input = RenderInput::new(delivery);
        let body = self.body.render(&input, now)?;
        Ok(BatchItem { input, body })
    }

    fn size(item: &BatchItem) -> usize {
        item.body.len()
    }

    /// Sends all in one request, and in smaller ones where that is rejected for what it holds.
    async fn send_batch(
        &self,
        items: Vec<Arc<BatchItem>>,
        admission: &AdmissionControl,
        first: &Delivery,
        now: DateTime<Utc>,
    ) -> Vec<Outcome> {
        let send = async |items: Vec<Arc<BatchItem>>| {
            let request = AttemptRequest {
                runtime: &admission.runtime,
                delivery: first,
                now,
                timeout: admission.timeout,
            };
            let sending =
                async { transmit(self, request.timeout, self.transmit(&items, request)).await };
            admission.run(first, sending).await
        };
        send_bisecting(items, &concerns_content, &send).await
    }
}

/// Returns why an event is not sent of which a header cannot be made.
fn no_header(name: &str) -> Failure {
    let message = format!("the event makes no value of the header {name}");
    Failure::of(FailureKind::Event, message)
}

/// Returns the id of a delivery, or of a batch.
fn request_id(items: &[impl Borrow<BatchItem>]) -> String {
    let ids: Vec<String> = items
        .iter()
        .map(|item| item.borrow().input.delivery().id())
        .collect();
    match &*ids {
        [id] => id.clone(),
        ids => format!("batch.{}", hex(&Sha256::digest(ids.join("\n"))[..16])),
    }
}

/// Returns whether a rejection may be for what was sent, and not for who sent it or where.
fn concerns_content(outcome: &Outcome) -> bool {
    let Outcome::Rejected(Failure {
        status: Some(status),
        ..
    }) = outcome
    else {
        return false;
    };
    (400..500).contains(status) && !matches!(status, 401 | 403 | 404 | 405 | 410)
}

#[cfg(test)]
mod tests;
