//! Redis actions: set, delete (for example cache entries that an event made stale), publish, and append to
//! a stream.
//!
//! A command whose response was lost is sent again. Set and delete are idempotent; what is published or
//! appended may come twice, and carries the delivery's id.

mod command;
mod error;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{RedisCommand, RedisConfig, ServerUrl};
use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    Script,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use self::command::{CommandTemplate, RenderedCommand};

use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::egress::bounded::{BoundedStream, ConnectionFault, SHARED, Stream};
use crate::egress::policy::{DialError, EgressPolicy};
use crate::egress::redaction::Secrets;
use crate::egress::response::{DeliveryError, connection_failed};
use crate::egress::tls::client_config;
use crate::templating::compile_error::CompileError;

/// Default port.
const DEFAULT_PORT: u16 = 6379;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what was sent may stay unacknowledged before the connection fails (`TCP_USER_TIMEOUT`).
#[cfg(target_os = "linux")]
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Removes keys (the first `ARGV[1]` of `KEYS`), and what the sets name whose keys the others are,
/// and these sets. In parts, since a call takes some thousand arguments.
const DELETE: &str = "
local keys = tonumber(ARGV[1])
for at = 1, keys do
    redis.call('UNLINK', KEYS[at])
end
for at = keys + 1, #KEYS do
    local named = redis.call('SMEMBERS', KEYS[at])
    for from = 1, #named, 1000 do
        redis.call('UNLINK', unpack(named, from, math.min(from + 999, #named)))
    end
    redis.call('UNLINK', KEYS[at])
end
return #KEYS";

/// Compiled command.
pub(super) struct Redis {
    /// User, password and database.
    login: RedisConnectionInfo,
    tls: Option<RedisTls>,
    /// The URL, which may hold a password.
    key: String,
    host: String,
    address: (String, u16),
    command: CommandTemplate,
    connection: Mutex<Option<RedisConnection>>,
    /// Why the last connection failed.
    fault: ConnectionFault,
    delete: Script,
}

/// Encryption of connections.
struct RedisTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// Connection, and the task that drives it.
#[derive(Clone)]
struct RedisConnection {
    commands: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum RedisSendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the connection cannot be set up")]
    SetUp(#[from] std::io::Error),
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    Timeout,
}

impl From<RedisSendError> for DeliveryError {
    fn from(error: RedisSendError) -> Self {
        match error {
            RedisSendError::Dial(why) => why.into(),
            RedisSendError::Redis(error) => error::delivery_error(&error),
            RedisSendError::SetUp(error) => connection_failed(error),
            RedisSendError::Timeout => connection_failed(error),
        }
    }
}

impl Redis {
    fn compile(config: &RedisConfig, context: CompileContext<'_>) -> Result<Self, CompileError> {
        let bad = || CompileError::field("redis.url", ServerUrl::REDIS.message());
        let (url, host) = ServerUrl::REDIS.parse(&config.url).ok_or_else(bad)?;
        let address = (host, url.port().unwrap_or(DEFAULT_PORT));
        let host = format!("{}:{}", address.0, address.1);
        let info = url.as_str().into_connection_info().map_err(|_| bad())?;
        let tls = match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(CompileError::field(
                    "redis.url",
                    "must not end in #insecure: give the server's authority as redis.tls.ca",
                ));
            }
            ConnectionAddr::TcpTls { .. } => {
                let own = config.tls.clone().unwrap_or_default();
                let bare = address.0.trim_matches(['[', ']']).to_owned();
                Some(RedisTls {
                    config: Arc::new(client_config("redis.tls", &own)?),
                    name: ServerName::try_from(bare).map_err(|_| bad())?,
                })
            }
            _ => None,
        };
        Ok(Self {
            login: info.redis_settings().clone(),
            tls,
            key: url.into(),
            host,
            address,
            command: CommandTemplate::compile(config, context.listener)?,
            connection: Mutex::new(None),
            fault: ConnectionFault::default(),
            delete: Script::new(DELETE),
        })
    }

    async fn send(
        &self,
        egress: &EgressPolicy,
        command: RenderedCommand,
    ) -> Result<(), RedisSendError> {
        let connection = &mut self.connection(egress).await?.commands;
        let sent = match &command {
            RenderedCommand::Plain(command) => command.exec_async(connection).await,
            RenderedCommand::Delete { keys, tags } => {
                let mut script = self.delete.prepare_invoke();
                for key in keys.iter().chain(tags) {
                    script.key(key);
                }
                script.arg(keys.len());
                script.invoke_async::<i64>(connection).await.map(drop)
            }
        };
        Ok(sent?)
    }

    /// Returns the open connection, or connects to an address that the egress policy allows.
    async fn connection(&self, egress: &EgressPolicy) -> Result<RedisConnection, RedisSendError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let connecting = timeout(CONNECT_TIMEOUT, self.connect(egress));
        let connection = connecting.await.map_err(|_| RedisSendError::Timeout)??;
        Ok(kept.insert(connection).clone())
    }

    async fn connect(&self, egress: &EgressPolicy) -> Result<RedisConnection, RedisSendError> {
        let stream = egress.dial(&self.address.0, self.address.1).await?;
        set_user_timeout(&stream)?;
        let stream = BoundedStream::new(stream, SHARED, &self.fault);
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let connector = TlsConnector::from(Arc::clone(&tls.config));
                Box::new(connector.connect(tls.name.clone(), stream).await?)
            }
        };
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let made = MultiplexedConnection::new_with_config(&self.login, stream, config);
        let (commands, driver) = made.await?;
        Ok(RedisConnection {
            commands,
            _driver: Arc::new(AbortOnDropHandle::new(tokio::spawn(driver))),
        })
    }
}

