//! Webhooks: one HTTP request for each delivery, signed after Standard Webhooks.
//!
//! The id of a request stays the same on every attempt, replay and takeover. Redirects are
//! not followed, answers are read within bounds, and the URL appears in no message: at most
//! its host does.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{HeaderValue as HeaderConfig, Method, Redacted, WebhookConfig};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::answer::{Answer, classify, retry_after};
use super::egress::{Guard, Refused};
use super::escape::Format;
use super::scope::Subject;
use super::scrub::Scrub;
use super::shared::Shared;
use super::signature::Signer;
use super::template::Template;
use super::{CompileError, Delivery, Failure, FailureKind, MAX_BODY, Outcome, delivery_id};
use crate::hex::hex;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is kept.
const POOL_IDLE: Duration = Duration::from_mins(1);

/// How many unused connections are kept for each host.
const POOL_PER_HOST: usize = 128;

/// Time between two signs of life on an HTTP/2 connection in use, and the wait for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Most bytes read of an answer's body.
const MAX_ANSWER: usize = 64 * 1024;

/// Longest wait for an answer's body once its head is there. The head has decided; the body
/// only makes the connection usable again and explains a failure.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Headers that an observer cannot set, because each request has its own.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "traceparent",
    "transfer-encoding",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// The client of all webhooks of a process.
pub(super) fn client(guard: &Guard) -> Result<Client, reqwest::Error> {
    Client::builder()
        .user_agent(concat!("observer-listener/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        // A proxy would dial in our place, past the guard.
        .no_proxy()
        .referer(false)
        .dns_resolver(guard.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .build()
}

/// A compiled webhook.
pub(super) struct Webhook {
    url: Url,
    host: String,
    method: reqwest::Method,
    headers: Vec<(HeaderName, Header)>,
    content_type: HeaderValue,
    body: Option<Template>,
    signer: Signer,
    scrub: Scrub,
}

enum Header {
    Template(Template),
    Fixed(HeaderValue),
}

impl Webhook {
    pub(super) fn compile(config: &WebhookConfig) -> Result<Self, CompileError> {
        let url = Url::parse(config.url.reveal()).map_err(|_| bad_url())?;
        let host = match (url.scheme(), url.host_str()) {
            ("http" | "https", Some(host)) => host.to_owned(),
            _ => return Err(bad_url()),
        };
        let content_type = HeaderValue::from_str(&config.content_type).map_err(|_| {
            CompileError::field(
                "webhook.contentType",
                "is no content type; write it like application/json",
            )
        })?;
        let format = Format::of_content_type(&config.content_type);
        let body = match &config.body {
            None => None,
            Some(source) => Some(Template::compile(
                "webhook.body".to_owned(),
                source,
                format,
            )?),
        };
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
            scrub: Scrub::new(&url, secrets),
            host,
            url,
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
            body,
            signer: Signer::new(&config.signing_secrets)
                .map_err(|error| CompileError::field("webhook.signingSecret", error.to_string()))?,
        })
    }

    /// Sends the request for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Outcome {
        let (headers, body) = match self.request(delivery, now) {
            Ok(request) => request,
            Err(failure) => return Outcome::Refused(failure),
        };
        let answer = self.send(shared, headers, body, now, timeout).await;
        classify(&self.host, answer)
    }

    /// The headers and the body of one attempt.
    fn request(
        &self,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Result<(HeaderMap, Vec<u8>), Failure> {
        let subject = Subject::new(delivery);
        let body = match &self.body {
            Some(template) => template.render(&subject)?.into_bytes(),
            None => envelope(delivery)?,
        };
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 5);
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.render(name, &subject)?);
        }
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        let id = delivery_id(&delivery.event.id, &delivery.observer, &delivery.action);
        let timestamp = now.timestamp();
        let own = [
            ("traceparent", Some(traceparent(delivery, &id))),
            ("webhook-signature", self.signer.sign(&id, timestamp, &body)),
            ("webhook-timestamp", Some(timestamp.to_string())),
            ("webhook-id", Some(id)),
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

    async fn send(
        &self,
        shared: &Shared,
        headers: HeaderMap,
        body: Vec<u8>,
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Answer {
        if let Err(refused) = shared.guard.vet_literal(&self.url) {
            return Answer::Forbidden(refused.to_string());
        }
        let deadline = Instant::now() + timeout;
        let request = shared
            .http
            .request(self.method.clone(), self.url.clone())
            .headers(headers)
            .body(body);
        match timeout_at(deadline, request.send()).await {
            Err(_) => Answer::Silence(timeout),
            Ok(Err(error)) => self.explain(&error),
            Ok(Ok(response)) => self.read(response, now, deadline).await,
        }
    }

    async fn read(&self, mut response: Response, now: DateTime<Utc>, deadline: Instant) -> Answer {
        let status = response.status();
        let header = |name| response.headers().get(name)?.to_str().ok();
        let retry_after = header(RETRY_AFTER).and_then(|value| retry_after(value, now));
        let location = header(LOCATION)
            .and_then(|target| self.url.join(target).ok()?.host_str().map(str::to_owned));
        let mut body = Vec::new();
        let drain = async {
            while body.len() < MAX_ANSWER {
                match response.chunk().await {
                    Ok(Some(chunk)) => {
                        let room = MAX_ANSWER - body.len();
                        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    }
                    // What is missing of an explanation changes nothing.
                    Ok(None) | Err(_) => break,
                }
            }
        };
        let _ = timeout_at(deadline.min(Instant::now() + DRAIN_TIME), drain).await;
        Answer::Status {
            status,
            retry_after,
            location,
            excerpt: if status.is_success() {
                String::new()
            } else {
                self.scrub.excerpt(&body)
            },
        }
    }

    /// What an error of the client means. Its own text would name the URL; its innermost
    /// cause does not.
    fn explain(&self, error: &reqwest::Error) -> Answer {
        if let Some(refused) = cause::<Refused>(error) {
            return Answer::Forbidden(refused.to_string());
        }
        let root = self.scrub.excerpt(innermost(error).to_string().as_bytes());
        if error.is_dns() {
            Answer::Unreachable(format!("the name cannot be resolved: {root}"))
        } else if error.is_timeout() {
            Answer::Unreachable(format!("no connection within {CONNECT_TIMEOUT:?}"))
        } else if error.is_connect() {
            Answer::Unreachable(format!("no connection: {root}"))
        } else if cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
            Answer::Garbled(root)
        } else {
            Answer::Unreachable(format!("the connection broke: {root}"))
        }
    }
}

