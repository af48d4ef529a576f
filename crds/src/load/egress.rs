//! The rules for where actions may connect to, and how much they may send there, that their schema
//! cannot say.

use std::net::IpAddr;

use ipnet::IpNet;

use super::action::{rate_limit, url};
use super::checks::{Checks, is_domain};
use super::report::field;
use crate::config::{Egress, HostLimit, ProxyConfig};
use crate::resources::{EgressLimit, EgressProxy, EgressRules};

/// What the URL of a proxy is.
const PROXY: (&[&str], &str) = (
    &["http", "https"],
    "is not the URL of a proxy; write http://user:password@proxy.internal:3128, or https://",
);

/// Turns the rules into what is kept to, with stand-ins for what they report.
pub(super) fn check(rules: &EgressRules, checks: &mut Checks<'_>) -> Egress {
    let (cidrs, hosts) = entries("/spec/egress/allow", &rules.allow, checks);
    let mut egress = Egress {
        cidrs,
        hosts,
        proxy: rules.proxy.as_ref().map(|proxy| check_proxy(proxy, checks)),
        ..Egress::default()
    };
    for (index, limit) in rules.limits.iter().enumerate() {
        let limit = check_limit(&format!("/spec/egress/limits/{index}"), limit, checks);
        if egress.limits.iter().any(|other| other.host == limit.host) {
            checks.wrong(
                &format!("/spec/egress/limits/{index}/host"),
                "has limits already, and the first count; make one entry of both",
            );
        }
        egress.limits.push(limit);
    }
    egress
}

fn check_proxy(proxy: &EgressProxy, checks: &mut Checks<'_>) -> ProxyConfig {
    let none = "/spec/egress/proxy/noProxy";
    let (direct_cidrs, direct_hosts) = entries(none, &proxy.no_proxy, checks);
    ProxyConfig {
        url: url("/spec/egress/proxy/url", &proxy.url, PROXY, checks),
        direct_cidrs,
        direct_hosts,
    }
}

/// Ranges and hosts, with what is neither reported.
fn entries(at: &str, entries: &[String], checks: &mut Checks<'_>) -> (Vec<IpNet>, Vec<String>) {
    let (mut ranges, mut hosts) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match read_entry(entry) {
            Ok(Entry::Range(range)) => ranges.push(range),
            Ok(Entry::Host(host)) => hosts.push(host),
            Err(message) => checks.wrong(&format!("{at}/{index}"), message),
        }
    }
    (ranges, hosts)
}

fn check_limit(at: &str, limit: &EgressLimit, checks: &mut Checks<'_>) -> HostLimit {
    let host = limit.host.to_ascii_lowercase();
    let address = host.parse::<IpAddr>();
    if host != "*" && address.is_err() && !is_host(&host) {
        checks.wrong(
            &field(at, "host"),
            "is neither a host (`hooks.example.com`), an address (`10.1.2.3`), all hosts below a name \
             (`*.example.com`) nor `*` for each one; leave out scheme, port and path",
        );
    }
    if limit.max_concurrency.is_none() && limit.rate_limit.is_none() {
        checks.wrong(
            at,
            "limits nothing; give `maxConcurrency`, `rateLimit` or both",
        );
    }
    HostLimit {
        host: address.map_or(host, |address| address.to_string()),
        max_concurrency: limit.max_concurrency,
        rate_limit: rate_limit(&field(at, "rateLimit"), limit.rate_limit, checks),
    }
}

/// Whether this is a host by name, or all hosts below one.
fn is_host(host: &str) -> bool {
    let domain = host.strip_prefix("*.").unwrap_or(host);
    // A last label of digits is a mistyped address, which no name server will ever answer for.
    let address = domain
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    is_domain(domain) && !address
}

enum Entry {
    Range(IpNet),
    Host(String),
}

fn read_entry(entry: &str) -> Result<Entry, String> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Ok(Entry::Range(address.into()));
    }
    if let Ok(range) = entry.parse::<IpNet>() {
        return if range.addr() == range.network() {
            Ok(Entry::Range(range))
        } else {
            Err(format!(
                "names an address within a range; write the range as {}",
                range.trunc()
            ))
        };
    }
    let host = entry.to_ascii_lowercase();
    if is_host(&host) {
        return Ok(Entry::Host(host));
    }
    Err(
        "is neither an address range (`10.0.0.0/8`), an address (`10.1.2.3`), a host \
         (`hooks.internal`) nor all hosts below a name (`*.svc.cluster.local`); leave out scheme, \
         port and path"
            .into(),
    )
}
