//! Where actions may connect to.
//!
//! What is judged is the address that is about to be dialled, never the name alone: a name
//! may resolve to anything, and to something else at the next look. Only public addresses
//! pass; a listener's `spec.egress.allow` makes exceptions. An IPv6 address that carries an
//! IPv4 address is judged as the latter, because that is where its packets end up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crds::config::Egress;
use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Address ranges of IPv4 that are not public; the first that matches names the reason.
const REFUSED_V4: &[(Ipv4Net, &str)] = &[
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
/// `2000::/3` is global unicast, so all the rest is reserved whatever its name.
const REFUSED_V6: &[(Ipv6Net, &str)] = &[
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
const CARRIES_V4: &[Ipv6Net] = &[
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(s: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(
        Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]),
        prefix,
    )
}

/// The host may not be dialled. Its address is left out on purpose: who may write an
/// observer need not learn what internal names resolve to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} has no address that may be dialled (it is {range}): if that is intended, add the \
     host or its address range to spec.egress.allow of the ObserverListener"
)]
pub(super) struct Refused {
    /// Host name or literal address.
    host: String,
    /// What kind of address it is.
    range: &'static str,
}

/// Judges addresses, and resolves names to those that pass.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Egress>);

impl Guard {
    pub(super) fn new(egress: &Egress) -> Self {
        Self(Arc::new(egress.clone()))
    }

    /// Refuses a URL whose host is a literal address that may not be dialled. The client
    /// asks its resolver about names only.
    pub(super) fn vet_literal(&self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.vet(&address.to_string(), address)
    }

    /// Whether `address`, which `host` stands for, may be dialled.
    fn vet(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        let address = unmapped(address);
        let Some(range) = refusal(address) else {
            return Ok(());
        };
        if self.0.cidrs.iter().any(|net| net.contains(&address)) || self.trusts(host) {
            return Ok(());
        }
        Err(Refused {
            host: host.to_owned(),
            range,
        })
    }

    /// Whether the host may resolve to any address.
    fn trusts(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.0.hosts.iter().any(|pattern| {
            pattern
                .strip_prefix('*')
                .map_or(*pattern == host, |suffix| {
                    host.len() > suffix.len() && host.ends_with(suffix)
                })
        })
    }

    /// Keeps what may be dialled; an error where that leaves nothing.
    fn select(&self, host: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = None;
        let allowed: Vec<_> = addresses
            .into_iter()
            .filter(|address| {
                self.vet(host, address.ip())
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

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed = guard.select(name.as_str(), found.collect())?;
            Ok::<Addrs, _>(Box::new(allowed.into_iter()))
        })
    }
}

/// The address that packets to `address` end up at.
fn unmapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if v6.is_loopback() || v6.is_unspecified() {
        return address;
    }
    let octets = v6.octets();
    if octets[..2] == [0x20, 0x02] {
        // 6to4 carries it right after its own prefix.
        return IpAddr::V4(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]));
    }
    if CARRIES_V4.iter().any(|net| net.contains(&v6)) {
        return IpAddr::V4(Ipv4Addr::new(
            octets[12], octets[13], octets[14], octets[15],
        ));
    }
    address
}

