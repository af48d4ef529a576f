//! Where actions may connect to, and how much they may send there, after validation.

use ipnet::IpNet;

use super::{OwnDatabase, RateLimit, Redacted};

/// Exceptions to the rule that actions connect to public addresses only, and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Address ranges that may be dialled although they are not public.
    pub cidrs: Vec<IpNet>,
    /// Host names (lower case, exact, or `*.suffix`) that may resolve to any address.
    pub hosts: Vec<String>,
    /// The login for statements in the listener's own database, where actions may run some.
    pub own_database: Option<OwnDatabase>,
    /// Limits for hosts, of which the first that names a host counts.
    pub limits: Vec<HostLimit>,
    /// What HTTP requests go by.
    pub proxy: Option<ProxyConfig>,
}

/// A proxy that HTTP requests go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The proxy, `http` or `https`, with a host, and with user and password where it asks for them.
    pub url: Redacted,
    /// Addresses that are not reached by it.
    pub direct_cidrs: Vec<IpNet>,
    /// Host names (lower case, exact, or `*.suffix`) that are not reached by it.
    pub direct_hosts: Vec<String>,
}

/// How much may be sent to each host that it names; there is one limit at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimit {
    /// A name or address (lower case, exact), `*.suffix`, or `*`.
    pub host: String,
    /// Most attempts under way at once, in all processes that share a Redis, else in one.
    pub max_concurrency: Option<u32>,
    /// Most attempts within a time.
    pub rate_limit: Option<RateLimit>,
}