impl Header {
    fn render(&self, name: &HeaderName, subject: &Arc<Subject>) -> Result<HeaderValue, Failure> {
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

fn bad_url() -> CompileError {
    CompileError::field(
        "webhook.url",
        "is no http or https URL; its value is not shown, as it may hold a secret",
    )
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

fn envelope(delivery: &Delivery) -> Result<Vec<u8>, Failure> {
    let envelope = delivery
        .event
        .envelope(&delivery.observer, &delivery.action);
    let body = serde_json::to_vec(&envelope).map_err(|error| {
        let message = format!("the event cannot be written as JSON: {error}");
        Failure::of(FailureKind::Event, message)
    })?;
    if body.len() > MAX_BODY {
        let message = format!(
            "the event is {} bytes as JSON, more than a body may have ({MAX_BODY}): give the \
             action a webhook.body template that picks what it needs",
            body.len()
        );
        return Err(Failure::of(FailureKind::Event, message));
    }
    Ok(body)
}

/// The W3C trace context: one trace for each event, one span for each attempt.
fn traceparent(delivery: &Delivery, id: &str) -> String {
    let trace = Sha256::digest(delivery.event.id.as_bytes());
    let span = Sha256::digest(format!("{id}\n{}", delivery.attempt));
    format!("00-{}-{}-01", hex(&trace[..16]), hex(&span[..8]))
}

/// The first cause of type `T`.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|error| error.downcast_ref())
}

fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    causes(error).last().unwrap_or(error)
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests;
