//! Commands to Redis: set, delete (as of what an event made stale in a cache), publish, and add to a
//! stream.
//!
//! A command whose answer was lost is sent again. To set or delete once more changes nothing; what is
//! published or added may come twice, and carries the delivery's id.

mod answer;

use std::sync::Arc;
use std::time::Duration;

use crds::config::{RedisCommand, RedisConfig};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, Script,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::Preview;
use crate::admission::action_runtime::ActionRuntime;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::egress::bounded::{BoundedStream, ConnectionFault, SHARED, Stream};
use crate::egress::policy::{DialError, EgressPolicy};
use crate::egress::response::{DeliveryError, connection_failed, run_with_timeout};
use crate::egress::tls::client_config;
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Port where a URL names none.
const DEFAULT_PORT: u16 = 6379;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// With something sent and no sign of the other side for this long, a connection is taken for broken.
#[cfg(target_os = "linux")]
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

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

/// A compiled command.
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
    /// Why the last connection broke.
    fault: ConnectionFault,
    delete: Script,
}

/// How connections are encrypted.
struct RedisTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// A connection, and the task that reads and writes for whoever uses it.
#[derive(Clone)]
struct RedisConnection {
    commands: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

enum CommandTemplate {
    Set {
        key: Template,
        value: Body,
        ttl: Option<Duration>,
    },
    Delete {
        keys: Vec<Template>,
        tags: Vec<Template>,
    },
    Publish {
        channel: Template,
        message: Body,
    },
    Add {
        stream: Template,
        message: Body,
        max_length: Option<u32>,
    },
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum RedisSendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("the connection cannot be set up")]
    SetUp(#[from] std::io::Error),
    #[error("no answer within {CONNECT_TIMEOUT:?}")]
    Silence,
}

impl From<RedisSendError> for DeliveryError {
    fn from(error: RedisSendError) -> Self {
        match error {
            RedisSendError::Dial(why) => why.into(),
            RedisSendError::Redis(error) => answer::read(&error),
            RedisSendError::SetUp(error) => connection_failed(error),
            RedisSendError::Silence => connection_failed(error),
        }
    }
}

/// What is sent for one delivery.
#[derive(Debug)]
enum RenderedCommand {
    Plain(Cmd),
    Delete {
        keys: Vec<String>,
        tags: Vec<String>,
    },
}

impl Redis {
    pub(super) fn compile(config: &RedisConfig) -> Result<Self, CompileError> {
        let bad = || {
            CompileError::field(
                "redis.url",
                "is no redis or rediss URL; its value is not shown, as it may hold a secret",
            )
        };
        let url = Url::parse(config.url.reveal()).map_err(|_| bad())?;
        let host = url.host_str().ok_or_else(bad)?;
        let address = (host.to_owned(), url.port().unwrap_or(DEFAULT_PORT));
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
            command: CommandTemplate::compile(config)?,
            connection: Mutex::new(None),
            fault: ConnectionFault::default(),
            delete: Script::new(DELETE),
        })
    }

    pub(super) fn endpoint(&self) -> (&str, &str) {
        (&self.key, &self.host)
    }

    /// Sends the command for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        runtime: &ActionRuntime,
        delivery: &Delivery,
        timeout: Duration,
    ) -> Outcome {
        let call = match self.command.call(delivery) {
            Ok(call) => call,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let sending = async {
            let mut connection = self.connection(&runtime.egress).await?;
            self.send(&mut connection.commands, &call)
                .await
                .map_err(RedisSendError::Redis)
        };
        let begun = Instant::now();
        let outcome = run_with_timeout(&self.host, timeout, sending).await;
        let outcome = self.fault.explain(&self.host, begun, outcome);
        // What was sent may be answered late, and by then to nobody.
        if outcome.breaks_connection() {
            self.connection.lock().await.take();
        }
        outcome
    }

    /// What would be sent.
    pub(super) fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        let words: Vec<String> = match self.command.call(delivery)? {
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

    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        call: &RenderedCommand,
    ) -> Result<(), RedisError> {
        match call {
            RenderedCommand::Plain(command) => command.exec_async(connection).await,
            RenderedCommand::Delete { keys, tags } => {
                let mut script = self.delete.prepare_invoke();
                for key in keys.iter().chain(tags) {
                    script.key(key);
                }
                script.arg(keys.len());
                script.invoke_async::<i64>(connection).await.map(drop)
            }
        }
    }

    /// The connection that there is, or a new one to an address that may be dialled.
    async fn connection(&self, egress: &EgressPolicy) -> Result<RedisConnection, RedisSendError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let connecting = timeout(CONNECT_TIMEOUT, self.connect(egress));
        let connection = connecting.await.map_err(|_| RedisSendError::Silence)??;
        Ok(kept.insert(connection).clone())
    }

    async fn connect(&self, egress: &EgressPolicy) -> Result<RedisConnection, RedisSendError> {
        let stream = egress.dial(&self.address.0, self.address.1).await?;
        notice_silence(&stream)?;
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

/// Has a connection break when something sent is not acknowledged for long.
fn notice_silence(stream: &TcpStream) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(SILENCE_LIMIT))?;
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
    Ok(())
}

