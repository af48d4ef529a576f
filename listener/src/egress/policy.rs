//! Egress policy: which addresses actions may connect to.
//!
//! The address that is about to be dialled is checked, never the name alone: a name may resolve to
//! anything, and to something else the next time. Only public addresses
//! pass; a listener's `spec.egress.allow` makes exceptions. An IPv6 address that carries an
//! IPv4 address is checked as the latter, because that is where its packets end up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crds::config::{Egress, HostLimit, host_matches};
use futures::future::BoxFuture;
use reqwest::Proxy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::{Host, Url};

use super::proxy;
use super::response::DeliveryError;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connection timeout for each of several addresses of a host.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(1);

/// Egress to a host is denied. Its address is left out on purpose: authors of observers need not learn
/// what internal names resolve to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "egress to {host} is denied (its address is {range}): if it is intended, add the host or its \
     address range to spec.egress.allow of the ObserverListener"
)]
pub(crate) struct EgressDenied {
    /// Host name or literal address.
    host: String,
    /// Kind of its address.
    range: &'static str,
}

/// Why a host cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Egress to it is denied.
    #[error(transparent)]
    Denied(#[from] EgressDenied),
    /// Its name does not resolve, at least now.
    #[error("the name cannot be resolved")]
    Resolve(#[source] Option<std::io::Error>),
    /// None of its addresses can be connected to.
    #[error("no connection: {0}")]
    Connect(#[source] std::io::Error),
}

impl From<DialError> for DeliveryError {
    fn from(why: DialError) -> Self {
        match why {
            DialError::Denied(refused) => Self::EgressDenied(refused.to_string()),
            DialError::Resolve(_) | DialError::Connect(_) => Self::Unreachable(why.to_string()),
        }
    }
}

/// Resolver of host names.
pub(crate) trait DnsResolver: std::fmt::Debug + Send + Sync {
    /// Resolves a host, a name or a literal, to all its addresses.
    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>>;
}

/// Resolver of the system.
#[derive(Debug)]
struct SystemResolver;

impl DnsResolver for SystemResolver {
    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Egress policy: checks addresses, and resolves names to those that are allowed.
#[derive(Clone, Debug)]
pub(crate) struct EgressPolicy {
    rules: Arc<Egress>,
    resolver: Arc<dyn DnsResolver>,
    /// Name of the proxy, which may be anywhere.
    proxy: Option<Arc<str>>,
}

impl EgressPolicy {
    pub(crate) fn new(egress: &Egress) -> Self {
        Self::by(egress, Arc::new(SystemResolver))
    }

    fn by(egress: &Egress, resolver: Arc<dyn DnsResolver>) -> Self {
        Self {
            proxy: proxy::name(egress).map(Arc::from),
            rules: Arc::new(egress.clone()),
            resolver,
        }
    }

    /// Returns the proxy of HTTP requests, if there is one.
    pub(crate) fn proxy(&self) -> Option<Proxy> {
        proxy::proxy(&self.rules)
    }

    /// Denies a URL whose host is a literal address that may not be dialled. The client asks its resolver
    /// about names only.
    pub(crate) fn check_literal(&self, url: &Url) -> Result<(), EgressDenied> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.check_address(&address.to_string(), address)
    }

    /// Returns why egress to a host that is a literal address is denied, if it is.
    pub(crate) fn denied_literal(&self, host: &str) -> Option<EgressDenied> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = literal.parse().ok()?;
        self.check_address(literal, address).err()
    }

    /// Returns the addresses of a host, a name or a literal, that may be dialled: at least one. Callers
    /// dial one of these, and do not resolve the name again.
    pub(crate) async fn addresses(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let found = self.resolver.resolve_host(literal, port).await;
        let found = found.map_err(|error| DialError::Resolve(Some(error)))?;
        let allowed = self.select(literal, found)?;
        if allowed.is_empty() {
            return Err(DialError::Resolve(None));
        }
        Ok(allowed)
    }

    /// Connects to the first of these addresses that accepts. Of several, none delays the others for long.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let all = self.addresses(host, port).await?;
        let probed: &[SocketAddr] = if all.len() > 1 { &all } else { &[] };
        let probing = probed.iter().map(|address| (address, ADDRESS_TIMEOUT));
        let first = all.first().map(|address| (address, CONNECT_TIMEOUT));
        let mut why = None;
        for (address, patience) in probing.chain(first) {
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(DialError::Connect)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => why = Some(error),
                Err(_) => {
                    let said = format!("no answer within {patience:?}");
                    why = Some(io::Error::new(io::ErrorKind::TimedOut, said));
                }
            }
        }
        Err(why.map_or(DialError::Resolve(None), DialError::Connect))
    }

    /// Checks an address that `host` resolved to.
    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), EgressDenied> {
        let Some(range) = self.rules.denied(host, address) else {
            return Ok(());
        };
        Err(EgressDenied {
            host: host.to_owned(),
            range,
        })
    }

    /// Returns the limits of a host, if it has any.
    pub(crate) fn host_limit(&self, host: &str) -> Option<&HostLimit> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.rules
            .limits
            .iter()
            .find(|limit| host_matches(&limit.host, &host))
    }

    /// Keeps the addresses that may be dialled; an error where that leaves none.
    fn select(
        &self,
        host: &str,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, EgressDenied> {
        let mut refused = None;
        let allowed: Vec<_> = addresses
            .into_iter()
            .filter(|address| {
                self.check_address(host, address.ip())
                    .map_err(|why| refused = Some(why))
                    .is_ok()
            })
            .collect();
        match refused {
            Some(why) if allowed.is_empty() => Err(why),
            _ => Ok(allowed),
        }
    }
}

impl Resolve for EgressPolicy {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.clone();
        Box::pin(async move {
            let found = egress.resolver.resolve_host(name.as_str(), 0).await?;
            if egress.proxy.as_deref() == Some(name.as_str()) {
                return Ok::<Addrs, _>(Box::new(found.into_iter()));
            }
            let allowed = egress.select(name.as_str(), found)?;
            Ok::<Addrs, _>(Box::new(allowed.into_iter()))
        })
    }
}

#[cfg(test)]
mod tests;
