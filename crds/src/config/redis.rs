//! Commands to Redis, after validation.

use std::time::Duration;

use super::{MessageFormat, Redacted, TlsConfig};

/// A command to a Redis server.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// The server, `redis` or `rediss`, with a host.
    pub url: Redacted,
    /// What the connection needs beyond what the system knows.
    pub tls: Option<TlsConfig>,
    /// What it is told.
    pub command: RedisCommand,
    /// Content type of values.
    pub content_type: String,
}

/// What a Redis server is told. Texts are templates; a value that is absent is the event as JSON.
#[derive(Clone, Debug)]
pub enum RedisCommand {
    /// To set a key.
    Set {
        /// The key.
        key: String,
        /// Its value.
        value: Option<String>,
        /// When it goes by itself.
        ttl: Option<Duration>,
    },
    /// To remove keys; at least one key or tag.
    Delete {
        /// Keys.
        keys: Vec<String>,
        /// Keys of sets that name keys.
        tags: Vec<String>,
    },
    /// To publish a message.
    Publish {
        /// The channel.
        channel: String,
        /// The message.
        message: Option<String>,
    },
    /// To append to a stream.
    AppendToStream {
        /// The stream's key.
        stream: String,
        /// The entry's field `event`.
        message: Option<String>,
        /// Format of the event; `Event` where there is a template.
        format: MessageFormat,
        /// About how many entries are kept.
        max_length: Option<u32>,
    },
}
