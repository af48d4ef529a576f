//! Where actions may connect to, and how much they may send there, after validation.

use std::net::IpAddr;

use ipnet::IpNet;

use super::public_address::{denied_range, effective_address, host_matches};
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

impl Egress {
    /// Returns which kind of address this is, where an action may not dial it. The host is the name that resolved to
    /// it, or the address itself.
    #[must_use]
    pub fn denied(&self, host: &str, address: IpAddr) -> Option<&'static str> {
        let address = effective_address(address);
        let range = denied_range(address)?;
        let is_allowed =
            self.cidrs.iter().any(|net| net.contains(&address)) || self.is_allowed_host(host);
        (!is_allowed).then_some(range)
    }

    /// Returns whether a host may resolve to any address.
    #[must_use]
    pub fn is_allowed_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.hosts
            .iter()
            .any(|pattern| host_matches(pattern, &host))
    }
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

impl ProxyConfig {
    /// Returns whether requests to a host, a name or an address, bypass the proxy.
    #[must_use]
    pub fn is_bypassed(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            Ok(address) => self.direct_cidrs.iter().any(|net| net.contains(&address)),
            Err(_) => self
                .direct_hosts
                .iter()
                .any(|direct| host_matches(direct, host)),
        }
    }
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
