//! Against real servers: a failover behind a Sentinel, a Cluster that loses a master, TLS.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use observer_redis::{
    ConnectionLimits, RedisConnection, RedisEndpoint, RedisTls, SentinelLogin, Topology,
};
use redis::Script;
use testkit::certs::Certs;
use testkit::servers::redis::{Options, PrivateRedis};
use testkit::servers::redis_groups::{ClusterGroup, MASTER_NAME, SentinelGroup};
use testkit::wait::eventually;

const LIMITS: ConnectionLimits = ConnectionLimits {
    connect_timeout: Duration::from_secs(2),
    response_timeout: Duration::from_secs(2),
    reconnects: 0,
    max_in_flight: 64,
};

/// Counts calls under a key that it is not told, as the scripts of the queue do.
const COUNT: &str = "return redis.call('INCR', KEYS[1] .. 'count')";

async fn count(connection: &RedisConnection) -> Result<u64, redis::RedisError> {
    let script = Script::new(COUNT);
    let call = script.key("observers:{shop/main}:");
    call.invoke_async(&mut connection.clone()).await
}

/// Waits until calls succeed, and returns what the first of them counts.
async fn counts_again(connection: &RedisConnection) -> u64 {
    eventually("calls succeed", async || count(connection).await.ok()).await
}

fn behind_sentinel(group: &SentinelGroup, url: String, nodes: &[u16]) -> RedisEndpoint {
    RedisEndpoint {
        url,
        nodes: nodes
            .iter()
            .map(|port| ("127.0.0.1".to_owned(), *port))
            .collect(),
        topology: Topology::Sentinel {
            master_name: MASTER_NAME.to_owned(),
            login: SentinelLogin {
                username: None,
                password: Some(group.password().to_owned()),
            },
        },
        tls: None,
    }
}

#[tokio::test]
async fn connection_follows_a_failover_that_sentinel_makes() {
    let group = SentinelGroup::start().await.unwrap();
    let endpoint = behind_sentinel(&group, group.url(), &[]);
    let connection = RedisConnection::open(&endpoint, LIMITS).unwrap();
    assert_eq!(counts_again(&connection).await, 1);
    assert_eq!(count(&connection).await.unwrap(), 2);
    group.replica_has_all().await;
    group.first.crash().await.unwrap();
    assert_eq!(
        counts_again(&connection).await,
        3,
        "it has what it was sent"
    );
}

#[tokio::test]
async fn connection_leaves_a_server_that_was_demoted_or_does_not_answer() {
    let group = SentinelGroup::start().await.unwrap();
    let endpoint = behind_sentinel(&group, group.url(), &[]);
    let connection = RedisConnection::open(&endpoint, LIMITS).unwrap();
    assert_eq!(counts_again(&connection).await, 1);
    group.replica_has_all().await;
    // The connection stays open, and the server is a replica now.
    group.fail_over().await;
    assert_eq!(counts_again(&connection).await, 2);
    group.replica_has_all().await;
    // It accepts connections and says nothing.
    let paused = group.second.pid().await.unwrap().to_string();
    let signal = |name: &'static str| {
        let status = std::process::Command::new("kill")
            .args([name, &paused])
            .status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    let counted = counts_again(&connection).await;
    signal("-CONT");
    assert_eq!(counted, 3);
}

#[tokio::test]
async fn further_sentinels_are_asked_where_the_first_is_away() {
    let group = SentinelGroup::start().await.unwrap();
    let away = PrivateRedis::start(&Options::default()).await.unwrap();
    away.stop().await.unwrap();
    let url = format!("redis://:{}@127.0.0.1:{}/", group.password(), away.port());
    let endpoint = behind_sentinel(&group, url, &[group.sentinel.port()]);
    let connection = RedisConnection::open(&endpoint, LIMITS).unwrap();
    assert_eq!(counts_again(&connection).await, 1);
}

#[tokio::test]
async fn sentinel_that_does_not_know_the_name_says_so() {
    let group = SentinelGroup::start().await.unwrap();
    let mut endpoint = behind_sentinel(&group, group.url(), &[]);
    let Topology::Sentinel { master_name, .. } = &mut endpoint.topology else {
        unreachable!()
    };
    "other".clone_into(master_name);
    let connection = RedisConnection::open(&endpoint, LIMITS).unwrap();
    let error = count(&connection).await.unwrap_err();
    assert_eq!(error.kind(), redis::ErrorKind::MasterNameNotFoundBySentinel);
    assert!(!format!("{error} {error:?}").contains(group.password()));
}

#[tokio::test]
async fn cluster_is_followed_to_the_node_that_has_the_slot() {
    let cluster = ClusterGroup::start().await.unwrap();
    let endpoint = RedisEndpoint {
        topology: Topology::Cluster,
        ..RedisEndpoint::standalone(cluster.url())
    };
    let connection = RedisConnection::open(&endpoint, LIMITS).unwrap();
    assert_eq!(counts_again(&connection).await, 1);
    assert_eq!(count(&connection).await.unwrap(), 2);
    let master = cluster.master_of("{shop/main}").await.unwrap();
    cluster.replicas_have_all(master).await;
    master.crash().await.unwrap();
    assert_eq!(counts_again(&connection).await, 3);
    // A process that starts now finds the others by a further node where the first is the one that is gone.
    let url = master.url();
    let nodes = cluster
        .nodes
        .iter()
        .map(|node| ("127.0.0.1".to_owned(), node.port()));
    let endpoint = RedisEndpoint {
        url,
        nodes: nodes.collect(),
        ..endpoint
    };
    let connection = RedisConnection::open(&endpoint, LIMITS).unwrap();
    assert_eq!(counts_again(&connection).await, 4);
}

#[tokio::test]
async fn server_of_a_private_authority_is_reached_by_tls_and_asks_for_a_certificate() {
    let _the_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certs = Certs::make();
    let folder = certs.folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let settings = vec![
        format!("tls-port {port}"),
        format!("tls-cert-file {}", path("server.crt")),
        format!("tls-key-file {}", path("server.key")),
        format!("tls-ca-cert-file {}", path("ca.crt")),
    ];
    let options = Options {
        settings,
        ..Options::default()
    };
    let server = PrivateRedis::start(&options).await.unwrap();
    let url = format!("rediss://:{}@127.0.0.1:{port}/", server.password());
    let endpoint = |ca: bool, identity: bool| RedisEndpoint {
        tls: Some(RedisTls {
            ca: ca.then(|| certs.ca.clone()),
            identity: identity.then(|| certs.client.clone()),
        }),
        ..RedisEndpoint::standalone(&url)
    };
    let connect = |endpoint| RedisConnection::open(&endpoint, LIMITS).unwrap();
    assert_eq!(counts_again(&connect(endpoint(true, true))).await, 1);
    for (ca, identity) in [(false, true), (true, false)] {
        assert!(
            count(&connect(endpoint(ca, identity))).await.is_err(),
            "{ca} {identity}"
        );
    }
}
