#![allow(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use crds::config::{ActionKind, MessageFormat, Redacted, TlsConfig};
use redis::{AsyncCommands, AsyncConnectionConfig, Client};
use testkit::servers::redis::{Options, PrivateRedis};

use super::super::Action;
use super::super::fixture::{action, delivery, final_outcome, now, runtime};
use super::*;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointRegistry;
use crate::delivery::failure::FailureKind;
use crate::delivery::outcome::Outcome;
use crate::egress::test_tls::known;
use testkit::certs::Certs;
use url::Url;

const NEW: &str = r#"{"id": 7}"#;

async fn server() -> (PrivateRedis, MultiplexedConnection) {
    let server = PrivateRedis::start(&Options::default()).await.unwrap();
    let client = Client::open(server.url()).unwrap();
    let connection = patient(&client).await;
    (server, connection)
}

/// A connection that waits for an answer for as long as a busy server takes.
async fn patient(client: &Client) -> MultiplexedConnection {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    connecting.await.unwrap()
}

fn compiled(url: &str, command: RedisCommand) -> Action {
    let config = RedisConfig {
        url: Redacted::new(url),
        tls: None,
        command,
        content_type: "application/json".to_owned(),
    };
    Action::compile(&action(ActionKind::Redis(config)), &runtime()).unwrap()
}

fn set(key: &str, value: Option<&str>) -> RedisCommand {
    RedisCommand::Set {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        ttl: None,
    }
}

