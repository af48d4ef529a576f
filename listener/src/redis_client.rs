//! Connections to the listener's own Redis.

use crds::config::{Redacted, RedisServerConfig, RedisTopology};
use redis_connection::{
    ConnectionLimits, RedisConnection, RedisEndpoint, RedisTls, SentinelLogin, Topology,
};

/// Prepares a connection for what all processes of a listener share and can do without; nothing where the
/// address cannot be used. Connects in the background.
pub(crate) fn open(
    server: &RedisServerConfig,
    limits: ConnectionLimits,
) -> Option<RedisConnection> {
    RedisConnection::open(&endpoint(server), limits)
        .inspect_err(|error| tracing::warn!(%error, "the address of Redis cannot be used"))
        .ok()
}

/// Returns where the Redis of a listener is, for the client.
pub(crate) fn endpoint(server: &RedisServerConfig) -> RedisEndpoint {
    let own = |value: &Option<Redacted>| value.as_ref().map(|value| value.reveal().to_owned());
    let topology = match &server.topology {
        RedisTopology::Standalone => Topology::Standalone,
        RedisTopology::Sentinel {
            master_name,
            username,
            password,
        } => Topology::Sentinel {
            master_name: master_name.clone(),
            login: SentinelLogin {
                username: own(username),
                password: own(password),
            },
        },
        RedisTopology::Cluster => Topology::Cluster,
    };
    RedisEndpoint {
        url: server.url.reveal().to_owned(),
        nodes: server.nodes.clone(),
        topology,
        tls: server.tls.as_ref().map(|tls| RedisTls {
            ca: own(&tls.ca),
            identity: tls.identity.as_ref().map(|(certificate, key)| {
                (certificate.reveal().to_owned(), key.reveal().to_owned())
            }),
        }),
    }
}

/// Where a test's server is.
#[cfg(test)]
pub(crate) fn standalone(server: &testkit::servers::redis::PrivateRedis) -> RedisServerConfig {
    RedisServerConfig::standalone(Redacted::new(server.url()))
}
