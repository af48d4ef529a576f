//! Validation of destinations and their limits: the rules that their schema cannot say.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rate_limit::rate_limit;
use super::url::url;
use crate::config::{Egress, HostLimit, ProxyConfig, ServerUrl};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{EgressLimit, EgressProxy, EgressRules};
use crate::validation::context::ValidationContext;
use crate::validation::names::is_domain;

/// Validates the rules for destinations, with placeholders for what it reports.
pub(crate) fn check(rules: &EgressRules, context: &mut ValidationContext<'_>) -> Egress {
    let (cidrs, hosts) = parse_entries("/spec/egress/allow", &rules.allow, context);
    let mut egress = Egress {
        cidrs,
        hosts,
        proxy: rules
            .proxy
            .as_ref()
            .map(|proxy| check_proxy(proxy, context)),
        ..Egress::default()
    };
    for (index, limit) in rules.limits.iter().enumerate() {
        let limit = check_limit(&format!("/spec/egress/limits/{index}"), limit, context);
        if egress.limits.iter().any(|other| other.host == limit.host) {
            context.error(
                &format!("/spec/egress/limits/{index}/host"),
                "has limits already, and the first count; make one entry of both",
            );
        }
        egress.limits.push(limit);
    }
    egress
}

fn check_proxy(proxy: &EgressProxy, context: &mut ValidationContext<'_>) -> ProxyConfig {
    let none = "/spec/egress/proxy/noProxy";
    let (direct_cidrs, direct_hosts) = parse_entries(none, &proxy.no_proxy, context);
    ProxyConfig {
        url: url(
            "/spec/egress/proxy/url",
            &proxy.url,
            ServerUrl::PROXY,
            context,
        ),
        direct_cidrs,
        direct_hosts,
    }
}

/// Parses ranges and hosts, and reports what is neither.
fn parse_entries(
    at: &str,
    entries: &[String],
    context: &mut ValidationContext<'_>,
) -> (Vec<IpNet>, Vec<String>) {
    let (mut ranges, mut hosts) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match parse_entry(entry) {
            Ok(AllowEntry::Range(range)) => ranges.push(range),
            Ok(AllowEntry::Host(host)) => hosts.push(host),
            Err(message) => context.error(&format!("{at}/{index}"), message),
        }
    }
    (ranges, hosts)
}

fn check_limit(at: &str, limit: &EgressLimit, context: &mut ValidationContext<'_>) -> HostLimit {
    let host = limit.host.to_ascii_lowercase();
    let address = host.parse::<IpAddr>();
    if host != "*" && address.is_err() && !is_host(&host) {
        context.error(
            &field(at, "host"),
            "is neither a host (`hooks.example.com`), an address (`10.1.2.3`), all hosts below a name \
             (`*.example.com`) nor `*` for each one; leave out scheme, port and path",
        );
    }
    if limit.max_concurrency.is_none() && limit.rate_limit.is_none() {
        context.error(
            at,
            "limits nothing; give `maxConcurrency`, `rateLimit` or both",
        );
    }
    HostLimit {
        host: address.map_or(host, |address| address.to_string()),
        max_concurrency: limit.max_concurrency,
        rate_limit: rate_limit(&field(at, "rateLimit"), limit.rate_limit, context),
    }
}

/// Whether this is a host name, or all hosts below a domain.
fn is_host(host: &str) -> bool {
    let domain = host.strip_prefix("*.").unwrap_or(host);
    // A last label of digits is a mistyped address, which no name server will ever answer for.
    let address = domain
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    is_domain(domain) && !address
}

enum AllowEntry {
    Range(IpNet),
    Host(String),
}

fn parse_entry(entry: &str) -> Result<AllowEntry, String> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Ok(AllowEntry::Range(address.into()));
    }
    if let Ok(range) = entry.parse::<IpNet>() {
        return if range.addr() == range.network() {
            Ok(AllowEntry::Range(range))
        } else {
            Err(format!(
                "names an address within a range; write the range as {}",
                range.trunc()
            ))
        };
    }
    let host = entry.to_ascii_lowercase();
    if is_host(&host) {
        return Ok(AllowEntry::Host(host));
    }
    Err(
        "is neither an address range (`10.0.0.0/8`), an address (`10.1.2.3`), a host \
         (`hooks.internal`) nor all hosts below a name (`*.svc.cluster.local`); leave out scheme, \
         port and path"
            .into(),
    )
}
