//! Validation of a listener's Redis: the rules that its schema cannot say.

use super::context::ValidationContext;
use super::tls;
use super::url::{PORT_ZERO, url};
use crate::config::{Redacted, RedisServerConfig, RedisTopology, ServerUrl};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{RedisSentinel, RedisServer, ValueSource};

const AT: &str = "/spec/redis";

/// Validates the Redis of a listener and returns its configuration.
pub(crate) fn check(redis: &RedisServer, context: &mut ValidationContext<'_>) -> RedisServerConfig {
    let at_url = field(AT, "url");
    let server_url = url(&at_url, &redis.url, ServerUrl::REDIS, context);
    if redis.sentinel.is_some() && redis.cluster.is_some() {
        context.error(AT, "has both `sentinel` and `cluster`; keep one of them");
    }
    check_parts(&at_url, &server_url, redis, context);
    let (topology, nodes) = match (&redis.sentinel, &redis.cluster) {
        (Some(sentinel), _) => {
            let nodes = nodes("sentinel", &sentinel.nodes, context);
            (topology(sentinel, context), nodes)
        }
        (None, Some(cluster)) => (
            RedisTopology::Cluster,
            nodes("cluster", &cluster.nodes, context),
        ),
        (None, None) => (RedisTopology::Standalone, Vec::new()),
    };
    RedisServerConfig {
        tls: tls::of_url(AT, redis.tls.as_ref(), (&server_url, "rediss"), context),
        url: server_url,
        topology,
        nodes,
    }
}

/// Reports what a URL says that does not fit: the library would take it for something else, or leave it out.
fn check_parts(
    at: &str,
    server_url: &Redacted,
    redis: &RedisServer,
    context: &mut ValidationContext<'_>,
) {
    let Some((url, _)) = ServerUrl::REDIS.parse(server_url) else {
        return;
    };
    if url.fragment().is_some() {
        context.error(
            at,
            "ends in a fragment, as `#insecure`; trust the server's own authority with `tls: {ca: ...}` instead",
        );
    }
    let database = url.path().trim_start_matches('/');
    if redis.cluster.is_some() && !matches!(database, "" | "0") {
        context.error(
            at,
            "names a database, and a Cluster has only database 0; end the URL after the port",
        );
    }
}

fn topology(sentinel: &RedisSentinel, context: &mut ValidationContext<'_>) -> RedisTopology {
    let at = field(AT, "sentinel");
    if sentinel.username.is_some() && sentinel.password.is_none() {
        context.error(
            &at,
            "has a `username` and no `password`; give both, the password alone, or neither",
        );
    }
    let mut value = |name: &str, source: &Option<ValueSource>| {
        let (_, value) = context.resolve(&field(&at, name), source.as_ref()?)?;
        // Secrets read from files often end in a line break.
        Some(Redacted::new(value.reveal().trim_end_matches(['\r', '\n'])))
    };
    RedisTopology::Sentinel {
        master_name: sentinel.master_name.clone(),
        username: value("username", &sentinel.username),
        password: value("password", &sentinel.password),
    }
}

fn nodes(name: &str, nodes: &[String], context: &mut ValidationContext<'_>) -> Vec<(String, u16)> {
    let mut parsed = Vec::with_capacity(nodes.len());
    for (number, node) in nodes.iter().enumerate() {
        let at = format!("{}/nodes/{number}", field(AT, name));
        match address(node) {
            Some((_, 0)) => context.error(&at, PORT_ZERO),
            Some(address) => parsed.push(address),
            None => context.error(
                &at,
                "is not an address; write host:port, and an address of IPv6 in brackets",
            ),
        }
    }
    parsed
}

/// Splits `host:port`, where brackets are around an address of IPv6.
fn address(node: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(&format!("redis://{node}")).ok()?;
    let only_address = url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && !node.ends_with('/')
        && url.query().is_none()
        && url.fragment().is_none();
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let host = host.trim_matches(['[', ']']).to_owned();
    only_address.then_some((host, url.port()?))
}
