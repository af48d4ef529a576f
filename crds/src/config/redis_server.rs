//! The Redis of a listener, after validation.

use super::{Redacted, TlsConfig};

/// Where the Redis of a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisServerConfig {
    /// URL of a server, a Sentinel or a node, `redis` or `rediss`, with a host.
    pub url: Redacted,
    /// What the connection needs beyond what the system knows.
    pub tls: Option<TlsConfig>,
    /// What is at the URL.
    pub topology: RedisTopology,
    /// Further Sentinels or nodes, each with its port.
    pub nodes: Vec<(String, u16)>,
}

/// What is at the URL of a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// One server.
    Standalone,
    /// Sentinels.
    Sentinel {
        /// Name by which they know the server.
        master_name: String,
        /// User at the Sentinels.
        username: Option<Redacted>,
        /// Password at the Sentinels.
        password: Option<Redacted>,
    },
    /// A Cluster.
    Cluster,
}

impl RedisServerConfig {
    /// A single server at a URL.
    #[must_use]
    pub fn standalone(url: Redacted) -> Self {
        Self {
            url,
            tls: None,
            topology: RedisTopology::Standalone,
            nodes: Vec::new(),
        }
    }
}
