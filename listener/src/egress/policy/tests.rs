#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crds::config::ActionKind;
use crds::loader::load;
use crds::manifest::SourceFile;
use testkit::wait::Patience;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::actions::Action;
use crate::actions::fixture::{action, delivery, now};
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointRegistry;
use crate::cache::ResultCache;
use crate::cache::metrics::CacheMetrics;
use crate::delivery::failure::FailureKind;
use crate::delivery::outcome::Outcome;
use crate::egress::http_client;
use crate::telemetry::lookup_metrics::LookupMetrics;

fn egress(cidrs: &[&str], hosts: &[&str]) -> EgressPolicy {
    EgressPolicy::new(&Egress {
        cidrs: cidrs.iter().map(|net| net.parse().unwrap()).collect(),
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        ..Egress::default()
    })
}

#[test]
fn first_matching_host_limit_applies() {
    let limit = |host: &str, most| HostLimit {
        host: host.to_owned(),
        max_concurrency: Some(most),
        rate_limit: None,
    };
    let limits = vec![
        limit("api.example.com", 1),
        limit("*.example.com", 2),
        limit("10.0.0.7", 3),
        limit("*", 4),
    ];
    let most = |limits: &[HostLimit], host: &str| {
        let egress = EgressPolicy::new(&Egress {
            limits: limits.to_vec(),
            ..Egress::default()
        });
        egress
            .host_limit(host)
            .and_then(|limit| limit.max_concurrency)
    };
    for (host, expected) in [
        ("api.example.com", 1),
        ("API.example.com.", 1),
        ("x.api.example.com", 2),
        ("example.com", 4),
        ("10.0.0.7", 3),
        ("10.0.0.8", 4),
    ] {
        assert_eq!(most(&limits, host), Some(expected), "{host}");
    }
    assert_eq!(most(&limits[..3], "example.com"), None);
}

#[tokio::test]
async fn literal_addresses_are_checked_in_every_notation() {
    let closed = egress(&[], &[]);
    for literal in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "0",
        "[::1]",
        "::1",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "localhost",
    ] {
        let answer = closed.addresses(literal, 80).await;
        assert!(
            matches!(answer, Err(DialError::Denied(_))),
            "{literal}: {answer:?}"
        );
    }
    let open = egress(&["127.0.0.0/8"], &[]);
    let dialled = open.addresses("2130706433", 80).await.unwrap();
    assert_eq!(dialled, ["127.0.0.1:80".parse().unwrap()]);
    let unknown = open.addresses("nowhere.invalid", 80).await;
    assert!(matches!(unknown, Err(DialError::Resolve(_))), "{unknown:?}");
}

#[test]
fn url_spellings_of_an_address_do_not_hide_it() {
    let egress = egress(&[], &[]);
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
        assert!(
            egress.check_literal(&url.parse().unwrap()).is_err(),
            "{url}"
        );
    }
    assert!(
        egress
            .check_literal(&"http://1.1.1.1/".parse().unwrap())
            .is_ok()
    );
}

#[test]
fn the_message_names_host_and_remedy_but_no_path() {
    let url = "http://10.0.0.7/secret/path?token=x".parse().unwrap();
    let message = egress(&[], &[])
        .check_literal(&url)
        .unwrap_err()
        .to_string();
    assert!(message.contains("10.0.0.7"), "{message}");
    assert!(message.contains("spec.egress.allow"), "{message}");
    assert!(
        !message.contains("secret") && !message.contains("token"),
        "{message}"
    );
}

#[test]
fn exceptions_are_by_range_or_by_host() {
    let by_range = egress(&["10.0.0.0/8"], &[]);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(by_range.check_address("a", address("10.1.1.1")).is_ok());
    assert!(
        by_range
            .check_address("a", address("::ffff:10.1.1.1"))
            .is_ok()
    );
    assert!(by_range.check_address("a", address("192.168.1.1")).is_err());

    let by_host = egress(&[], &["hooks.internal", "*.svc.cluster.local"]);
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
            by_host.check_address(host, address("10.1.1.1")).is_ok(),
            allowed,
            "{host}"
        );
    }
}

#[test]
fn a_name_keeps_its_allowed_addresses_only() {
    let egress = egress(&[], &[]);
    let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
    let mixed = vec![socket("10.0.0.1:0"), socket("1.1.1.1:0")];
    assert_eq!(egress.select("h", mixed).unwrap(), [socket("1.1.1.1:0")]);
    assert!(egress.select("h", vec![socket("10.0.0.1:0")]).is_err());
}

/// Names that have one address at a time, and another at each look.
#[derive(Debug)]
struct Fickle {
    addresses: [IpAddr; 2],
    looks: AtomicUsize,
}

impl DnsResolver for Fickle {
    fn resolve_host<'a>(
        &'a self,
        _host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        let address = self.addresses[look % 2];
        Box::pin(async move { Ok(vec![SocketAddr::new(address, port)]) })
    }
}

