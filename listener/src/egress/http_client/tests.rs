//! Requests by TLS.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;

use crds::config::{ActionKind, WebhookConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::actions::Action;
use crate::actions::fixture::{action, delivery, now, runtime, webhook};
use crate::delivery::failure::FailureKind;
use crate::delivery::outcome::Outcome;
use testkit::certs::Certs;

const NEW: &str = r#"{"id": 7}"#;

/// Answers 200 to whoever shows a certificate that the authority signed, where `asks`; else to all.
pub(crate) async fn server(certs: &Certs, asks: bool) -> (SocketAddr, JoinHandle<()>) {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(der(&certs.ca)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if asks {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let (certificate, key) = &certs.server;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = builder
        .with_single_cert(vec![der(certificate)], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = vec![0; 4096];
            let _read = stream.read(&mut request).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _written = stream.write_all(answer).await;
            let _closed = stream.shutdown().await;
        }
    });
    (address, serving)
}

fn config(address: SocketAddr, tls: Option<TlsConfig>) -> WebhookConfig {
    let url = format!("https://localhost:{}/hook", address.port());
    WebhookConfig {
        tls,
        ..webhook(url)
    }
}

fn tls(ca: &str, identity: Option<&(String, String)>) -> TlsConfig {
    let secret = |text: &str| Redacted::new(text);
    TlsConfig {
        ca: Some(secret(ca)),
        identity: identity.map(|(certificate, key)| (secret(certificate), secret(key))),
    }
}

async fn attempt(config: WebhookConfig) -> Outcome {
    let action = Action::compile(&action(ActionKind::Webhook(config)), &runtime()).unwrap();
    action.attempt(&delivery(None, Some(NEW)), now()).await
}

fn connection_failed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { failure, .. } if failure.kind == FailureKind::Connection)
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let certs = Certs::make();
    let (address, serving) = server(&certs, false).await;
    let stranger = attempt(config(address, None)).await;
    assert!(connection_failed(&stranger), "{stranger:?}");
    let known = attempt(config(address, Some(tls(&certs.ca, None)))).await;
    assert_eq!(known, Outcome::Delivered);
    let other = attempt(config(address, Some(tls(&Certs::make().ca, None)))).await;
    assert!(connection_failed(&other), "{other:?}");
    serving.abort();
}

#[tokio::test]
async fn a_certificate_is_shown_to_a_server_that_asks_for_one() {
    let certs = Certs::make();
    let (address, serving) = server(&certs, true).await;
    let without = attempt(config(address, Some(tls(&certs.ca, None)))).await;
    assert!(connection_failed(&without), "{without:?}");
    let with = attempt(config(address, Some(tls(&certs.ca, Some(&certs.client))))).await;
    assert_eq!(with, Outcome::Delivered);
    let stranger = Certs::make().client;
    let strange = attempt(config(address, Some(tls(&certs.ca, Some(&stranger))))).await;
    assert!(connection_failed(&strange), "{strange:?}");
    serving.abort();
}

#[test]
fn unusable_tls_settings_are_named_without_the_key() {
    let (certs, others) = (Certs::make(), Certs::make());
    let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let swapped = (certs.client.0.clone(), others.client.1.clone());
    let broken = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----".to_owned();
    let broken = (certs.client.0.clone(), broken);
    for (settings, place) in [
        (
            tls(
                "-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----",
                None,
            ),
            "webhook.tls",
        ),
        (tls(&certs.ca, Some(&swapped)), "webhook.tls.certificate"),
        (tls(&certs.ca, Some(&broken)), "webhook.tls.certificate"),
    ] {
        let config = ActionKind::Webhook(config(address, Some(settings)));
        let message = Action::check(&action(config)).unwrap_err().to_string();
        assert!(message.starts_with(place), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
