//! What holds for the policy of any observers.

use std::net::IpAddr;

use crds::v1alpha1::Observer;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{BASE_PORTS, Destination, admits, observer, pod, policy};

/// A server that an observer names, and where its address may lead.
#[derive(Clone, Debug)]
struct Server {
    host: String,
    port: u16,
    destinations: Vec<Destination>,
}

fn public() -> impl Strategy<Value = IpAddr> {
    // 1.0.0.0/8 and 2600::/8 have nothing that is reserved.
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4((0x0100_0000 | (bits & 0xff_ffff)).into())),
        any::<u128>().prop_map(|bits| IpAddr::V6((0x26_u128 << 120 | bits >> 8).into())),
    ]
}

fn server() -> impl Strategy<Value = Server> {
    let label = || "[a-z]{1,8}";
    let served = |host: String, namespace: String, port: u16, own: u16| Server {
        host,
        port,
        destinations: vec![Destination::Pod(namespace, own)],
    };
    let at = |host: String, address: IpAddr, port: u16| Server {
        host,
        port,
        destinations: vec![Destination::Address(address, port)],
    };
    let host = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let ports = || 1u16..;
    prop_oneof![
        // Literal addresses, public and in the range that the listener allows.
        (public(), ports()).prop_map(move |(address, port)| at(host(address), address, port)),
        (any::<u16>(), ports()).prop_map(move |(bits, port)| {
            let address = IpAddr::V4((0x0a14_0000 | u32::from(bits)).into());
            at(address.to_string(), address, port)
        }),
        // Services, whose pods have ports of their own.
        (label(), ports(), ports()).prop_map(move |(a, port, own)| served(
            a,
            "web".to_owned(),
            port,
            own
        )),
        (
            label(),
            label(),
            prop_oneof![Just(""), Just(".svc"), Just(".svc.cluster.local")],
            ports(),
            ports()
        )
            .prop_map(move |(a, namespace, end, port, own)| {
                served(format!("{a}.{namespace}{end}"), namespace, port, own)
            }),
        (label(), label(), ports(), ports()).prop_map(move |(a, namespace, port, own)| {
            served(format!("{a}-0.{a}.{namespace}"), namespace, port, own)
        }),
        // Other names, which resolve to what is public or allowed; one may resolve to any address.
        (label(), public(), ports()).prop_map(move |(a, address, port)| at(a, address, port)),
        (label(), public(), ports()).prop_map(move |(a, address, port)| at(
            format!("{a}.example.com"),
            address,
            port
        )),
        (label(), any::<u16>(), ports()).prop_map(move |(a, bits, port)| {
            let address = IpAddr::V4((0x0a14_0000 | u32::from(bits)).into());
            at(format!("{a}.example.com"), address, port)
        }),
        (label(), any::<u16>(), ports()).prop_map(move |(a, bits, port)| {
            let address = IpAddr::V4((0xc0a8_0000 | u32::from(bits)).into());
            at(format!("{a}.internal"), address, port)
        }),
    ]
}

/// Returns an action that connects to a server, with secrets in all that is not host and port.
fn action(server: &Server, kind: usize) -> Value {
    let Server { host, port, .. } = server;
    let scheme = ["http", "postgres", "redis", "nats"][kind];
    let url = json!({ "value": format!("{scheme}://s3cret:s3cret@{host}:{port}/s3cret?application_name=s3cret") });
    match kind {
        0 => json!({ "webhook": { "url": url } }),
        1 => json!({ "postgres": { "url": url, "statement": "select 1" } }),
        2 => {
            let url = json!({ "value": format!("redis://s3cret:s3cret@{host}:{port}/0") });
            json!({ "redis": { "url": url, "publish": { "channel": "s3cret" } } })
        }
        _ => json!({ "nats": { "url": url, "subject": "s3cret" } }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_endpoint_is_admitted_and_no_secret_is_shown(
        servers in proptest::collection::vec((server(), 0usize..4), 1..12),
        rotation in 0usize..12,
    ) {
        let spec = json!({ "egress": { "allow": ["10.20.0.0/16", "*.internal"] } });
        let mut observers: Vec<Observer> = servers
            .iter()
            .enumerate()
            .map(|(n, (server, kind))| observer(n, &[action(server, *kind)]))
            .collect();
        let policy_before = policy(&spec, &observers);
        for to in servers.iter().flat_map(|(server, _)| &server.destinations) {
            prop_assert!(admits(&policy_before, to), "{to:?} {policy_before}");
        }
        prop_assert!(!policy_before.to_string().contains("s3cret"));
        let at = rotation % observers.len();
        observers.rotate_left(at);
        prop_assert_eq!(policy(&spec, &observers), policy_before);
    }

    #[test]
    fn nothing_private_is_admitted_that_nobody_allows(
        servers in proptest::collection::vec((server(), 0usize..4), 0..12),
        bits: u16,
        port in 1u16..,
    ) {
        prop_assume!(!BASE_PORTS.contains(&port));
        let observers: Vec<Observer> = servers
            .iter()
            .enumerate()
            .map(|(n, (server, kind))| observer(n, &[action(server, *kind)]))
            .collect();
        let policy = policy(&json!({}), &observers);
        let private = IpAddr::V4((0xc0a8_0000 | u32::from(bits)).into());
        prop_assert!(!admits(&policy, &Destination::Address(private, port)));
        prop_assert!(!admits(&policy, &pod("kube-system", port)));
    }
}
