//! NATS actions: messages to `JetStream` streams.
//!
//! `Nats-Msg-Id` is the delivery's id, by which a stream drops duplicates.

mod relay;

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, HeaderMap, jetstream};
use chrono::{DateTime, Utc};
use crds::config::{NatsConfig, Redacted, ServerUrl};
use futures::future::BoxFuture;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use self::relay::NatsRelay;

use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::formats::{HeaderProtocol, Headers};
use crate::egress::bounded::ConnectionFault;
use crate::egress::policy::{DialError, EgressPolicy};
use crate::egress::redaction::Secrets;
use crate::egress::response::{DeliveryError, connection_failed};
use crate::egress::tls::{Verify, client_config_with};
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Default port.
const DEFAULT_PORT: u16 = 4222;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most messages of one action in the client's buffer.
const CLIENT_CAPACITY: usize = 64;

/// Compiled message.
pub(super) struct Nats {
    url: Url,
    address: String,
    host: String,
    port: u16,
    credentials: Option<Redacted>,
    /// Present where the URL asks for encryption.
    tls: Option<ClientConfig>,
    subject: Template,
    /// Whether the template itself names one of the server's own subjects.
    system: bool,
    message: Body,
    client: Mutex<Option<NatsConnection>>,
    /// Why the last connection failed.
    fault: ConnectionFault,
}

/// Connection, and the relay that it goes through.
struct NatsConnection {
    client: Client,
    relay: NatsRelay,
}

/// Message of one delivery.
struct RenderedMessage {
    subject: String,
    /// Headers of its format.
    headers: Headers,
    payload: Vec<u8>,
}

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
enum NatsSendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("nothing is published to {subject}")]
    Publish {
        subject: String,
        #[source]
        error: PublishError,
    },
    #[error("the credentials cannot be read")]
    Credentials,
    #[error("the relay to the server cannot be started")]
    RelayStart(#[source] std::io::Error),
    #[error("the connection broke")]
    Closed,
}

impl From<NatsSendError> for DeliveryError {
    fn from(error: NatsSendError) -> Self {
        let never = |said: &str| Self::Permanent(said.to_owned(), None);
        match error {
            NatsSendError::Dial(why) => why.into(),
            NatsSendError::RelayStart(error) => connection_failed(error),
            NatsSendError::Closed => connection_failed("the server ended it"),
            NatsSendError::Credentials => {
                never("nats.credentials cannot be read: give what nsc writes to a file .creds")
            }
            NatsSendError::Connect(error) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    never("user and password of nats.url, or nats.credentials, are wrong")
                }
                ConnectErrorKind::Tls => Self::Misconfigured(error.kind().to_string()),
                kind @ (ConnectErrorKind::Io | ConnectErrorKind::Dns) => {
                    Self::Unreachable(format!("no connection: {kind}"))
                }
                kind => connection_failed(kind),
            },
            NatsSendError::Publish { subject, error } => match error.kind() {
                // Also while a cluster elects a leader.
                PublishErrorKind::StreamNotFound => Self::TemporarilyRejected(
                    format!(
                        "no stream has the subject {subject}: make one, as with \
                         `nats stream add --subjects '{subject}'`"
                    ),
                    None,
                ),
                PublishErrorKind::MaxPayloadExceeded => never(
                    "the message is larger than max_payload: give the action a nats.message that picks what it needs",
                ),
                kind @ (PublishErrorKind::BrokenPipe | PublishErrorKind::TimedOut) => {
                    connection_failed(kind)
                }
                kind => Self::Unavailable(kind.to_string(), None),
            },
        }
    }
}

impl Nats {
    fn compile(config: &NatsConfig, context: CompileContext<'_>) -> Result<Self, CompileError> {
        let bad = || CompileError::field("nats.url", ServerUrl::NATS.message());
        let (url, host) = ServerUrl::NATS.parse(&config.url).ok_or_else(bad)?;
        let port = url.port().unwrap_or(DEFAULT_PORT);
        let own = config.tls.clone().unwrap_or_default();
        let encrypted = url.scheme() == "tls";
        // The client dials the relay, not the server.
        let verify = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let verify = Verify::As(verify.map_err(|_| bad())?);
        let tls = encrypted
            .then(|| client_config_with("nats.tls", &own, verify))
            .transpose()?;
        Ok(Self {
            address: format!("{host}:{port}"),
            host,
            port,
            url,
            credentials: config.credentials.clone(),
            tls,
            subject: Template::compile("nats.subject".to_owned(), &config.subject, Format::Text)?,
            system: config.subject.starts_with(['$', '_']),
            message: Body::compile(
                "nats.message",
                config.message.as_deref(),
                &config.content_type,
            )?
            .with_format(config.format, context.listener),
            client: Mutex::new(None),
            fault: ConnectionFault::default(),
        })
    }

