//! What the pods of a listener may connect to, judged by an evaluator of policies that knows nothing of how they are
//! derived.

mod properties;

use std::net::IpAddr;
use std::sync::Arc;

use crds::bundle::{CheckedObservers, Namespaces, compile};
use crds::config::Egress;
use crds::endpoints::{Endpoint, EndpointAccess};
use crds::v1alpha1::{Observer, ObserverListener};
use ipnet::IpNet;
use observer_operator::listener::build::{ListenerResources, network_policy};
use observer_operator::listener::derived_egress::{DerivedEgress, MAX_ENTRIES};
use serde_json::{Value, json};

use crate::golden::{compare, installation, listener};

/// Ports that are open to everywhere in each derived policy: of DNS and of the API server.
const BASE_PORTS: [u16; 4] = [53, 443, 5353, 6443];

/// Where a connection over TCP leads to once a Service's address was replaced.
#[derive(Clone, Debug)]
enum Destination {
    /// An address that is no pod's.
    Address(IpAddr, u16),
    /// A pod in a namespace. As in Cilium, no block of addresses stands for it.
    Pod(String, u16),
}

impl Destination {
    fn port(&self) -> u16 {
        match self {
            Self::Address(_, port) | Self::Pod(_, port) => *port,
        }
    }
}

/// Returns whether a policy admits a connection from the pods that it selects.
fn admits(policy: &Value, to: &Destination) -> bool {
    let spec = &policy["spec"];
    let types = spec["policyTypes"].as_array().unwrap();
    if !types.contains(&json!("Egress")) {
        return true;
    }
    let rules = spec["egress"].as_array().unwrap();
    rules.iter().any(|rule| {
        let any = |field: &str, matches: &dyn Fn(&Value) -> bool| match rule[field].as_array() {
            None => true,
            Some(all) => {
                assert!(!all.is_empty(), "an empty list admits everything: {rule}");
                all.iter().any(matches)
            }
        };
        any("ports", &|port| {
            assert_eq!(port["endPort"], Value::Null);
            let number = &port["port"];
            port["protocol"] == "TCP" && (number.is_null() || *number == json!(to.port()))
        }) && any("to", &|peer| is_peer(peer, to))
    })
}

fn is_peer(peer: &Value, to: &Destination) -> bool {
    assert_eq!(peer.as_object().unwrap().len(), 1, "{peer}");
    let net = |text: &Value| text.as_str().unwrap().parse::<IpNet>().unwrap();
    match to {
        Destination::Address(address, _) => {
            let block = &peer["ipBlock"];
            let except = block["except"].as_array();
            !block.is_null()
                && net(&block["cidr"]).contains(address)
                && !except.is_some_and(|all| all.iter().any(|one| net(one).contains(address)))
        }
        Destination::Pod(namespace, _) => match peer["namespaceSelector"].as_object() {
            None => false,
            Some(selector) if selector.is_empty() => true,
            Some(selector) => {
                selector["matchLabels"] == json!({ "kubernetes.io/metadata.name": namespace })
            }
        },
    }
}

fn observer(number: usize, actions: &[Value]) -> Observer {
    let named = |(n, action): (usize, &Value)| {
        let mut action = action.clone();
        action["name"] = json!(format!("a{n}"));
        action
    };
    let actions: Vec<Value> = actions.iter().enumerate().map(named).collect();
    serde_json::from_value(json!({
        "apiVersion": "observers.fraiseql.dev/v1alpha1",
        "kind": "Observer",
        "metadata": { "namespace": "web", "name": format!("o{number}"), "uid": format!("u{number}") },
        "spec": { "events": { "entity": "public.orders" }, "actions": actions },
    }))
    .unwrap()
}

fn webhook(url: &str) -> Value {
    json!({ "webhook": { "url": { "value": url } } })
}

/// Derives the policy of a listener with these observers. What it connects to itself is on this host.
fn policy(spec: &Value, observers: &[Observer]) -> Value {
    let mut listener_spec = json!({
        "database": { "url": { "value": "postgres://shop:s3cret@localhost/shop" } },
        "networkPolicy": { "egress": "Derived" },
    });
    for (name, value) in spec.as_object().unwrap() {
        listener_spec[name] = value.clone();
    }
    let listener = listener(&listener_spec);
    let all: Vec<&Observer> = observers.iter().collect();
    let checked = &mut CheckedObservers::default();
    let made = compile(&listener, &all, &Namespaces::new(), &|_, _| None, checked).unwrap();
    let derived = DerivedEgress::new("web", &made.egress, &made.endpoints);
    built(&listener, derived)
}

fn built(listener: &ObserverListener, derived: DerivedEgress) -> Value {
    let resources = ListenerResources {
        egress: Some(Arc::new(derived)),
        ..ListenerResources::new(listener, 1, &installation())
    };
    serde_json::to_value(network_policy::build(&resources)).unwrap()
}

