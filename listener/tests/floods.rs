//! Servers that announce huge answers, or never end one: what goes to them fails with its reason, and
//! the listener stays as small as it is.

use std::sync::Arc;

use rustls::ServerConfig;
use testkit::certs::Certs;
use testkit::http_sink::{Behaviour, Sink};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::database;
use crate::support::listener::{Config, Process, observer};
use crate::support::memory::peak_mib;
use crate::support::tls::server_settings;
use crate::support::told::{keys_of, letters};

/// Most that the listener may ever have taken, in MiB: twice of what it takes with nothing to do.
const MOST_MIB: u64 = 128;

/// Most that is sent into one connection.
const FLOOD: u64 = 600 << 20;

/// What a server sends.
#[derive(Clone)]
struct Script {
    /// At first.
    first: Vec<u8>,
    /// Again and again, with a number in the place of `%`.
    then: Vec<u8>,
    /// Over TLS as Postgres has it, once it is asked for.
    tls: Option<Arc<ServerConfig>>,
}

fn script(first: &[u8], then: &[u8]) -> Script {
    Script {
        first: first.to_vec(),
        then: then.to_vec(),
        tls: None,
    }
}

/// A server that sends this to everybody, whatever they say.
struct Flood {
    port: u16,
    _serving: JoinSet<()>,
}

impl Flood {
    async fn start(script: Script) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                let script = script.clone();
                connections.spawn(async move { serve(client, script).await });
            }
        });
        Self {
            port,
            _serving: serving,
        }
    }
}

async fn serve(mut client: TcpStream, script: Script) {
    let Some(tls) = &script.tls else {
        return flood(client, &script).await;
    };
    let mut asked = [0; 8];
    if client.read_exact(&mut asked).await.is_ok() && client.write_all(b"S").await.is_ok() {
        let acceptor = TlsAcceptor::from(Arc::clone(tls));
        if let Ok(client) = acceptor.accept(client).await {
            flood(client, &script).await;
        }
    }
}

async fn flood(client: impl AsyncRead + AsyncWrite, script: &Script) {
    let (mut said, mut client) = split(client);
    let listening = async { tokio::io::copy(&mut said, &mut tokio::io::sink()).await };
    let flooding = async {
        client.write_all(&script.first).await?;
        client.flush().await?;
        let (mut sent, mut number) = (0, 0_u64);
        while sent < FLOOD {
            let chunk = chunk(&script.then, &mut number);
            client.write_all(&chunk).await?;
            sent += chunk.len() as u64;
        }
        client.flush().await
    };
    let (_heard, _flooded) = tokio::join!(listening, flooding);
}

/// At least 64 KiB of what is sent again and again; fast, since what is slow is not a flood but a
/// server that times out.
fn chunk(then: &[u8], number: &mut u64) -> Vec<u8> {
    const LENGTH: usize = 64 << 10;
    let Some(mark) = then.iter().position(|byte| *byte == b'%') else {
        return then.repeat(LENGTH.div_ceil(then.len()));
    };
    let (before, after) = (&then[..mark], &then[mark + 1..]);
    let mut chunk = Vec::with_capacity(LENGTH + then.len() + 8);
    while chunk.len() < LENGTH {
        *number += 1;
        chunk.extend(before);
        chunk.extend(format!("{number:08}").bytes());
        chunk.extend(after);
    }
    chunk
}

/// What goes to such a server becomes a dead letter that says why, what goes elsewhere arrives, and
/// the process stays small.
async fn withstands(script: Script, action: &str, words: &str) {
    let flood = Flood::start(script).await;
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let hostile = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: hostile}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n    - name: post\n      {}\n      timeout: 20s\n      \
         retry: {{attempts: 2, initialBackoff: 20ms, maxBackoff: 20ms}}\n---\n",
        action.replace("PORT", &flood.port.to_string())
    );
    let well = observer("well", "public.orders", &sink.url("/well"), "");
    let config = Config::new(&db.url, "", &(hostile + &well));
    let process = Process::run(&config);
    db.run("insert into orders values (1)").await;
    keys_of(&sink, "/well", 1).await;
    let letters = letters(&db, 1).await;
    let peak = peak_mib(process.pid());
    println!("at most {peak} MiB");
    assert!(peak < MOST_MIB, "{peak} MiB, at most {MOST_MIB}");
    for (observer, _, _, error) in letters {
        assert_eq!(observer, "hostile");
        assert!(error.contains(words), "{error}");
    }
    process.stop().await;
}

const TOO_LARGE: &str = "the server's answer is larger than";

const POSTGRES: &str =
    "postgres: {url: {value: \"postgres://shop@127.0.0.1:PORT/shop\"}, statement: select 1}";

/// Postgres, once it has let somebody in.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_postgres_that_never_ends() {
    let action = POSTGRES.replace("/shop\"", "/shop?sslmode=disable\"");
    withstands(script(b"D\x7f\xff\xff\xff", b"a"), &action, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_postgres_that_never_end() {
    // Each tells of a setting of its own, and the driver keeps them.
    let setting = script(WELCOME, b"S\0\0\0\x14a%\0value\0");
    let action = POSTGRES.replace("/shop\"", "/shop?sslmode=disable\"");
    withstands(setting, &action, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_message_that_an_encrypted_postgres_only_announces() {
    let certs = Certs::make();
    let huge = Script {
        tls: Some(server_settings(&certs)),
        // So much would be filled with zeros at once.
        ..script(b"D\x40\0\0\0", b"a")
    };
    let action = POSTGRES.replace("/shop\"", "/shop?sslmode=require\"");
    withstands(huge, &action, TOO_LARGE).await;
}

const REDIS: &str =
    "redis: {url: {value: \"redis://127.0.0.1:PORT\"}, set: {key: \"a{{ new.id }}\"}}";

#[tokio::test(flavor = "multi_thread")]
async fn a_string_of_redis_that_never_ends() {
    withstands(script(b"$2000000000\r\n", b"a"), REDIS, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_redis_that_never_ends() {
    withstands(script(b"*2000000000\r\n", b":1\r\n"), REDIS, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_nats_that_never_ends() {
    let action = "nats: {url: {value: \"nats://127.0.0.1:PORT\"}, subject: orders}";
    withstands(script(b"INFO {\"a\":\"", b"a"), action, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_nats_that_never_ends() {
    let action = "nats: {url: {value: \"nats://127.0.0.1:PORT\"}, subject: orders}";
    let first = format!(
        "INFO {}\r\nPONG\r\nMSG a 1 2000000000\r\n",
        r#"{"server_id":"a","server_name":"a","host":"a","port":1,"version":"2.10.0","proto":1,"go":"a","max_payload":1000000,"headers":true,"client_id":1}"#
    );
    withstands(script(first.as_bytes(), b"a"), action, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_smtp_that_never_ends() {
    let action = "email: {from: shop@example.com, to: [a@example.com], subject: a, text: a, smtp: {host: 127.0.0.1, \
         port: PORT, tls: None}}";
    withstands(script(b"220-", b"a"), action, TOO_LARGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_kafka_that_never_ends() {
    let action = "kafka: {brokers: [\"127.0.0.1:PORT\"], topic: orders}";
    withstands(script(b"\x7f\xff\xff\xff", b"a"), action, TOO_LARGE).await;
}
