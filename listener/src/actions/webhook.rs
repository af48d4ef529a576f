//! Webhooks: one HTTP request for each delivery, signed after Standard Webhooks.
//!
//! The id of a request stays the same on every attempt, replay and takeover.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{HeaderValue as HeaderConfig, Method, Redacted, WebhookConfig};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use super::Preview;
use super::batcher::{Batcher, send_bisecting};
use super::signature::Signer;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::control::AdmissionControl;
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::delivery::outcome::Outcome;
use crate::egress::http_client::HttpEndpoint;
use crate::egress::response::classify;
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;
use crate::text::hex::hex;

/// Headers that an observer cannot set, because each request has its own.
const RESERVED: [&str; 11] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "traceparent",
    "transfer-encoding",
    "user-agent",
    "webhook-id",
    "webhook-replay",
    "webhook-signature",
    "webhook-timestamp",
];

/// A compiled webhook.
pub(super) struct Webhook {
    endpoint: HttpEndpoint,
    method: reqwest::Method,
    headers: Vec<(HeaderName, Header)>,
    content_type: HeaderValue,
    body: Body,
    signer: Signer,
    batches: Option<Batcher<BatchItem>>,
}

/// What one delivery is in a batch.
pub(super) struct BatchItem {
    subject: Arc<RenderInput>,
    body: Vec<u8>,
}

enum Header {
    Template(Template),
    Fixed(HeaderValue),
}

