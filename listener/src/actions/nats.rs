//! Messages to streams of NATS `JetStream`.
//!
//! `Nats-Msg-Id` is the delivery's id, by which a stream leaves out what it has already.

use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, HeaderMap, jetstream};
use crds::config::{NatsConfig, Redacted};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::egress::{Guard, Undialled};
use super::escape::Format;
use super::scope::Subject;
use super::shared::Shared;
use super::template::Template;
use super::webhook::envelope;
use super::{CompileError, Delivery, Failure, FailureKind, Outcome, Preview, delivery_id};

/// Port where a URL names none.
const DEFAULT_PORT: u16 = 4222;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most messages of one action that wait to be written; others wait for room.
const CAPACITY: usize = 64;

/// A compiled message.
pub(super) struct Nats {
    url: Url,
    /// The URL without what leads to nobody else, as a key.
    key: String,
    address: String,
    host: String,
    port: u16,
    credentials: Option<Redacted>,
    subject: Template,
    message: Option<Template>,
    client: Mutex<Option<Client>>,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Undialled(#[from] Undialled),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the credentials cannot be read")]
    Credentials,
}

impl SendError {
    /// Whether the connection is as good as before.
    fn leaves_connection(&self) -> bool {
        let Self::Publish(error) = self else {
            return true;
        };
        matches!(
            error.kind(),
            PublishErrorKind::StreamNotFound | PublishErrorKind::MaxPayloadExceeded
        )
    }
}

impl Nats {
    pub(super) fn compile(config: &NatsConfig) -> Result<Self, CompileError> {
        let bad = || {
            CompileError::field(
                "nats.url",
                "is no nats or tls URL; its value is not shown, as it may hold a secret",
            )
        };
        let url = Url::parse(config.url.reveal()).map_err(|_| bad())?;
        let host = url.host_str().ok_or_else(bad)?.to_owned();
        let port = url.port().unwrap_or(DEFAULT_PORT);
        let format = Format::of_content_type(&config.content_type);
        let message = config.message.as_ref();
        let message =
            message.map(|source| Template::compile("nats.message".to_owned(), source, format));
        Ok(Self {
            key: url.to_string(),
            address: format!("{host}:{port}"),
            host,
            port,
            url,
            credentials: config.credentials.clone(),
            subject: Template::compile("nats.subject".to_owned(), &config.subject, Format::Text)?,
            message: message.transpose()?,
            client: Mutex::new(None),
        })
    }

    pub(super) fn endpoint(&self) -> (&str, &str) {
        (&self.key, &self.address)
    }

    /// What would be published.
    pub(super) fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        let (subject, message) = self.message(delivery)?;
        let message = String::from_utf8_lossy(&message).into_owned();
        Ok(vec![(format!("{} {subject}", self.address), message)])
    }

