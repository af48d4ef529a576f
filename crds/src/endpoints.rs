//! What a listener and its observers connect to, as their configuration tells: hosts and ports. Logins, paths and
//! parameters of URLs are left behind.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::EnvVar;
use url::Url;

use crate::config::{
    ActionKind, ListenerConfig, LookupKind, ObserverConfig, Redacted, RedisServerConfig,
    RedisTopology, SearchBackend, SourceConfig,
};

/// Port of Postgres where a URL names none.
const POSTGRES_PORT: u16 = 5432;

/// Port of Redis where a URL names none.
const REDIS_PORT: u16 = 6379;

/// Port of NATS where a URL names none.
const NATS_PORT: u16 = 4222;

/// Ports of a collector whose address is not known: of OTLP by gRPC, and by HTTP.
const OTLP_PORTS: [u16; 2] = [4317, 4318];

/// Environment variables that hold the address of a collector.
const OTLP_ENDPOINTS: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
];

/// A server that processes of a listener connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where it is.
    pub host: EndpointHost,
    /// TCP port.
    pub port: u16,
    /// Rule for its address.
    pub access: EndpointAccess,
    /// Whether it names further servers, which are connected to as well.
    pub is_bootstrap: bool,
}

/// Host of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointHost {
    /// A literal address.
    Address(IpAddr),
    /// A name, in lower case and without a dot at its end.
    Name(String),
    /// Only the process knows it.
    Unknown,
}

/// Rule for the address of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAccess {
    /// It is the listener's own, and may be at any address.
    Any,
    /// It is an observer's, so `spec.egress` applies.
    Restricted,
    /// The same, and HTTP requests to it go by the proxy, if there is one.
    RestrictedHttp,
}

impl Endpoint {
    /// An endpoint that names no others.
    #[must_use]
    pub fn new(host: &str, port: u16, access: EndpointAccess) -> Self {
        Self {
            host: EndpointHost::parse(host),
            port,
            access,
            is_bootstrap: false,
        }
    }

    fn bootstrap(self) -> Self {
        Self {
            is_bootstrap: true,
            ..self
        }
    }
}

impl EndpointHost {
    /// Parses the host of a URL.
    fn parse(host: &str) -> Self {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = literal.parse::<IpAddr>() {
            return Self::Address(address.to_canonical());
        }
        match host.strip_suffix('.').unwrap_or(host) {
            "" => Self::Unknown,
            name => Self::Name(name.to_ascii_lowercase()),
        }
    }
}

/// Returns the endpoints of a listener, without those of its observers.
#[must_use]
pub fn of_listener(listener: &ListenerConfig) -> BTreeSet<Endpoint> {
    let any = EndpointAccess::Any;
    let mut found = BTreeSet::from([of_postgres(&listener.database_url, any)]);
    match &listener.source {
        SourceConfig::Triggers(_) => {}
        SourceConfig::Wal(source) => {
            found.insert(of_postgres(&source.database_url, any));
        }
        SourceConfig::Kafka(source) => found.extend(of_brokers(&source.brokers, any)),
    }
    if let Some(own) = &listener.egress.own_database {
        found.insert(of_postgres(&own.url, any));
    }
    if let Some(redis) = &listener.queue.redis {
        found.extend(of_redis(redis));
    }
    if let Some(search) = &listener.search
        && let SearchBackend::Elasticsearch(server) = &search.backend
    {
        found.insert(of_http(&server.url, any));
    }
    if let Some(proxy) = &listener.egress.proxy {
        found.insert(of_http(&proxy.url, any));
    }
    found
}

/// Returns the endpoints of an observer: those of its lookups and actions.
#[must_use]
pub fn of_observer(observer: &ObserverConfig) -> BTreeSet<Endpoint> {
    use EndpointAccess::{Restricted, RestrictedHttp};
    let mut found = BTreeSet::new();
    for lookup in &observer.enrich {
        match &lookup.kind {
            LookupKind::Postgres(query) => {
                found.extend(query.url.iter().map(|url| of_postgres(url, Restricted)));
            }
            LookupKind::Http(request) => {
                found.insert(of_http(&request.url, RestrictedHttp));
            }
        }
    }
    for action in &observer.actions {
        match &action.kind {
            ActionKind::Webhook(webhook) => {
                found.insert(of_http(&webhook.url, RestrictedHttp));
            }
            ActionKind::Slack(slack) => {
                found.insert(of_http(&slack.url, RestrictedHttp));
            }
            ActionKind::Teams(teams) => {
                found.insert(of_http(&teams.url, RestrictedHttp));
            }
            ActionKind::Email(email) => {
                found.insert(Endpoint::new(&email.smtp.host, email.smtp.port, Restricted));
            }
            ActionKind::Postgres(statement) => {
                found.extend(statement.url.iter().map(|url| of_postgres(url, Restricted)));
            }
            ActionKind::Redis(redis) => {
                found.insert(of_url(&redis.url, REDIS_PORT, Restricted));
            }
            ActionKind::Nats(nats) => {
                found.insert(of_url(&nats.url, NATS_PORT, Restricted));
            }
            ActionKind::Kafka(kafka) => found.extend(of_brokers(&kafka.brokers, Restricted)),
            ActionKind::Log(_) => {}
        }
    }
    found
}

