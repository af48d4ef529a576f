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
use redis::io::AsyncDNSResolver;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, RedisError, RedisFuture, Script,
};
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
    client: Client,
    /// The URL, which may hold a password.
    key: String,
    host: String,
    address: (String, u16),
    command: Command,
    connection: Mutex<Option<MultiplexedConnection>>,
    delete: Script,
}

enum Command {
    Set {
        key: Template,
        value: Option<Template>,
        ttl: Option<Duration>,
    },
    Delete {
        keys: Vec<Template>,
        tags: Vec<Template>,
    },
    Publish {
        channel: Template,
        message: Option<Template>,
    },
    Add {
        stream: Template,
        message: Option<Template>,
        most: Option<u32>,
    },
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Undialled(#[from] Undialled),
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// What is sent for one delivery.
#[derive(Debug)]
enum Call {
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
        let tcp = TcpSettings::default().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(SILENCE_LIMIT);
        let client = Client::open(info.set_tcp_settings(tcp)).map_err(|_| bad())?;
        Ok(Self {
            client,
            key: url.into(),
            host,
            address,
            command: Command::compile(config)?,
            connection: Mutex::new(None),
            delete: Script::new(DELETE),
        })
    }

    pub(super) fn endpoint(&self) -> (&str, &str) {
        (&self.key, &self.host)
    }

    /// Sends the command for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        timeout: Duration,
    ) -> Outcome {
        let call = match self.command.call(delivery) {
            Ok(call) => call,
            Err(failure) => return Outcome::Refused(failure),
        };
        let sending = async {
            let mut connection = self.connection(&shared.guard).await?;
            self.send(&mut connection, &call)
                .await
                .map_err(CallError::Redis)
        };
        match timeout_at(Instant::now() + timeout, sending).await {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(CallError::Undialled(why))) => why.into(),
            Ok(Err(CallError::Redis(error))) => {
                if error.is_unrecoverable_error() || error.is_io_error() {
                    self.connection.lock().await.take();
                }
                answer::classify(&self.host, &error)
            }
            Err(_) => {
                // What was sent may be answered late, and by then to nobody.
                self.connection.lock().await.take();
                Outcome::Retry {
                    failure: Failure::of(
                        FailureKind::Timeout,
                        format!("{} did not answer within {timeout:?}", self.host),
                    ),
                    after: None,
                }
            }
        }
    }

    /// What would be sent.
    pub(super) fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        let words: Vec<String> = match self.command.call(delivery)? {
            Call::Plain(command) => command
                .args_iter()
                .map(|arg| match arg {
                    redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    _ => String::new(),
                })
                .collect(),
            Call::Delete { keys, tags } => {
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
        call: &Call,
    ) -> Result<(), RedisError> {
        match call {
            Call::Plain(command) => command.exec_async(connection).await,
            Call::Delete { keys, tags } => {
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
    async fn connection(&self, guard: &Guard) -> Result<MultiplexedConnection, CallError> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        // The resolver says the same again, but not why.
        guard.addresses(&self.address.0, self.address.1).await?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_dns_resolver(guard.clone());
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        Ok(kept.insert(connection).clone())
    }
}

impl AsyncDNSResolver for Guard {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = std::net::SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let addresses = self.addresses(host, port).await;
            let addresses = addresses.map_err(std::io::Error::other)?;
            Ok(Box::new(addresses.into_iter()) as Box<dyn Iterator<Item = _> + Send>)
        })
    }
}

impl Command {
    fn compile(config: &RedisConfig) -> Result<Self, CompileError> {
        let format = Format::of_content_type(&config.content_type);
        let key = |place: &str, source: &String| {
            Template::compile(place.to_owned(), source, Format::Text)
        };
        let keys = |place: &str, sources: &Vec<String>| -> Result<Vec<Template>, CompileError> {
            let sources = sources.iter().enumerate();
            sources
                .map(|(n, source)| key(&format!("{place}[{n}]"), source))
                .collect()
        };
        let value = |place: &str, source: &Option<String>| {
            let source = source.as_ref();
            let compiled = source.map(|source| Template::compile(place.to_owned(), source, format));
            compiled.transpose()
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
            RedisCommand::Add {
                stream,
                message,
                max_length,
            } => Self::Add {
                stream: key("redis.add.stream", stream)?,
                message: value("redis.add.message", message)?,
                most: *max_length,
            },
        })
    }

    /// What is sent for a delivery.
    fn call(&self, delivery: &Delivery) -> Result<Call, Failure> {
        let subject = Subject::new(delivery);
        let value = |template: &Option<Template>| match template {
            Some(template) => template.render(&subject).map(String::into_bytes),
            None => envelope(delivery),
        };
        Ok(Call::Plain(match self {
            Self::Delete { keys, tags } => {
                return Ok(Call::Delete {
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
                command.arg(key.render(&subject)?).arg(value(of)?);
                if let Some(ttl) = ttl {
                    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    command.arg("PX").arg(millis.max(1));
                }
                command
            }
            Self::Publish { channel, message } => {
                let mut command = redis::cmd("PUBLISH");
                command.arg(channel.render(&subject)?).arg(value(message)?);
                command
            }
            Self::Add {
                stream,
                message,
                most,
            } => {
                let mut command = redis::cmd("XADD");
                command.arg(stream.render(&subject)?);
                if let Some(most) = most {
                    command.arg("MAXLEN").arg("~").arg(*most);
                }
                let id = delivery_id(&delivery.event.id, &delivery.observer, &delivery.action);
                command
                    .arg("*")
                    .arg("id")
                    .arg(id)
                    .arg("event")
                    .arg(value(message)?);
                command
            }
        }))
    }
}

fn rendered(templates: &[Template], subject: &Arc<Subject>) -> Result<Vec<String>, Failure> {
    templates
        .iter()
        .map(|template| template.render(subject))
        .collect()
}

#[cfg(test)]
mod tests;