    async fn publish(
        &self,
        request: AttemptRequest<'_>,
        message: RenderedMessage,
    ) -> Result<(), NatsSendError> {
        let delivery = request.delivery;
        let (client, closed) = self.client(&request.runtime.egress).await?;
        let mut stream = jetstream::new(client);
        stream.set_timeout(request.timeout);
        let mut headers = HeaderMap::new();
        for (name, value) in message.headers {
            headers.insert(name, value);
        }
        headers.insert("Nats-Msg-Id", delivery.effect_id());
        headers.insert("webhook-id", delivery.id());
        if delivery.replay.is_some() {
            headers.insert("webhook-replay", "true");
        }
        if let Some(trace) = delivery.given_trace() {
            headers.insert("traceparent", trace.to_string());
        }
        let subject = message.subject;
        let publishing = async {
            let sent =
                stream.publish_with_headers(subject.clone(), headers, message.payload.into());
            sent.await?.await
        };
        match closed.run_until_cancelled(publishing).await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(NatsSendError::Publish { subject, error }),
            None => Err(NatsSendError::Closed),
        }
    }

    /// Returns the open connection, or connects to an address that the egress policy allows, with a token
    /// that is cancelled once it is closed.
    async fn client(
        &self,
        egress: &EgressPolicy,
    ) -> Result<(Client, CancellationToken), NatsSendError> {
        let mut kept = self.client.lock().await;
        if let Some(NatsConnection { client, relay }) = &*kept
            && client.connection_state() == State::Connected
            && !relay.closed.is_cancelled()
        {
            return Ok((client.clone(), relay.closed.clone()));
        }
        let dialled = egress.dial(&self.host, self.port).await?;
        let relay = NatsRelay::open(dialled, &self.fault).await;
        let relay = relay.map_err(NatsSendError::RelayStart)?;
        let encrypted = self.tls.is_some();
        let server = format!("{}://{}", self.url.scheme(), relay.address);
        let mut options = ConnectOptions::new()
            .name("observer-listener")
            .connection_timeout(CONNECT_TIMEOUT)
            .client_capacity(CLIENT_CAPACITY)
            .max_reconnects(1)
            // The egress policy has not checked them.
            .ignore_discovered_servers()
            .require_tls(encrypted);
        if let Some(tls) = &self.tls {
            options = options.tls_client_config(tls.clone());
        }
        let user = self.url.username();
        match (user, self.url.password()) {
            ("", _) => {}
            (token, None) => options = options.token(plain(token)),
            (user, Some(password)) => {
                options = options.user_and_password(plain(user), plain(password));
            }
        }
        if let Some(credentials) = &self.credentials {
            let read = options.credentials(credentials.reveal());
            options = read.map_err(|_| NatsSendError::Credentials)?;
        }
        let client = options.connect(server).await?;
        let closed = relay.closed.clone();
        let connection = kept.insert(NatsConnection { client, relay });
        Ok((connection.client.clone(), closed))
    }

    fn message(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<RenderedMessage, Failure> {
        let scope = RenderInput::new(delivery);
        let subject = self.subject.render(&scope)?;
        let odd = |part: &str| part.is_empty() || part == "*" || part == ">";
        let wild = subject.split('.').any(odd);
        // The server's own subjects, as those that administer it, are for no value to name.
        let system = |text: &str| text.starts_with('$') || text.starts_with("_INBOX.");
        if system(&subject) && !self.system {
            return Err(self.subject.refusal(
                "came out as one of the server's own subjects, which a value may not name",
            ));
        }
        if wild || subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(self.subject.refusal(
                "came out as no subject to publish to: it has empty parts, spaces, or * or > for one",
            ));
        }
        Ok(RenderedMessage {
            subject,
            headers: self.message.headers(delivery, HeaderProtocol::Nats),
            payload: self.message.render(&scope, now)?,
        })
    }
}

impl ActionDefinition for NatsConfig {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn address_field(&self) -> &'static str {
        "nats.url"
    }

    fn compile(&self, context: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Nats::compile(self, context)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        let output = TemplateOutput::of_content_type(&self.content_type);
        TemplateSources::default()
            .text("nats.subject", &self.subject)
            .add("nats.message", &self.message, output)
            .into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        secrets.url(&self.url);
        if let Some(credentials) = &self.credentials {
            let lines = credentials.reveal().lines().map(str::trim);
            // Between lines that say what they are, which are no secrets.
            let lines = lines.filter(|line| !line.starts_with('-') && !line.contains(' '));
            lines.for_each(|line| secrets.secret(line));
        }
    }
}

impl DeliverAction for Nats {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some((self.url.as_str(), &self.address))
    }

    fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        let message = self.message(delivery, now)?;
        let mut preview = message.headers;
        preview.push((
            format!("{} {}", self.address, message.subject),
            String::from_utf8_lossy(&message.payload).into_owned(),
        ));
        Ok(preview)
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let message = self.message(request.delivery, request.now)?;
        Ok(Transmission::of(self.publish(request, message)))
    }

    fn explain(&self, error: DeliveryError, begun: Instant) -> DeliveryError {
        self.fault.explain(error, begun)
    }

    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.client.lock().await.take()) })
    }
}

/// A part of a URL without its escapes.
fn plain(part: &str) -> String {
    percent_encoding::percent_decode_str(part)
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests;