#[tokio::test]
async fn a_key_is_set_and_goes_by_itself() {
    let (server, mut connection) = server().await;
    let plain = compiled(
        &server.url(),
        set("order:{{ new.id }}", Some("{\"n\": {{ new.note }}}")),
    );
    let event = delivery(None, Some(r#"{"id": 7, "note": "a \"b\""}"#));
    assert_eq!(plain.attempt(&event, now()).await, Outcome::Delivered);
    let value: String = connection.get("order:7").await.unwrap();
    assert_eq!(value, r#"{"n": "a \"b\""}"#);
    let short = compiled(
        &server.url(),
        RedisCommand::Set {
            key: "short".to_owned(),
            value: None,
            ttl: Some(Duration::from_mins(1)),
        },
    );
    assert_eq!(short.attempt(&event, now()).await, Outcome::Delivered);
    let left: i64 = connection.pttl("short").await.unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    let whole: String = connection.get("short").await.unwrap();
    let whole: serde_json::Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["new"]["id"], 7);
}

#[tokio::test]
async fn keys_and_what_tags_name_are_removed() {
    let (server, mut connection) = server().await;
    for n in 0..2500 {
        let key = format!("page:{n}");
        let _: () = connection.set(&key, "x").await.unwrap();
        let _: () = connection.sadd("customer:3:keys", &key).await.unwrap();
    }
    let _: () = connection.set("order:7", "x").await.unwrap();
    let _: () = connection.set("order:8", "x").await.unwrap();
    let command = RedisCommand::Delete {
        keys: vec!["order:{{ new.id }}".to_owned(), "nothing".to_owned()],
        tags: vec![
            "customer:{{ new.customer }}:keys".to_owned(),
            "none".to_owned(),
        ],
    };
    let delete = compiled(&server.url(), command);
    let event = delivery(None, Some(r#"{"id": 7, "customer": 3}"#));
    for _ in 0..2 {
        assert_eq!(delete.attempt(&event, now()).await, Outcome::Delivered);
    }
    let left: Vec<String> = connection.keys("*").await.unwrap();
    assert_eq!(left, ["order:8"]);
}

#[tokio::test]
async fn an_entry_of_a_stream_carries_the_delivery_s_id() {
    let (server, mut connection) = server().await;
    let command = RedisCommand::AppendToStream {
        stream: "orders".to_owned(),
        message: Some("{{ new.id }}".to_owned()),
        format: MessageFormat::default(),
        max_length: Some(1000),
    };
    let add = compiled(&server.url(), command);
    let event = delivery(None, Some(NEW));
    assert_eq!(add.attempt(&event, now()).await, Outcome::Delivered);
    let entries: Vec<(String, Vec<String>)> = redis::cmd("XRANGE")
        .arg(&["orders", "-", "+"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let id = event.id();
    assert_eq!(entries[0].1, ["id", &id, "event", "7"]);
}

#[tokio::test]
async fn a_message_is_published() {
    let (server, _) = server().await;
    let client = Client::open(server.url()).unwrap();
    let mut listening = client.get_async_pubsub().await.unwrap();
    listening.subscribe("orders").await.unwrap();
    let command = RedisCommand::Publish {
        channel: "orders".to_owned(),
        message: Some("[{{ operation }}]".to_owned()),
    };
    let publish = compiled(&server.url(), command);
    let outcome = publish.attempt(&delivery(None, Some(NEW)), now()).await;
    assert_eq!(outcome, Outcome::Delivered);
    let message = futures::StreamExt::next(&mut listening.on_message())
        .await
        .unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), r#"["Update"]"#);
}

#[tokio::test]
async fn rejections_of_the_server_name_a_remedy() {
    let (server, mut connection) = server().await;
    let _: () = connection.sadd("taken", 1).await.unwrap();
    let command = RedisCommand::AppendToStream {
        stream: "taken".to_owned(),
        message: None,
        format: MessageFormat::default(),
        max_length: None,
    };
    let add = compiled(&server.url(), command);
    let event = delivery(None, Some(NEW));
    let Outcome::Rejected(failure) = add.attempt(&event, now()).await else {
        panic!("a set is no stream");
    };
    assert_eq!(failure.kind, FailureKind::Status);
    assert!(failure.message.contains("WRONGTYPE") && failure.message.contains("a key of its own"));
    let mut wrong = Url::parse(&server.url()).unwrap();
    wrong.set_password(Some("hunter2-hunter2")).unwrap();
    let set = compiled(wrong.as_str(), set("a", None));
    let Outcome::Rejected(failure) = set.attempt(&event, now()).await else {
        panic!("the password is wrong");
    };
    assert!(
        failure.message.contains("password of redis.url"),
        "{}",
        failure.message
    );
    assert!(!failure.message.contains("hunter2"));
}

#[tokio::test]
async fn unreachable_server_is_retried_when_it_is_back() {
    let (server, _) = server().await;
    let set = compiled(&server.url(), set("a", None));
    let event = delivery(None, Some(NEW));
    assert_eq!(set.attempt(&event, now()).await, Outcome::Delivered);
    server.stop().await.unwrap();
    let Outcome::Retry { failure, .. } = set.attempt(&event, now()).await else {
        panic!("nobody is there");
    };
    assert_eq!(failure.kind, FailureKind::Connection);
    server.resume().await.unwrap();
    assert_eq!(final_outcome(&set, &event).await, Outcome::Delivered);
}

#[tokio::test]
async fn denied_address_is_not_dialled() {
    let (server, mut connection) = server().await;
    let closed = ActionRuntime::new(
        &crds::config::Egress::default(),
        &EndpointRegistry::default(),
    )
    .unwrap();
    let config = RedisConfig {
        url: Redacted::new(server.url()),
        tls: None,
        command: set("a", None),
        content_type: "application/json".to_owned(),
    };
    let set = Action::compile(&action(ActionKind::Redis(config)), &closed).unwrap();
    let Outcome::Rejected(failure) = set.attempt(&delivery(None, Some(NEW)), now()).await else {
        panic!("loopback is refused");
    };
    assert_eq!(failure.kind, FailureKind::Egress);
    assert!(
        failure.message.contains("spec.egress.allow"),
        "{}",
        failure.message
    );
    let none: bool = connection.exists("a").await.unwrap();
    assert!(!none);
}

#[tokio::test]
async fn a_private_authority_and_a_certificate_of_our_own() {
    // As the program does.
    let _the_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let certs = Certs::make();
    let folder = certs.folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let options = Options {
        settings: vec![
            format!("tls-port {port}"),
            format!("tls-cert-file {}", at("server.crt")),
            format!("tls-key-file {}", at("server.key")),
            format!("tls-ca-cert-file {}", at("ca.crt")),
        ],
        ..Options::default()
    };
    let server = PrivateRedis::start(&options).await.unwrap();
    let client = Client::open(server.url()).unwrap();
    let mut connection = patient(&client).await;
    let url = server.url().replace("redis://", "rediss://");
    let url = url.replace(
        &format!("127.0.0.1:{}", server.port()),
        &format!("localhost:{port}"),
    );
    let event = delivery(None, Some(NEW));
    for (tls, works) in [
        (known(&certs, true), true),
        (known(&certs, false), false),
        (known(&Certs::make(), true), false),
        (TlsConfig::default(), false),
    ] {
        let config = RedisConfig {
            url: Redacted::new(&*url),
            tls: Some(tls.clone()),
            command: set("{{ new.id }}", None),
            content_type: "application/json".to_owned(),
        };
        let set = Action::compile(&action(ActionKind::Redis(config)), &runtime()).unwrap();
        let outcome = set.attempt(&event, now()).await;
        if works {
            assert_eq!(outcome, Outcome::Delivered);
            let there: bool = connection.exists("7").await.unwrap();
            assert!(there);
        } else {
            let Outcome::Retry { failure, .. } = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(failure.kind, FailureKind::Connection);
        }
    }
}