/// Returns the collectors that the environment of a process names. A value that comes from elsewhere is not known.
#[must_use]
pub fn of_environment(variables: &[EnvVar]) -> BTreeSet<Endpoint> {
    let mut found = BTreeSet::new();
    for variable in variables {
        if !OTLP_ENDPOINTS.contains(&&*variable.name) {
            continue;
        }
        let value = variable.value.as_deref().unwrap_or_default();
        if value.is_empty() && variable.value_from.is_none() {
            continue;
        }
        // An address without a scheme is one of HTTP.
        let scheme = if value.contains("://") { "" } else { "http://" };
        let url = Url::parse(&format!("{scheme}{value}")).ok();
        let url = url.filter(Url::has_host);
        if let Some(url) = url
            && !value.contains("$(")
        {
            found.insert(of_url(&Redacted::new(url), 443, EndpointAccess::Any));
        } else {
            let port = port_at_end(value);
            let ports = port.map_or(OTLP_PORTS.to_vec(), |port| vec![port]);
            let unknown = |port| Endpoint::new("", port, EndpointAccess::Any);
            found.extend(ports.into_iter().map(unknown));
        }
    }
    found
}

/// Returns the port of a URL whose host refers to other variables, as `http://$(HOST_IP):4318`.
fn port_at_end(url: &str) -> Option<u16> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next()?;
    authority.rsplit_once(':')?.1.parse().ok()
}

fn of_brokers(
    brokers: &[(String, u16)],
    access: EndpointAccess,
) -> impl Iterator<Item = Endpoint> + '_ {
    brokers
        .iter()
        .map(move |(host, port)| Endpoint::new(host, *port, access).bootstrap())
}

fn of_redis(redis: &RedisServerConfig) -> BTreeSet<Endpoint> {
    let any = EndpointAccess::Any;
    let one = of_url(&redis.url, REDIS_PORT, any);
    let more = redis
        .nodes
        .iter()
        .map(|(host, port)| Endpoint::new(host, *port, any));
    let all = std::iter::once(one.clone()).chain(more);
    match redis.topology {
        RedisTopology::Standalone => [one].into(),
        RedisTopology::Cluster => all.map(Endpoint::bootstrap).collect(),
        // The server that Sentinels name has a port of its own.
        RedisTopology::Sentinel { .. } => all
            .flat_map(|sentinel| {
                let server = Endpoint {
                    port: REDIS_PORT,
                    ..sentinel.clone().bootstrap()
                };
                [sentinel, server]
            })
            .collect(),
    }
}

fn of_http(url: &Redacted, access: EndpointAccess) -> Endpoint {
    of_url(url, 443, access)
}

/// Returns the endpoint of a URL, with the port of its scheme or else this one.
fn of_url(url: &Redacted, port: u16, access: EndpointAccess) -> Endpoint {
    let url = Url::parse(url.reveal()).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let known = url.as_ref().and_then(Url::port_or_known_default);
    Endpoint::new(host, known.unwrap_or(port), access)
}

/// Returns the endpoint of the URL of a database, whose host and port may also be parameters.
fn of_postgres(url: &Redacted, access: EndpointAccess) -> Endpoint {
    let mut endpoint = of_url(url, POSTGRES_PORT, access);
    let Ok(url) = Url::parse(url.reveal()) else {
        return endpoint;
    };
    for (name, value) in url.query_pairs() {
        match &*name {
            "host" | "hostaddr" => endpoint.host = EndpointHost::parse(&value),
            "port" => endpoint.port = value.parse().unwrap_or(endpoint.port),
            _ => {}
        }
    }
    endpoint
}

#[cfg(test)]
mod tests;
