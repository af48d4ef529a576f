#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;
use crate::config::Egress;

fn range(address: &str) -> Option<&'static str> {
    denied_range(effective_address(address.parse().unwrap()))
}

#[test]
fn every_range_that_is_not_public_is_denied_by_name() {
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
fn public_blocks_hold_no_denied_address() {
    let blocks = public_blocks();
    assert_eq!(blocks.len(), 3);
    for (block, except) in &blocks {
        assert!(!except.is_empty());
        assert!(except.iter().all(|net| block.contains(net) && net != block));
        assert!(
            except.is_sorted() && IpNet::aggregate(except) == *except,
            "{except:?}"
        );
    }
    for address in ["2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1"] {
        let address: IpAddr = address.parse().unwrap();
        assert!(!is_in_public_blocks(address), "{address}");
    }
}

fn is_in_public_blocks(address: IpAddr) -> bool {
    public_blocks().iter().any(|(block, except)| {
        block.contains(&address) && !except.iter().any(|net| net.contains(&address))
    })
}

proptest! {
    #[test]
    fn embedded_v4_address_is_checked_as_v4(bits: u32) {
        let plain = Ipv4Addr::from_bits(bits);
        let own = denied_range(IpAddr::V4(plain));
        let [a, b, c, d] = plain.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        for disguise in [
            plain.to_ipv6_mapped(),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        ] {
            prop_assert_eq!(denied_range(effective_address(IpAddr::V6(disguise))), own);
        }
        if bits > 1 {
            let compatible = Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low);
            prop_assert_eq!(denied_range(effective_address(IpAddr::V6(compatible))), own);
        }
    }

    #[test]
    fn nothing_outside_global_unicast_passes(bits: u128) {
        let address = Ipv6Addr::from_bits(bits);
        if let IpAddr::V6(v6) = effective_address(IpAddr::V6(address))
            && denied_range(IpAddr::V6(v6)).is_none()
        {
            prop_assert_eq!(v6.segments()[0] >> 13, 1);
        }
    }

    #[test]
    fn public_blocks_hold_what_passes(v4: u32, v6: u128, prefix in 0usize..3) {
        let high = [0x2000 << 112, 0x64_ff9b << 96, 0][prefix];
        let mask = [u128::MAX >> 3, u128::from(u32::MAX), u128::MAX][prefix];
        let v6 = Ipv6Addr::from_bits(high | (v6 & mask));
        for address in [IpAddr::V4(Ipv4Addr::from_bits(v4)), IpAddr::V6(v6)] {
            let within = is_in_public_blocks(address);
            let is_denied = denied_range(effective_address(address)).is_some();
            // Of the disguises, the blocks have those of NAT64 alone.
            let is_disguise = effective_address(address) != address && prefix != 1;
            if is_disguise {
                prop_assert!(!within, "{}", address);
            } else {
                prop_assert_eq!(within, !is_denied, "{}", address);
            }
        }
    }

    #[test]
    fn an_exception_covers_its_range_and_nothing_else(bits: u32, prefix in 1u8..=32) {
        let net = Ipv4Net::new(Ipv4Addr::new(10, 2, 3, 4), prefix).unwrap().trunc();
        let egress = Egress { cidrs: vec![net.into()], ..Egress::default() };
        let address = Ipv4Addr::from_bits(bits);
        let passes = egress.denied("h", IpAddr::V4(address)).is_none();
        let expected = net.contains(&address) || denied_range(IpAddr::V4(address)).is_none();
        prop_assert_eq!(passes, expected);
    }
}