/// Counts the connections to an address, and ends each.
fn count(socket: TcpListener) -> (Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let counting = tokio::spawn(async move {
        while socket.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (count, AbortOnDropHandle::new(counting))
}

#[tokio::test]
async fn rebound_name_leads_nowhere_else() {
    // Wherever what may be dialled is, there is a trap at the same port of another address.
    let (allowed, trap) = loop {
        let allowed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = allowed.local_addr().unwrap().port();
        if let Ok(trap) = TcpListener::bind(("127.0.0.2", port)).await {
            break (allowed, trap);
        }
    };
    let port = allowed.local_addr().unwrap().port();
    let ((reached, _one), (trapped, _other)) = (count(allowed), count(trap));
    let egress = Egress {
        cidrs: vec!["127.0.0.1/32".parse().unwrap()],
        ..Egress::default()
    };
    for kind in kinds("shop.example.com", port) {
        for first in 0..2 {
            let names = Fickle {
                addresses: [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)].map(IpAddr::V4),
                looks: AtomicUsize::new(first),
            };
            let egress = EgressPolicy::by(&egress, Arc::new(names));
            let runtime = ActionRuntime {
                lookups: LookupMetrics::new().unwrap(),
                results: ResultCache::new(CacheMetrics::new().unwrap()),
                cache_ttl: Duration::from_mins(1),
                listener: Arc::from("shop/main"),
                revision: 0,
                http: http_client::client(&egress).unwrap(),
                egress,
                endpoints: EndpointRegistry::default(),
                own_database: None,
                redis_limiter: None,
                max_concurrency: 1,
            };
            let before = reached.load(Ordering::Relaxed);
            let mut config = action(kind.clone());
            config.timeout = Duration::from_millis(500);
            let action = Action::compile(&config, &runtime).unwrap();
            let mut refused = 0;
            let mut patience = Patience::default();
            // Four attempts, or as many more as do not come to a second look in their time.
            for n in 1.. {
                let event = delivery(None, Some(r#"{"id": 7}"#));
                let outcome = action.attempt(&event, now()).await;
                refused += usize::from(matches!(
                    outcome,
                    Outcome::Rejected(failure) if failure.kind == FailureKind::Egress
                ));
                if n >= 4 && (refused > 0 || first == 0 || !patience.lasts()) {
                    break;
                }
            }
            // Some keep what they were told first.
            assert!(
                refused > 0 || first == 0,
                "{action:?} was refused what it may not dial"
            );
            let dialled = reached.load(Ordering::Relaxed) - before;
            println!("{action:?}: {refused} refused, {dialled} dialled");
            assert_eq!(trapped.load(Ordering::Relaxed), 0, "{action:?}");
        }
    }
    assert!(reached.load(Ordering::Relaxed) > 0);
}

/// An action of each kind that goes somewhere.
fn kinds(host: &str, port: u16) -> Vec<ActionKind> {
    let file = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\nmetadata: {{name: l}}\n\
         spec: {{database: {{url: {{value: 'postgres://h/d'}}}}}}\n---\n\
         apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: o}}\nspec:\n  \
         events: {{entity: public.e}}\n  actions:\n  \
         - {{name: a, webhook: {{url: {{value: 'http://{host}:{port}/'}}}}}}\n  \
         - {{name: b, slack: {{url: {{value: 'https://{host}:{port}/'}}, text: a}}}}\n  \
         - {{name: c, email: {{smtp: {{host: {host}, port: {port}, tls: None}}, from: a@b.c, to: [a@b.c], subject: a, text: a}}}}\n  \
         - {{name: d, postgres: {{url: {{value: 'postgres://u:p@{host}:{port}/d'}}, statement: select 1}}}}\n  \
         - {{name: e, redis: {{url: {{value: 'redis://{host}:{port}'}}, delete: {{keys: [a]}}}}}}\n  \
         - {{name: f, nats: {{url: {{value: 'nats://{host}:{port}'}}, subject: a}}}}\n  \
         - {{name: g, kafka: {{brokers: ['{host}:{port}'], topic: a}}}}\n"
    );
    let file = SourceFile {
        path: "f.yaml".into(),
        text: file,
    };
    let loaded = load(&[file], &|_, _| None, None).unwrap();
    let observer = loaded.bundle.observers.into_iter().next().unwrap();
    observer
        .actions
        .into_iter()
        .map(|action| action.kind)
        .collect()
}

/// One name with these addresses.
#[derive(Debug)]
struct Several(Vec<IpAddr>);

impl DnsResolver for Several {
    fn resolve_host<'a>(
        &'a self,
        _host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, std::io::Result<Vec<SocketAddr>>> {
        let all = self.0.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        Box::pin(async move { Ok(all) })
    }
}

#[tokio::test]
async fn first_reachable_address_is_dialled() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = socket.local_addr().unwrap();
    let gone = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    let egress = Egress {
        cidrs: vec!["127.0.0.0/8".parse().unwrap()],
        ..Egress::default()
    };
    for all in [vec![gone, here.ip()], vec![here.ip(), gone]] {
        let egress = EgressPolicy::by(&egress, Arc::new(Several(all)));
        let dialled = egress.dial("shop.example.com", here.port()).await;
        assert_eq!(dialled.unwrap().peer_addr().unwrap(), here);
    }
    let egress = EgressPolicy::by(&egress, Arc::new(Several(vec![gone, gone])));
    let dialled = egress.dial("shop.example.com", here.port()).await;
    let error = dialled.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}
