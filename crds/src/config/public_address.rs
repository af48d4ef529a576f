//! Which addresses are public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Address ranges of IPv4 that are not public; the first that matches names the reason.
const DENIED_V4: &[(Ipv4Net, &str)] = &[
    (v4(169, 254, 169, 254, 32), "cloud metadata"),
    (v4(168, 63, 129, 16, 32), "cloud metadata"),
    (v4(100, 100, 100, 200, 32), "cloud metadata"),
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "reserved"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmark"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Address ranges of IPv6 that are not public. The last entries are the rule: only
/// `2000::/3` is global unicast, so all the rest is reserved.
const DENIED_V6: &[(Ipv6Net, &str)] = &[
    (
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
        "cloud metadata",
    ),
    (v6([0; 8], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "private"),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "private"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "benchmark"),
    // Holds Teredo, which hides an IPv4 address behind an exclusive or.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "reserved"),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 3), "reserved"),
    (v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2), "reserved"),
    (v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1), "reserved"),
];

/// Prefixes of 96 bits whose last 32 bits are an IPv4 address: mapped, translated,
/// compatible, NAT64.
const EMBEDS_V4: &[Ipv6Net] = &[
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    NAT64,
];

/// Prefix by which NAT64 reaches an IPv4 address.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

/// The public addresses of IPv6, and more.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// The addresses of 6to4, which hold an IPv4 address right after this prefix.
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(
        Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]),
        prefix,
    )
}

/// Returns the address that packets to `address` end up at.
pub(super) fn effective_address(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if v6.is_loopback() || v6.is_unspecified() {
        return address;
    }
    let octets = v6.octets();
    if SIX_TO_FOUR.contains(&v6) {
        return IpAddr::V4(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]));
    }
    if EMBEDS_V4.iter().any(|net| net.contains(&v6)) {
        return IpAddr::V4(Ipv4Addr::new(
            octets[12], octets[13], octets[14], octets[15],
        ));
    }
    address
}

/// Returns which range that is not public an effective address is in, if it is in one.
pub(super) fn denied_range(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => DENIED_V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|(_, range)| *range),
        IpAddr::V6(v6) => DENIED_V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|(_, range)| *range),
    }
}

/// Returns the blocks that hold the public addresses, each with what is not public in it: for IPv4, for IPv6, and for
/// the addresses by which NAT64 reaches the former. Nobody uses 6to4 any more, so none of its addresses is in them.
#[must_use]
pub fn public_blocks() -> Vec<(IpNet, Vec<IpNet>)> {
    let denied = DENIED_V4.iter().map(|(net, _)| *net).collect::<Vec<_>>();
    let denied = Ipv4Net::aggregate(&denied);
    let within = |net: &Ipv4Net| {
        let embedded = u128::from(net.addr().to_bits());
        let address = Ipv6Addr::from_bits(NAT64.addr().to_bits() | embedded);
        Ipv6Net::new_assert(address, NAT64.prefix_len() + net.prefix_len())
    };
    let reserved: Vec<Ipv6Net> = DENIED_V6
        .iter()
        .map(|(net, _)| *net)
        .filter(|net| GLOBAL_UNICAST.contains(net))
        .chain([SIX_TO_FOUR])
        .collect();
    let nets = |nets: Vec<Ipv6Net>| nets.into_iter().map(IpNet::V6).collect();
    vec![
        (
            IpNet::V4(v4(0, 0, 0, 0, 0)),
            denied.iter().copied().map(IpNet::V4).collect(),
        ),
        (
            IpNet::V6(GLOBAL_UNICAST),
            nets(Ipv6Net::aggregate(&reserved)),
        ),
        (IpNet::V6(NAT64), nets(denied.iter().map(within).collect())),
    ]
}

/// Returns whether a pattern, exact or with `*` at its beginning, matches a host.
#[must_use]
pub fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests;
