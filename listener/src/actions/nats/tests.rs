#![allow(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use async_nats::jetstream::stream;
use crds::config::{ActionKind, MessageFormat, TlsConfig};

use super::super::Action;
use super::super::fixture::{action, delivery, fails_with, final_outcome, now, runtime};
use super::*;
use crate::delivery::failure::FailureKind;
use crate::delivery::outcome::Outcome;
use crate::egress::test_tls::known;
use testkit::certs::Certs;
use testkit::servers::nats::Nats as Server;

const NEW: &str = r#"{"id": 7, "region": "eu", "odd": "a b"}"#;

fn compiled(url: &str, subject: &str) -> Action {
    let config = NatsConfig {
        url: Redacted::new(url),
        tls: None,
        credentials: None,
        subject: subject.to_owned(),
        message: Some("{\"order\": {{ new.id }}}".to_owned()),
        format: MessageFormat::default(),
        content_type: "application/json".to_owned(),
    };
    Action::compile(&action(ActionKind::Nats(config)), &runtime()).unwrap()
}

async fn count(stream: &mut stream::Stream) -> u64 {
    stream.info().await.unwrap().state.messages
}

#[tokio::test]
async fn resent_message_is_stored_once_across_a_restart() {
    let mut server = Server::start().await;
    let mut stream = server.stream().await;
    let publish = compiled(&server.url(), "orders.{{ new.region }}");
    let event = delivery(None, Some(NEW));
    for _ in 0..2 {
        assert_eq!(final_outcome(&publish, &event).await, Outcome::Delivered);
    }
    assert_eq!(count(&mut stream).await, 1);
    let kept = stream.get_raw_message(1).await.unwrap();
    assert_eq!(kept.subject.as_str(), "orders.eu");
    assert_eq!(&kept.payload[..], br#"{"order": 7}"#);
    let id = event.id();
    assert_eq!(kept.headers.get("Nats-Msg-Id").unwrap().as_str(), id);

    server.restart().await;
    // One of the attempts connects again.
    assert_eq!(final_outcome(&publish, &event).await, Outcome::Delivered);
    let mut stream = server.stream().await;
    assert_eq!(
        count(&mut stream).await,
        1,
        "it is known across the restart"
    );
    let mut replay = event.clone();
    replay.replay = Some("17".into());
    assert_eq!(final_outcome(&publish, &replay).await, Outcome::Delivered);
    assert_eq!(count(&mut stream).await, 2, "a replay is one more");
}

#[tokio::test]
async fn no_value_names_a_subject_of_the_server_s_own() {
    for (template, value) in [
        ("{{ new.to }}", "$JS.API.STREAM.DELETE.orders"),
        ("{{ new.to }}", "_INBOX.x"),
        ("orders.{{ new.to }}", "a.>"),
        ("orders.{{ new.to }}", "a\\r\\nPUB x"),
    ] {
        let new = format!(r#"{{"to": "{value}"}}"#);
        let action = compiled("nats://127.0.0.1:1", template);
        let outcome = action.attempt(&delivery(None, Some(&new)), now()).await;
        let Outcome::Rejected(failure) = outcome else {
            panic!("{value}: {outcome:?}")
        };
        assert!(failure.message.contains("subject"), "{}", failure.message);
    }
}

#[tokio::test]
async fn failures_name_a_remedy() {
    let server = Server::start().await;
    let event = delivery(None, Some(NEW));
    let nobody = compiled(&server.url(), "orders.eu");
    // No stream takes it.
    fails_with(&nobody, &event, "nats stream add").await;
    let odd = compiled(&server.url(), "orders.{{ new.odd }}");
    let Outcome::Rejected(failure) = odd.attempt(&event, now()).await else {
        panic!("it has a space");
    };
    assert_eq!(failure.kind, FailureKind::Template);
    let wrong = server.url().replace("hunter2", "hunter3");
    let Outcome::Rejected(failure) = final_outcome(&compiled(&wrong, "orders.eu"), &event).await
    else {
        panic!("the password is wrong");
    };
    assert!(failure.message.contains("nats.url"), "{}", failure.message);
    assert!(!failure.message.contains("hunter"));
    let port = server.port;
    drop(server);
    let away = compiled(&format!("nats://127.0.0.1:{port}"), "orders.eu");
    let Outcome::Retry { failure, .. } = away.attempt(&event, now()).await else {
        panic!("nobody is there");
    };
    assert_eq!(failure.kind, FailureKind::Connection);
}

#[tokio::test]
async fn a_private_authority_and_a_certificate_of_our_own() {
    let certs = Certs::make();
    let folder = certs.folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let server = Server::begin(&[
        "--tlsverify".to_owned(),
        format!("--tlscert={}", at("server.crt")),
        format!("--tlskey={}", at("server.key")),
        format!("--tlscacert={}", at("ca.crt")),
    ]);
    let url = format!("tls://shop:hunter2-nats@localhost:{}", server.port);
    let event = delivery(None, Some(NEW));
    let publish = |tls| {
        let config = NatsConfig {
            url: Redacted::new(&*url),
            tls: Some(tls),
            credentials: None,
            subject: "orders.eu".to_owned(),
            message: None,
            format: MessageFormat::default(),
            content_type: "application/json".to_owned(),
        };
        Action::compile(&action(ActionKind::Nats(config)), &runtime()).unwrap()
    };
    // It has come in, where no stream takes it.
    fails_with(&publish(known(&certs, true)), &event, "nats stream add").await;
    for tls in [
        known(&certs, false),
        known(&Certs::make(), true),
        TlsConfig::default(),
    ] {
        let outcome = publish(tls).attempt(&event, now()).await;
        let Outcome::Retry { failure, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(failure.kind, FailureKind::Connection, "{failure:?}");
    }
}