impl Webhook {
    pub(super) fn compile(config: &WebhookConfig, most: u32) -> Result<Self, CompileError> {
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
            headers: config
                .headers
                .iter()
                .map(header)
                .collect::<Result<_, _>>()?,
            content_type,
            body: Body::compile("webhook.body", config.body.as_deref(), &config.content_type)?,
            signer: Signer::new(&config.signing_secrets)
                .map_err(|error| CompileError::field("webhook.signingSecret", error.to_string()))?,
            batches: config.batch.map(|limits| Batcher::new(limits, most)),
        })
    }

    pub(super) fn endpoint(&self) -> (&str, &str) {
        self.endpoint.names()
    }

    /// Most deliveries that share a request; nothing where each has its own.
    pub(super) fn max_batch_size(&self) -> Option<usize> {
        self.batches.as_ref().map(Batcher::max_batch_size)
    }

    /// The batches that a delivery goes out with, if it does: what failed holds none of them up, and
    /// a replay is told from what is none by a header.
    pub(super) fn batches_for(&self, delivery: &Delivery) -> Option<&Batcher<BatchItem>> {
        let joins = delivery.attempt == 1 && delivery.replay.is_none();
        self.batches.as_ref().filter(|_| joins)
    }

    /// Sends the request for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        runtime: &ActionRuntime,
        delivery: &Delivery,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Outcome {
        match self.part(delivery) {
            Ok(part) => self.send(runtime, &[part], now, timeout).await,
            Err(failure) => Outcome::Rejected(failure),
        }
    }

    /// Sends `delivery` with others, in parts where these are refused for what they hold.
    pub(super) async fn join(
        self: &Arc<Self>,
        batches: &Batcher<BatchItem>,
        admission: &Arc<AdmissionControl>,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Outcome {
        let part = match self.part(delivery) {
            Ok(part) => part,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let (webhook, admission, bytes) =
            (Arc::clone(self), Arc::clone(admission), part.body.len());
        let delivery = delivery.clone();
        batches
            .join(part, bytes, async move |parts| {
                let send = async |parts: Vec<Arc<BatchItem>>| {
                    let admitted = match admission.admit(&delivery).await {
                        Ok(admitted) => admitted,
                        Err(wait) => return Outcome::Deferred(wait),
                    };
                    let sending = webhook.send(&admission.runtime, &parts, now, admission.timeout);
                    let outcome = admission.redactor.redact_outcome(sending.await);
                    admitted.complete(&outcome).await;
                    outcome
                };
                send_bisecting(parts, &concerns_content, &send).await
            })
            .await
    }

    async fn send(
        &self,
        runtime: &ActionRuntime,
        parts: &[impl Borrow<BatchItem> + Sync],
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Outcome {
        let (headers, body) = match self.request(parts, now) {
            Ok(request) => request,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let request = (self.method.clone(), headers, body);
        let answer = self
            .endpoint
            .send((&runtime.egress, &runtime.http), request, now, timeout)
            .await;
        classify(&self.endpoint.host, answer)
    }

    /// What would be sent.
    pub(super) fn preview(
        &self,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Result<Preview, Failure> {
        let (headers, body) = self.request(&[self.part(delivery)?], now)?;
        let mut preview = vec![(self.method.to_string(), self.endpoint.host.clone())];
        for (name, value) in &headers {
            let hidden = value.is_sensitive() || name == "webhook-signature";
            let shown = if hidden {
                Redacted::default().to_string()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            preview.push((name.to_string(), shown));
        }
        preview.push((
            "body".to_owned(),
            String::from_utf8_lossy(&body).into_owned(),
        ));
        Ok(preview)
    }

    fn part(&self, delivery: &Delivery) -> Result<BatchItem, Failure> {
        let subject = RenderInput::new(delivery);
        let body = self.body.render(&subject)?;
        Ok(BatchItem { subject, body })
    }

    /// The headers and the body of one request. Where it is for several, their headers hold no
    /// template, and those that name one name the first.
    fn request(
        &self,
        parts: &[impl Borrow<BatchItem>],
        now: DateTime<Utc>,
    ) -> Result<(HeaderMap, Vec<u8>), Failure> {
        let Some(first) = parts.first().map(Borrow::borrow) else {
            return Ok((HeaderMap::new(), Vec::new()));
        };
        let (subject, delivery) = (&first.subject, first.subject.delivery());
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 6);
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.render(name, subject)?);
        }
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        let body = self.joined(parts);
        let id = request_id(parts);
        let timestamp = now.timestamp();
        let own = [
            ("traceparent", Some(traceparent(delivery, &id))),
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
            let value = HeaderValue::try_from(value).map_err(|_| {
                let message = format!("the event's id makes no value of the header {name}");
                Failure::of(FailureKind::Event, message)
            })?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok((headers, body))
    }

    /// The body of a request: an array where there may be several.
    fn joined(&self, parts: &[impl Borrow<BatchItem>]) -> Vec<u8> {
        let bodies = parts.iter().map(|part| &*part.borrow().body);
        let bodies: Vec<&[u8]> = bodies.collect();
        if self.batches.is_none() {
            bodies.concat()
        } else {
            [b"[", &*bodies.join(&b','), b"]"].concat()
        }
    }
}

/// The id of a delivery, or what stands for those of several.
fn request_id(parts: &[impl Borrow<BatchItem>]) -> String {
    let ids: Vec<String> = parts
        .iter()
        .map(|part| part.borrow().subject.delivery().id())
        .collect();
    match &*ids {
        [id] => id.clone(),
        ids => format!("batch.{}", hex(&Sha256::digest(ids.join("\n"))[..16])),
    }
}

/// Whether a refusal may be for what was sent, and not for who sent it or where.
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

impl Header {
    fn render(
        &self,
        name: &HeaderName,
        subject: &Arc<RenderInput>,
    ) -> Result<HeaderValue, Failure> {
        let template = match self {
            Self::Fixed(value) => return Ok(value.clone()),
            Self::Template(template) => template,
        };
        let text = template.render(subject)?;
        if text.chars().any(char::is_control) {
            let message = format!(
                "the header {name} came out with a line break or another control character: \
                 remove it in the template, for instance with {{{{ new.note|replace(\"\\n\", \" \") }}}}"
            );
            return Err(Failure::of(FailureKind::Template, message));
        }
        HeaderValue::try_from(text).map_err(|_| {
            let message = format!("the header {name} came out as no header value");
            Failure::of(FailureKind::Template, message)
        })
    }
}

fn header((name, value): &(String, HeaderConfig)) -> Result<(HeaderName, Header), CompileError> {
    let bad = |what| CompileError::field(format!("webhook.headers[{name}]"), what);
    let parsed = HeaderName::try_from(name.as_str())
        .map_err(|_| bad("is no header name; use letters, digits and hyphens"))?;
    if RESERVED.contains(&parsed.as_str()) {
        return Err(bad("is set by the listener itself; remove it"));
    }
    let value = match value {
        HeaderConfig::Template(source) => {
            let place = format!("webhook.headers[{name}]");
            Header::Template(Template::compile(place, source, Format::Text)?)
        }
        HeaderConfig::Secret(secret) => {
            // Secrets read from files often end in a line break.
            let mut value = HeaderValue::from_str(secret.reveal().trim())
                .map_err(|_| bad("has a secret that is no header value"))?;
            value.set_sensitive(true);
            Header::Fixed(value)
        }
    };
    Ok((parsed, value))
}

/// The W3C trace context: one trace for each event, one span for each attempt.
fn traceparent(delivery: &Delivery, id: &str) -> String {
    let trace = Sha256::digest(delivery.event.id.as_bytes());
    let span = Sha256::digest(format!("{id}\n{}", delivery.attempt));
    format!("00-{}-{}-01", hex(&trace[..16]), hex(&span[..8]))
}

#[cfg(test)]
mod tests;
