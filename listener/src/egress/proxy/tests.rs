#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crds::config::{ActionKind, Redacted, TlsConfig, WebhookConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::actions::Action;
use crate::actions::fixture::{action, delivery, now, webhook};
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointRegistry;
use crate::delivery::failure::FailureKind;
use crate::delivery::outcome::Outcome;
use crate::sync::lock;
use testkit::http_sink::{Behaviour, Sink};

/// A proxy that lets in who knows the password, and notes where each wants to.
struct Forward {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _serving: JoinHandle<()>,
}

impl Forward {
    async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let noted = Arc::clone(&asked);
        Self {
            address: socket.local_addr().unwrap(),
            asked,
            _serving: tokio::spawn(async move {
                while let Ok((client, _)) = socket.accept().await {
                    tokio::spawn(serve(client, Arc::clone(&noted)));
                }
            }),
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.asked))
    }
}

async fn serve(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let login = format!("Basic {}", STANDARD.encode("shop:hunter2 proxy"));
    if !text.contains(&login) {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\n\
                       content-length: 0\r\nconnection: close\r\n\r\n";
        let _gone = client.write_all(refusal.as_bytes()).await;
        return;
    }
    lock(&asked).push(format!("{method} {target}"));
    let tunnel = method == "CONNECT";
    let address = if tunnel {
        target.to_owned()
    } else {
        let url = Url::parse(target).unwrap();
        format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())
    };
    // It knows names that nobody else does.
    let address = address.replace("shop.invalid", "127.0.0.1");
    let mut server = TcpStream::connect(address).await.unwrap();
    if tunnel {
        client
            .write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
            .await
            .unwrap();
    } else {
        server.write_all(&head).await.unwrap();
    }
    let _ended = copy_bidirectional(&mut client, &mut server).await;
}

fn egress(proxy: &Forward, password: &str, direct: &[&str]) -> Egress {
    let at = format!("http://shop:{password}@{}", proxy.address);
    Egress {
        proxy: Some(ProxyConfig {
            url: Redacted::new(at),
            direct_cidrs: Vec::new(),
            direct_hosts: direct.iter().map(|&host| host.to_owned()).collect(),
        }),
        ..Egress::default()
    }
}

async fn post(egress: &Egress, config: WebhookConfig) -> Outcome {
    let runtime = ActionRuntime::new(egress, &EndpointRegistry::default()).unwrap();
    let action = Action::compile(&action(ActionKind::Webhook(config)), &runtime).unwrap();
    action
        .attempt(&delivery(None, Some(r#"{"id": 7}"#)), now())
        .await
}

const PASSWORD: &str = "hunter2%20proxy";

#[tokio::test]
async fn proxy_resolves_the_names_of_requests() {
    let (sink, proxy) = (
        Sink::start(Behaviour::Ok).await.unwrap(),
        Forward::start().await,
    );
    let named = sink.url("/hook").replace("127.0.0.1", "shop.invalid");
    let outcome = post(&egress(&proxy, PASSWORD, &[]), webhook(named.clone())).await;
    assert_eq!(outcome, Outcome::Delivered);
    assert_eq!(proxy.asked(), [format!("POST {named}")]);
    assert_eq!(sink.counts().requests, 1);
    let direct = egress(&proxy, PASSWORD, &["*.invalid"]);
    let outcome = post(&direct, webhook(named)).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert_eq!(proxy.asked(), [""; 0], "it was not asked");
}

#[tokio::test]
async fn parsed_mailbox_is_checked_before_it_is_sent() {
    let (sink, proxy) = (
        Sink::start(Behaviour::Ok).await.unwrap(),
        Forward::start().await,
    );
    let outcome = post(&egress(&proxy, PASSWORD, &[]), webhook(sink.url("/"))).await;
    assert!(
        matches!(&outcome, Outcome::Rejected(failure) if failure.kind == FailureKind::Egress),
        "{outcome:?}"
    );
    assert_eq!(proxy.asked(), [""; 0]);
}

#[tokio::test]
async fn tls_is_between_us_and_the_receiver() {
    let certs = testkit::certs::Certs::make();
    let (address, _serving) = crate::egress::http_client::tests::server(&certs, false).await;
    let proxy = Forward::start().await;
    let config = WebhookConfig {
        tls: Some(TlsConfig {
            ca: Some(Redacted::new(&*certs.ca)),
            identity: None,
        }),
        ..webhook(format!("https://localhost:{}/hook", address.port()))
    };
    let outcome = post(&egress(&proxy, PASSWORD, &[]), config.clone()).await;
    assert_eq!(outcome, Outcome::Delivered);
    assert_eq!(
        proxy.asked(),
        [format!("CONNECT localhost:{}", address.port())]
    );
    let outcome = post(&egress(&proxy, "hunter3", &[]), config).await;
    told_of_the_login(outcome);
}

#[tokio::test]
async fn denied_login_is_retried_and_reported() {
    let proxy = Forward::start().await;
    let rules = egress(&proxy, "hunter3", &[]);
    told_of_the_login(post(&rules, webhook("http://shop.invalid/")).await);
}

#[track_caller]
fn told_of_the_login(outcome: Outcome) {
    let Outcome::Retry { failure, .. } = outcome else {
        unreachable!("{outcome:?}")
    };
    assert!(
        failure.message.contains("spec.egress.proxy.url"),
        "{failure:?}"
    );
    assert!(!failure.message.contains("hunter"), "{failure:?}");
}
