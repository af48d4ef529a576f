//! Commands as templates, and rendered.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{RedisCommand, RedisConfig};
use redis::Cmd;

use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::templating::body::Body;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Command whose parts are templates.
pub(super) enum CommandTemplate {
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

/// Command for one delivery.
#[derive(Debug)]
pub(super) enum RenderedCommand {
    Plain(Cmd),
    Delete {
        keys: Vec<String>,
        tags: Vec<String>,
    },
}

impl CommandTemplate {
    pub(super) fn compile(config: &RedisConfig, listener: &str) -> Result<Self, CompileError> {
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
                format,
                max_length,
            } => Self::Add {
                stream: key("redis.appendToStream.stream", stream)?,
                message: value("redis.appendToStream.message", message)?
                    .with_format(*format, listener),
                max_length: *max_length,
            },
        })
    }

    /// Renders what is sent for a delivery.
    pub(super) fn render(
        &self,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Result<RenderedCommand, Failure> {
        let input = RenderInput::new(delivery);
        Ok(RenderedCommand::Plain(match self {
            Self::Delete { keys, tags } => {
                return Ok(RenderedCommand::Delete {
                    keys: rendered(keys, &input)?,
                    tags: rendered(tags, &input)?,
                });
            }
            Self::Set {
                key,
                value: of,
                ttl,
            } => {
                let mut command = redis::cmd("SET");
                command
                    .arg(key.render(&input)?)
                    .arg(of.render(&input, now)?);
                if let Some(ttl) = ttl {
                    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    command.arg("PX").arg(millis.max(1));
                }
                command
            }
            Self::Publish { channel, message } => {
                let mut command = redis::cmd("PUBLISH");
                command
                    .arg(channel.render(&input)?)
                    .arg(message.render(&input, now)?);
                command
            }
            Self::Add {
                stream,
                message,
                max_length,
            } => {
                let mut command = redis::cmd("XADD");
                command.arg(stream.render(&input)?);
                if let Some(max_length) = max_length {
                    command.arg("MAXLEN").arg("~").arg(*max_length);
                }
                command
                    .arg("*")
                    .arg("id")
                    .arg(delivery.id())
                    .arg("event")
                    .arg(message.render(&input, now)?);
                command
            }
        }))
    }
}

fn rendered(templates: &[Template], input: &Arc<RenderInput>) -> Result<Vec<String>, Failure> {
    templates
        .iter()
        .map(|template| template.render(input))
        .collect()
}