impl ActionDefinition for RedisConfig {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn address_field(&self) -> &'static str {
        "redis.url"
    }

    fn compile(&self, context: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Redis::compile(self, context)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        let output = TemplateOutput::of_content_type(&self.content_type);
        let sources = TemplateSources::default();
        let sources = match &self.command {
            RedisCommand::Set { key, value, .. } => {
                sources
                    .text("redis.set.key", key)
                    .add("redis.set.value", value, output)
            }
            RedisCommand::Delete { keys, tags } => sources
                .texts("redis.delete.keys", keys)
                .texts("redis.delete.tags", tags),
            RedisCommand::Publish { channel, message } => sources
                .text("redis.publish.channel", channel)
                .add("redis.publish.message", message, output),
            RedisCommand::AppendToStream {
                stream, message, ..
            } => sources.text("redis.appendToStream.stream", stream).add(
                "redis.appendToStream.message",
                message,
                output,
            ),
        };
        sources.into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        secrets.url(&self.url);
    }
}

impl DeliverAction for Redis {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some((&self.key, &self.host))
    }

    fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        let words: Vec<String> = match self.command.render(delivery, now)? {
            RenderedCommand::Plain(command) => command
                .args_iter()
                .map(|arg| match arg {
                    redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    _ => String::new(),
                })
                .collect(),
            RenderedCommand::Delete { keys, tags } => {
                let tags = tags.into_iter().map(|tag| format!("(what {tag} names)"));
                let words = std::iter::once("UNLINK".to_owned());
                words.chain(keys).chain(tags).collect()
            }
        };
        Ok(vec![(self.host.clone(), words.join(" "))])
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let command = self.command.render(request.delivery, request.now)?;
        Ok(Transmission::of(
            self.send(&request.runtime.egress, command),
        ))
    }

    fn explain(&self, error: DeliveryError, begun: Instant) -> DeliveryError {
        self.fault.explain(error, begun)
    }

    /// Drops the connection: a late response would be read as that of the next command.
    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.connection.lock().await.take()) })
    }
}

/// Makes a connection fail when what was sent stays unacknowledged.
fn set_user_timeout(stream: &TcpStream) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
    Ok(())
}

#[cfg(test)]
mod tests;