fn address(text: &str, port: u16) -> Destination {
    Destination::Address(text.parse().unwrap(), port)
}

fn pod(namespace: &str, port: u16) -> Destination {
    Destination::Pod(namespace.to_owned(), port)
}

#[test]
fn derived_policy_of_a_typical_listener() {
    let url = |text: &str| json!({ "url": { "value": text } });
    let spec = json!({
        "database": url("postgres://shop:s3cret@shop-rw.data.svc:5432/shop"),
        "redis": url("redis://:s3cret@10.0.0.9:6380"),
        "egress": { "allow": ["10.20.0.0/16", "crm.internal", "*.svc"] },
    });
    let actions = [
        webhook("https://hooks.example.com/t0ken"),
        webhook("http://user:s3cret@crm.internal:8080/t0ken"),
        webhook("http://orders.billing.svc/t0ken"),
        json!({ "kafka": { "brokers": ["kafka.events.svc:9092"], "topic": "orders" } }),
        json!({ "email": {
            "smtp": { "host": "192.0.9.25", "port": 465, "tls": "Implicit" },
            "from": "a@b.example", "to": ["a@b.example"], "subject": "x", "text": "y",
        } }),
    ];
    compare(
        "networkpolicy-derived.yaml",
        &policy(&spec, &[observer(0, &actions)]),
    );
}

#[test]
fn open_policy_does_not_restrict_egress() {
    let resources = ListenerResources::new(&listener(&json!({})), 1, &installation());
    let policy = serde_json::to_value(network_policy::build(&resources)).unwrap();
    assert!(admits(&policy, &address("10.0.0.1", 7)));
}

#[test]
fn every_derived_policy_admits_dns_and_the_api_server() {
    let policy = policy(&json!({}), &[]);
    for port in BASE_PORTS {
        for to in [
            address("10.96.0.10", port),
            address("169.254.20.10", port),
            address("fd00::a", port),
            pod("kube-system", port),
        ] {
            assert!(admits(&policy, &to), "{to:?}");
        }
    }
    let dns = policy["spec"]["egress"][0]["ports"].as_array().unwrap();
    assert!(dns.contains(&json!({ "port": 53, "protocol": "UDP" })));
    assert!(!admits(&policy, &address("1.1.1.1", 80)));
    assert!(!admits(&policy, &pod("web", 80)));
}

#[test]
fn what_the_proxy_dials_is_not_admitted() {
    let proxy = |no_proxy: &[&str]| {
        json!({ "egress": { "proxy": {
            "url": { "value": "http://u:s3cret@10.0.0.3:3128" }, "noProxy": no_proxy,
        } } })
    };
    let actions = [
        webhook("http://hooks.example.com/"),
        json!({ "redis": { "url": { "value": "redis://cache.example.com" }, "publish": { "channel": "x" } } }),
    ];
    for (no_proxy, is_direct) in [(&[][..], false), (&["*.example.com"], true)] {
        let policy = policy(&proxy(no_proxy), &[observer(0, &actions)]);
        assert!(admits(&policy, &address("10.0.0.3", 3128)));
        assert_eq!(admits(&policy, &address("1.1.1.1", 80)), is_direct);
        assert!(admits(&policy, &address("1.1.1.1", 6379)));
    }
}

#[test]
fn servers_that_others_name_are_admitted() {
    let kafka = json!({ "kafka": { "brokers": ["1.2.3.4:9092"], "topic": "x" } });
    let policy = policy(&json!({}), &[observer(0, &[kafka])]);
    assert!(admits(&policy, &address("1.2.3.5", 9092)));
    assert!(!admits(&policy, &address("10.0.0.1", 9092)));
}

#[test]
fn brokers_open_nothing_because_another_host_is_allowed() {
    let kafka = |brokers: &[&str]| json!({ "kafka": { "brokers": brokers, "topic": "x" } });
    let spec = json!({ "egress": { "allow": ["crm.internal", "*.kafka.svc"] } });
    let denied = kafka(&["hostile.billing.svc:9092", "hostile.example.com:9093"]);
    let allowed = kafka(&["a.kafka.svc:9094"]);
    let policy = policy(&spec, &[observer(0, &[denied, allowed])]);
    for to in [
        pod("billing", 9092),
        address("10.0.0.1", 9092),
        address("10.0.0.1", 9093),
    ] {
        assert!(!admits(&policy, &to), "{to:?}");
    }
    for to in [
        address("1.1.1.1", 9092),
        address("1.1.1.1", 9093),
        pod("kafka", 7),
    ] {
        assert!(admits(&policy, &to), "{to:?}");
    }
}

