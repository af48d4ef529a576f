//! The rules for where actions may connect to, and how much they may send there, that their schema
//! cannot say.

use std::net::IpAddr;

use ipnet::IpNet;

use super::action::rate_limit;
use super::checks::{Checks, is_domain};
use super::report::field;
use crate::config::{Egress, HostLimit};
use crate::resources::{EgressLimit, EgressRules};

/// Turns the rules into what is kept to, with stand-ins for what they report.
pub(super) fn check(rules: &EgressRules, checks: &mut Checks<'_>) -> Egress {
    let mut egress = Egress::default();
    for (index, entry) in rules.allow.iter().enumerate() {
        let at = format!("/spec/egress/allow/{index}");
        match read_entry(entry) {
            Ok(Entry::Range(range)) => egress.cidrs.push(range),
            Ok(Entry::Host(host)) => egress.hosts.push(host),
            Err(message) => checks.wrong(&at, message),
        }
    }
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
    if limit.max_in_flight.is_none() && limit.rate_limit.is_none() {
        checks.wrong(
            at,
            "limits nothing; give `maxInFlight`, `rateLimit` or both",
        );
    }
    HostLimit {
        host: address.map_or(host, |address| address.to_string()),
        max_in_flight: limit.max_in_flight,
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
