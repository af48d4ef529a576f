//! One connection to Redis for all calls of a process: to a single server, to the server that Sentinels
//! name, or to a Cluster. It connects in the background and again by itself. A call that finds the
//! connection broken fails, since only the caller knows whether it may be repeated.

mod endpoint;
mod sentinel;

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, Value};

pub use endpoint::{RedisEndpoint, RedisTls, SentinelLogin, Topology};
use sentinel::SentinelConnection;

/// Time without an acknowledgement after which a connection counts as broken, so that another one is made. A
/// connection that was forgotten on the way, as by a firewall, would otherwise be waited for a quarter of an
/// hour.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Shortest and longest backoff between two attempts to connect to a single server.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Timeout of an attempt to connect.
    pub connect_timeout: Duration,
    /// Timeout of a reply.
    pub response_timeout: Duration,
    /// Attempts to connect, besides the first, that one call waits for.
    pub reconnects: usize,
    /// Most commands in flight; others wait.
    pub max_in_flight: usize,
}

/// Connection that is shared by its clones.
#[derive(Clone)]
pub struct RedisConnection(Kind);

#[derive(Clone)]
enum Kind {
    Standalone(ConnectionManager),
    Sentinel(SentinelConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its address may hold a password.
        f.write_str(match self.0 {
            Kind::Standalone(_) => "RedisConnection(Standalone)",
            Kind::Sentinel(_) => "RedisConnection(Sentinel)",
            Kind::Cluster(_) => "RedisConnection(Cluster)",
        })
    }
}

impl RedisConnection {
    /// Prepares a connection; must be called within a runtime. Fails only where the endpoint cannot be used,
    /// with an error that repeats no secret.
    pub fn open(endpoint: &RedisEndpoint, limits: ConnectionLimits) -> Result<Self, RedisError> {
        let kind = match &endpoint.topology {
            Topology::Standalone => Kind::Standalone(standalone(endpoint, limits)?),
            Topology::Sentinel { master_name, login } => {
                let client = endpoint.sentinel_client(master_name, login)?;
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(limits.connect_timeout))
                    .set_response_timeout(Some(limits.response_timeout))
                    .set_concurrency_limit(limits.max_in_flight);
                Kind::Sentinel(SentinelConnection::new(client, config))
            }
            Topology::Cluster => Kind::Cluster(cluster(endpoint, limits)?),
        };
        Ok(Self(kind))
    }

    fn inner(&mut self) -> &mut (dyn ConnectionLike + Send + Sync) {
        match &mut self.0 {
            Kind::Standalone(manager) => manager,
            Kind::Sentinel(connection) => connection,
            Kind::Cluster(connection) => connection,
        }
    }
}

fn standalone(
    endpoint: &RedisEndpoint,
    limits: ConnectionLimits,
) -> Result<ConnectionManager, RedisError> {
    let info = endpoint.connection_info()?;
    let client = match endpoint.certificates() {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(limits.connect_timeout))
        .set_response_timeout(Some(limits.response_timeout))
        .set_number_of_retries(limits.reconnects)
        .set_min_delay(MIN_BACKOFF)
        .set_max_delay(MAX_BACKOFF)
        .set_concurrency_limit(limits.max_in_flight);
    ConnectionManager::new_lazy_with_config(client, config)
}

/// Nothing is repeated by the library: a script whose reply was lost may have run. Nor is a slot that moves
/// read half here and half there: what `ASK` redirects fails until the move is done.
fn cluster(
    endpoint: &RedisEndpoint,
    limits: ConnectionLimits,
) -> Result<ClusterConnection, RedisError> {
    let mut builder = ClusterClientBuilder::new(endpoint.all_nodes()?)
        .retries(0)
        .connection_timeout(limits.connect_timeout)
        .response_timeout(limits.response_timeout)
        .overall_response_timeout(Some(limits.response_timeout + limits.connect_timeout))
        .connection_concurrency_limit(limits.max_in_flight)
        .tcp_settings(endpoint::tcp_settings());
    if let Some(certificates) = endpoint.certificates() {
        builder = builder.certs(certificates);
    }
    Ok(builder
        .build()?
        .get_pending_async_connection_with_config(redis::cluster::ClusterConfig::new()))
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner().req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner().req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Kind::Standalone(manager) => manager.get_db(),
            Kind::Sentinel(connection) => connection.get_db(),
            Kind::Cluster(connection) => connection.get_db(),
        }
    }
}