#[test]
fn what_may_be_a_service_or_another_name_is_admitted_as_both() {
    for (name, namespace, is_certain) in [
        ("db", "web", false),
        ("db.data", "data", false),
        ("db-0.db.data", "data", false),
        ("db.data.svc", "data", true),
        ("db-0.db.data.svc.cluster.local", "data", true),
    ] {
        let own = Endpoint::new(name, 5432, EndpointAccess::Any);
        let policy = policy_of(&Egress::default(), &[own]);
        assert!(admits(&policy, &pod(namespace, 7)), "{name}");
        let elsewhere = admits(&policy, &address("10.9.9.9", 5432));
        assert_eq!(elsewhere, !is_certain, "{name}");
    }
}

#[test]
fn port_0_is_in_no_policy() {
    let of = |host: &str, access| Endpoint::new(host, 0, access);
    let endpoints = [
        of("db.example.com", EndpointAccess::Any),
        of("10.0.0.1", EndpointAccess::Any),
        of("", EndpointAccess::Any),
        of("a.data.svc", EndpointAccess::Any),
        of("hooks.example.com", EndpointAccess::RestrictedHttp),
        of("1.2.3.4", EndpointAccess::Restricted),
    ];
    assert_eq!(
        policy_of(&Egress::default(), &endpoints),
        policy_of(&Egress::default(), &[])
    );
}

#[test]
fn what_egress_rules_deny_is_not_admitted() {
    let actions = [
        webhook("http://169.254.169.254:80/latest"),
        webhook("http://10.0.0.1:8080/"),
        webhook("http://metrics.kube-system.svc:8081/"),
        webhook("http://rebound.example.com:8082/"),
    ];
    let policy = policy(&json!({}), &[observer(0, &actions)]);
    for to in [
        address("169.254.169.254", 80),
        address("10.0.0.1", 8080),
        pod("kube-system", 8081),
        pod("kube-system", 8080),
        address("10.0.0.1", 8082),
        address("fd00::1", 8082),
        address("64:ff9b::a00:1", 8082),
    ] {
        assert!(!admits(&policy, &to), "{to:?}");
    }
    for to in ["1.1.1.1", "2606:4700::1", "64:ff9b::101:101"] {
        assert!(admits(&policy, &address(to, 8082)), "{to}");
    }
}

/// Derives the policy of endpoints of observers, by `spec.egress.allow`.
fn policy_of(allow: &Egress, endpoints: &[Endpoint]) -> Value {
    built(
        &listener(&json!({})),
        DerivedEgress::new("web", allow, endpoints),
    )
}

#[test]
fn thousands_of_observers_make_a_small_policy() {
    let named = |n: usize| {
        let port = |from: usize| u16::try_from(from + n).unwrap();
        let literal = format!("10.0.{}.{}", n / 250, n % 250);
        let endpoint = |host: &str, port| Endpoint::new(host, port, EndpointAccess::Restricted);
        [
            (
                endpoint(&format!("h{n}.eu.example.com"), port(10_000)),
                address("1.1.1.1", port(10_000)),
            ),
            (
                endpoint(&format!("h{n}.eu.corp.internal"), port(20_000)),
                address("192.168.0.1", port(20_000)),
            ),
            (
                endpoint(&format!("a.ns{n}.svc"), 80),
                pod(&format!("ns{n}"), 7),
            ),
            (
                endpoint(&literal, port(30_000)),
                address(&literal, port(30_000)),
            ),
        ]
    };
    let of = |most: usize| {
        let allow = Egress {
            cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            hosts: vec!["*.svc".to_owned(), "*.internal".to_owned()],
            ..Egress::default()
        };
        let (endpoints, destinations): (Vec<_>, Vec<_>) = (0..most).flat_map(named).unzip();
        let policy = policy_of(&allow, &endpoints);
        for to in destinations {
            assert!(admits(&policy, &to), "{to:?}");
        }
        policy
    };
    let (bounded, collapsed) = (of(MAX_ENTRIES), of(5_000));
    for to in [
        address("1.1.1.1", 9_999),
        address("192.168.0.1", 9_999),
        pod("other", 7),
        address("10.0.9.9", 9_999),
    ] {
        assert!(!admits(&bounded, &to), "{to:?}");
    }
    let size = |policy: &Value| policy.to_string().len();
    assert!(size(&bounded) < 48_000, "{}", size(&bounded));
    assert!(size(&collapsed) < 4_000, "{}", size(&collapsed));
}

#[test]
fn no_number_of_observers_opens_what_is_denied_to_each() {
    let one = |n: usize| Endpoint::new(&format!("1.2.3.{n}"), 8080, EndpointAccess::Restricted);
    let endpoints: Vec<Endpoint> = (0..=MAX_ENTRIES).map(one).collect();
    let policy = policy_of(&Egress::default(), &endpoints);
    assert!(admits(&policy, &address("1.2.3.4", 8080)));
    assert!(!admits(&policy, &address("10.0.0.1", 8080)));
}
