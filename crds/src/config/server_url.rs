//! URLs of servers: which schemes they have, and what is said of others.

use url::Url;

use super::Redacted;

/// Rule for the URL of one kind of server.
#[derive(Clone, Copy, Debug)]
pub struct ServerUrl {
    schemes: &'static [&'static str],
    message: &'static str,
}

impl ServerUrl {
    /// Endpoint of HTTP requests.
    pub const HTTP: Self = Self {
        schemes: &["http", "https"],
        message: "is not a URL that a request can be sent to; write https://host/path or http://host/path",
    };

    /// HTTP proxy.
    pub const PROXY: Self = Self {
        schemes: &["http", "https"],
        message: "is not the URL of a proxy; write http://user:password@proxy.internal:3128, or https://",
    };

    /// Elasticsearch or OpenSearch server.
    pub const SEARCH: Self = Self {
        schemes: &["http", "https"],
        message: "is not the URL of a search server; write https://host:9200",
    };

    /// Redis server.
    pub const REDIS: Self = Self {
        schemes: &["redis", "rediss"],
        message: "is not the URL of a Redis server; write redis://user:password@host:6379/0, or rediss:// for TLS",
    };

    /// NATS server.
    pub const NATS: Self = Self {
        schemes: &["nats", "tls"],
        message: "is not the URL of a NATS server; write nats://user:password@host:4222, or tls://",
    };

    /// Returns what is wrong with a URL that does not parse. It does not hold the URL, which may be a
    /// secret.
    #[must_use]
    pub const fn message(&self) -> &'static str {
        self.message
    }

    /// Parses a URL, and returns it with its host; nothing where it is of another kind.
    #[must_use]
    pub fn parse(&self, url: &Redacted) -> Option<(Url, String)> {
        let url = Url::parse(url.reveal()).ok()?;
        let host = url.host_str().filter(|host| !host.is_empty())?.to_owned();
        self.schemes.contains(&url.scheme()).then_some((url, host))
    }
}