/// Why an (unmapped) address is not public; `None` where it is.
fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => REFUSED_V4
            .iter()
            .find(|(net, _)| net.contains(&v4))
            .map(|(_, range)| *range),
        IpAddr::V6(v6) => REFUSED_V6
            .iter()
            .find(|(net, _)| net.contains(&v6))
            .map(|(_, range)| *range),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    fn guard(cidrs: &[&str], hosts: &[&str]) -> Guard {
        Guard::new(&Egress {
            cidrs: cidrs.iter().map(|net| net.parse().unwrap()).collect(),
            hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        })
    }

    fn range(address: &str) -> Option<&'static str> {
        refusal(unmapped(address.parse().unwrap()))
    }

    #[test]
    fn every_range_that_is_not_public_is_refused_by_name() {
        for (address, expected) in [
            ("0.0.0.0", "unspecified"),
            ("10.1.2.3", "private"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("100.127.255.255", "carrier-grade NAT"),
            ("100.100.100.200", "cloud metadata"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "cloud metadata"),
            ("169.254.169.254", "cloud metadata"),
            ("169.254.1.1", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "reserved"),
            ("192.0.2.1", "documentation"),
            ("192.168.1.1", "private"),
            ("198.19.255.255", "benchmark"),
            ("198.51.100.7", "documentation"),
            ("203.0.113.7", "documentation"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fe80::1", "link-local"),
            ("fec0::1", "private"),
            ("fc00::1", "private"),
            ("fd12:3456::1", "private"),
            ("fd00:ec2::254", "cloud metadata"),
            ("ff02::1", "multicast"),
            ("2001:db8::1", "documentation"),
            ("3fff::1", "documentation"),
            ("2001:2::1", "benchmark"),
            ("2001:0:4136:e378::1", "reserved"),
            ("64:ff9b:1::a00:1", "reserved"),
            ("100::1", "reserved"),
            ("5f00::1", "reserved"),
            // Disguises of IPv4 addresses.
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:169.254.169.254", "cloud metadata"),
            ("::ffff:0:10.0.0.1", "private"),
            ("::7f00:1", "loopback"),
            ("64:ff9b::a9fe:a9fe", "cloud metadata"),
            ("2002:7f00:1::", "loopback"),
            ("2002:c0a8:101::1", "private"),
        ] {
            assert_eq!(range(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ] {
            assert_eq!(range(address), None, "{address}");
        }
    }

    #[test]
    fn url_spellings_of_an_address_do_not_hide_it() {
        let guard = guard(&[], &[]);
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://127.1:8080/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://[64:ff9b::10.0.0.1]/",
            "https://user:pw@169.254.169.254/latest/meta-data",
        ] {
            assert!(guard.vet_literal(&url.parse().unwrap()).is_err(), "{url}");
        }
        assert!(
            guard
                .vet_literal(&"http://1.1.1.1/".parse().unwrap())
                .is_ok()
        );
    }

    #[test]
    fn the_message_names_host_and_remedy_but_no_path() {
        let url = "http://10.0.0.7/secret/path?token=x".parse().unwrap();
        let message = guard(&[], &[]).vet_literal(&url).unwrap_err().to_string();
        assert!(message.contains("10.0.0.7"), "{message}");
        assert!(message.contains("spec.egress.allow"), "{message}");
        assert!(
            !message.contains("secret") && !message.contains("token"),
            "{message}"
        );
    }

    #[test]
    fn exceptions_are_by_range_or_by_host() {
        let by_range = guard(&["10.0.0.0/8"], &[]);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(by_range.vet("a", address("10.1.1.1")).is_ok());
        assert!(by_range.vet("a", address("::ffff:10.1.1.1")).is_ok());
        assert!(by_range.vet("a", address("192.168.1.1")).is_err());

        let by_host = guard(&[], &["hooks.internal", "*.svc.cluster.local"]);
        for (host, allowed) in [
            ("hooks.internal", true),
            ("HOOKS.internal.", true),
            ("a.svc.cluster.local", true),
            ("a.b.svc.cluster.local", true),
            ("svc.cluster.local", false),
            ("evilsvc.cluster.local", false),
            ("a.hooks.internal", false),
        ] {
            assert_eq!(
                by_host.vet(host, address("10.1.1.1")).is_ok(),
                allowed,
                "{host}"
            );
        }
    }

    #[test]
    fn a_name_keeps_its_allowed_addresses_only() {
        let guard = guard(&[], &[]);
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mixed = vec![socket("10.0.0.1:0"), socket("1.1.1.1:0")];
        assert_eq!(guard.select("h", mixed).unwrap(), [socket("1.1.1.1:0")]);
        assert!(guard.select("h", vec![socket("10.0.0.1:0")]).is_err());
    }

    proptest! {
        #[test]
        fn a_v4_address_in_v6_clothes_is_judged_like_itself(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            let own = refusal(IpAddr::V4(plain));
            let [a, b, c, d] = plain.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for disguise in [
                plain.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ] {
                prop_assert_eq!(refusal(unmapped(IpAddr::V6(disguise))), own);
            }
            if bits > 1 {
                let compatible = Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low);
                prop_assert_eq!(refusal(unmapped(IpAddr::V6(compatible))), own);
            }
        }

        #[test]
        fn nothing_outside_global_unicast_passes(bits: u128) {
            let address = Ipv6Addr::from_bits(bits);
            if let IpAddr::V6(v6) = unmapped(IpAddr::V6(address))
                && refusal(IpAddr::V6(v6)).is_none()
            {
                prop_assert_eq!(v6.segments()[0] >> 13, 1);
            }
        }

        #[test]
        fn an_exception_covers_its_range_and_nothing_else(bits: u32, prefix in 1u8..=32) {
            let net = Ipv4Net::new(Ipv4Addr::new(10, 2, 3, 4), prefix).unwrap().trunc();
            let guard = Guard::new(&Egress { cidrs: vec![net.into()], hosts: vec![] });
            let address = Ipv4Addr::from_bits(bits);
            let passes = guard.vet("h", IpAddr::V4(address)).is_ok();
            let expected = net.contains(&address) || refusal(IpAddr::V4(address)).is_none();
            prop_assert_eq!(passes, expected);
        }
    }
}