    /// Publishes the message for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        timeout: Duration,
    ) -> Outcome {
        let (subject, message) = match self.message(delivery) {
            Ok(message) => message,
            Err(failure) => return Outcome::Refused(failure),
        };
        let publishing = self.publish(shared, delivery, (subject.clone(), message), timeout);
        match timeout_at(Instant::now() + timeout, publishing).await {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) => {
                if !error.leaves_connection() {
                    self.client.lock().await.take();
                }
                self.classify(&subject, error)
            }
            Err(_) => {
                self.client.lock().await.take();
                self.late(timeout)
            }
        }
    }

    fn late(&self, timeout: Duration) -> Outcome {
        let message = format!("{} did not acknowledge within {timeout:?}", self.address);
        Outcome::Retry {
            failure: Failure::of(FailureKind::Timeout, message),
            after: None,
        }
    }

    async fn publish(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        (subject, message): (String, Vec<u8>),
        timeout: Duration,
    ) -> Result<(), SendError> {
        let client = self.client(&shared.guard).await?;
        let mut stream = jetstream::new(client);
        stream.set_timeout(timeout);
        let id = delivery_id(&delivery.event.id, &delivery.observer, &delivery.action);
        let mut headers = HeaderMap::new();
        // A replay is kept once more, and once.
        if let Some(replay) = &delivery.replay {
            headers.insert("Nats-Msg-Id", format!("{id}~{replay}"));
            headers.insert("webhook-replay", "true");
        } else {
            headers.insert("Nats-Msg-Id", id.as_str());
        }
        headers.insert("webhook-id", id);
        let sent = stream.publish_with_headers(subject, headers, message.into());
        sent.await?.await?;
        Ok(())
    }

    /// The connection that there is, or a new one to an address that may be dialled.
    async fn client(&self, guard: &Guard) -> Result<Client, SendError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let addresses = guard.addresses(&self.host, self.port).await?;
        let encrypted = self.url.scheme() == "tls";
        // Where it is encrypted the name stays, since the certificate must bear it.
        let server = match addresses.first() {
            Some(address) if !encrypted => format!("nats://{address}"),
            _ => format!("{}://{}", self.url.scheme(), self.address),
        };
        let mut options = ConnectOptions::new()
            .name("observer-listener")
            .connection_timeout(CONNECT_TIMEOUT)
            .client_capacity(CAPACITY)
            .max_reconnects(1)
            // They have not been vetted.
            .ignore_discovered_servers()
            .require_tls(encrypted);
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
            options = read.map_err(|_| SendError::Credentials)?;
        }
        let client = options.connect(server).await?;
        Ok(kept.insert(client).clone())
    }

    fn message(&self, delivery: &Delivery) -> Result<(String, Vec<u8>), Failure> {
        let scope = Subject::new(delivery);
        let subject = self.subject.render(&scope)?;
        let odd = |part: &str| part.is_empty() || part == "*" || part == ">";
        let wild = subject.split('.').any(odd);
        if wild || subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(self.subject.refusal(
                "came out as no subject to publish to: it has empty parts, spaces, or * or > for one",
            ));
        }
        let message = match &self.message {
            Some(template) => template.render(&scope)?.into_bytes(),
            None => envelope(delivery)?,
        };
        Ok((subject, message))
    }

    fn classify(&self, subject: &str, error: SendError) -> Outcome {
        let host = &self.address;
        let passes = |kind, message| Outcome::Retry {
            failure: Failure::of(kind, message),
            after: None,
        };
        let refused = |message| Outcome::Refused(Failure::of(FailureKind::Status, message));
        match error {
            SendError::Undialled(why) => why.into(),
            SendError::Credentials => refused(
                "nats.credentials cannot be read: give what nsc writes to a file .creds".to_owned(),
            ),
            SendError::Connect(error) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    refused(format!(
                        "{host} refuses: user and password of nats.url, or nats.credentials, are wrong"
                    ))
                }
                ConnectErrorKind::TimedOut => passes(
                    FailureKind::Timeout,
                    format!("{host} did not answer in time"),
                ),
                kind => passes(
                    FailureKind::Connection,
                    format!("no connection to {host}: {kind}"),
                ),
            },
            SendError::Publish(error) => match error.kind() {
                // So it is too while a cluster chooses a leader.
                PublishErrorKind::StreamNotFound => passes(
                    FailureKind::Status,
                    format!(
                        "no stream takes the subject {subject} at {host}: make one, as with \
                         `nats stream add --subjects '{subject}'`"
                    ),
                ),
                PublishErrorKind::MaxPayloadExceeded => refused(format!(
                    "the message is larger than {host} takes (max_payload): give the action a nats.message that picks \
                     what it needs"
                )),
                PublishErrorKind::TimedOut => passes(
                    FailureKind::Timeout,
                    format!("{host} did not acknowledge in time"),
                ),
                kind => passes(
                    FailureKind::Status,
                    format!("{host} does not take the message: {kind}"),
                ),
            },
        }
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