impl CommandTemplate {
    fn compile(config: &RedisConfig) -> Result<Self, CompileError> {
        let key = |place: &str, source: &String| {
            Template::compile(place.to_owned(), source, Format::Text)
        };
        let keys = |place: &str, sources: &[String]| Template::all(place, sources, Format::Text);
        let value = |place: &'static str, source: &Option<String>| {
            Body::compile(place, source.as_deref(), &config.content_type)
        };
        Ok(match &config.command {
            RedisCommand::Set {
                key: source,
                value: of,
                ttl,
            } => Self::Set {
                key: key("redis.set.key", source)?,
                value: value("redis.set.value", of)?,
                ttl: *ttl,
            },
            RedisCommand::Delete {
                keys: sources,
                tags,
            } => Self::Delete {
                keys: keys("redis.delete.keys", sources)?,
                tags: keys("redis.delete.tags", tags)?,
            },
            RedisCommand::Publish { channel, message } => Self::Publish {
                channel: key("redis.publish.channel", channel)?,
                message: value("redis.publish.message", message)?,
            },
            RedisCommand::AppendToStream {
                stream,
                message,
                max_length,
            } => Self::Add {
                stream: key("redis.appendToStream.stream", stream)?,
                message: value("redis.appendToStream.message", message)?,
                max_length: *max_length,
            },
        })
    }

    /// What is sent for a delivery.
    fn call(&self, delivery: &Delivery) -> Result<RenderedCommand, Failure> {
        let subject = RenderInput::new(delivery);
        Ok(RenderedCommand::Plain(match self {
            Self::Delete { keys, tags } => {
                return Ok(RenderedCommand::Delete {
                    keys: rendered(keys, &subject)?,
                    tags: rendered(tags, &subject)?,
                });
            }
            Self::Set {
                key,
                value: of,
                ttl,
            } => {
                let mut command = redis::cmd("SET");
                command.arg(key.render(&subject)?).arg(of.render(&subject)?);
                if let Some(ttl) = ttl {
                    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    command.arg("PX").arg(millis.max(1));
                }
                command
            }
            Self::Publish { channel, message } => {
                let mut command = redis::cmd("PUBLISH");
                command
                    .arg(channel.render(&subject)?)
                    .arg(message.render(&subject)?);
                command
            }
            Self::Add {
                stream,
                message,
                max_length,
            } => {
                let mut command = redis::cmd("XADD");
                command.arg(stream.render(&subject)?);
                if let Some(max_length) = max_length {
                    command.arg("MAXLEN").arg("~").arg(*max_length);
                }
                command
                    .arg("*")
                    .arg("id")
                    .arg(delivery.id())
                    .arg("event")
                    .arg(message.render(&subject)?);
                command
            }
        }))
    }
}

fn rendered(templates: &[Template], subject: &Arc<RenderInput>) -> Result<Vec<String>, Failure> {
    templates
        .iter()
        .map(|template| template.render(subject))
        .collect()
}

#[cfg(test)]
mod tests;
