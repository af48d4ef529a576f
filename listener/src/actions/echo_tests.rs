//! Servers that repeat the secrets that they were shown, or know: none comes back out.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crds::config::{
    ActionKind, EmailConfig, MessageFormat, NatsConfig, PostgresConfig, Redacted, RedisCommand,
    RedisConfig, SmtpConfig, SmtpTls,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::Action;
use super::fixture::{action, delivery, now, runtime};
use crate::delivery::outcome::Outcome;

const SECRET: &str = "hunter@2-swordfish";
const IN_URL: &str = "hunter%402-swordfish";

/// A server that serves each connection in this way.
async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = std::io::Result<()>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = serve(stream).await;
        }
    });
    port
}

/// What is told of an attempt holds none of the forms of the secret.
async fn holds_none(kind: ActionKind) {
    let action = Action::compile(&action(kind), &runtime()).unwrap();
    let outcome = action.attempt(&delivery(None, Some("{}")), now()).await;
    let (Outcome::Retry { failure, .. } | Outcome::Rejected(failure)) = outcome else {
        unreachable!("{outcome:?}")
    };
    let message = &failure.message;
    assert!(message.contains("[redacted]"), "{message}");
    for form in [SECRET, IN_URL, "swordfish", &STANDARD.encode(SECRET)] {
        assert!(!message.contains(form), "{message}");
    }
    let why = action.endpoint_status().and_then(|standing| standing.why);
    assert!(!why.unwrap_or_default().contains("swordfish"));
}

fn said() -> String {
    format!("no {SECRET}, {IN_URL}, {}", STANDARD.encode(SECRET))
}

#[tokio::test]
async fn postgres() {
    let port = serving(async |mut stream: TcpStream| {
        // What asks for encryption is told that there is none; then comes what begins a session.
        let mut head = [0; 8];
        stream.read_exact(&mut head).await?;
        if head[4..] == 80_877_103_u32.to_be_bytes() {
            stream.write_all(b"N").await?;
            stream.read_exact(&mut head).await?;
        }
        let fields = format!("SFATAL\0VFATAL\0C28P01\0M{}\0\0", said());
        let length = u32::try_from(fields.len() + 4).unwrap();
        stream.write_all(b"E").await?;
        stream.write_all(&length.to_be_bytes()).await?;
        stream.write_all(fields.as_bytes()).await?;
        stream.flush().await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.map(drop)
    })
    .await;
    holds_none(ActionKind::Postgres(PostgresConfig {
        url: Some(Redacted::new(format!(
            "postgres://shop:{IN_URL}@127.0.0.1:{port}/shop"
        ))),
        statement: "select 1".to_owned(),
        parameters: Vec::new(),
        tls: None,
    }))
    .await;
}

#[tokio::test]
async fn email() {
    let port = serving(async |stream: TcpStream| {
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 here\r\n").await?;
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let answer = match &line[..4] {
                "EHLO" => "250-AUTH PLAIN\r\n250 HELP\r\n".to_owned(),
                // It was in no URL.
                "AUTH" => format!("535 {}: {}\r\n", said().replace(IN_URL, ""), line.trim()),
                _ => "221 bye\r\n".to_owned(),
            };
            stream.write_all(answer.as_bytes()).await?;
            line.clear();
        }
        Ok(())
    })
    .await;
    holds_none(ActionKind::Email(EmailConfig {
        smtp: SmtpConfig {
            host: "localhost".to_owned(),
            port,
            tls: SmtpTls::None,
            ca: None,
            login: Some((Redacted::new("shop"), Redacted::new(SECRET))),
        },
        from: "shop@example.com".to_owned(),
        to: vec!["a@example.com".to_owned()],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: None,
        subject: "s".to_owned(),
        text: Some("t".to_owned()),
        html: None,
    }))
    .await;
}

#[tokio::test]
async fn redis() {
    let port = serving(async |mut stream: TcpStream| {
        let mut some = [0; 1024];
        loop {
            let read = stream.read(&mut some).await?;
            if read == 0 {
                return Ok(());
            }
            // What comes before the call is fine; the call is not. Each command begins with a line of its own.
            let asked = String::from_utf8_lossy(&some[..read]).into_owned();
            let commands = asked.lines().filter(|line| line.starts_with('*'));
            let answer = if asked.contains("EVALSHA") {
                format!("-ERR {}\r\n", said())
            } else {
                "+OK\r\n".repeat(commands.count())
            };
            stream.write_all(answer.as_bytes()).await?;
        }
    })
    .await;
    holds_none(ActionKind::Redis(RedisConfig {
        url: Redacted::new(format!("redis://:{IN_URL}@127.0.0.1:{port}")),
        command: RedisCommand::Delete {
            keys: vec!["k".to_owned()],
            tags: Vec::new(),
        },
        content_type: "application/json".to_owned(),
        tls: None,
    }))
    .await;
}

/// Words of the server's do not show at all, and what it names itself is none of ours.
#[tokio::test]
async fn nats() {
    let port = serving(async |stream: TcpStream| {
        let mut stream = BufReader::new(stream);
        let info = "INFO {\"server_id\":\"x\",\"version\":\"2.10.0\",\"proto\":1,\"max_payload\":1024,\"headers\":true}\r\n";
        stream.write_all(info.as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        stream.write_all(format!("-ERR '{}'\r\n", said()).as_bytes()).await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.map(drop)
    })
    .await;
    let kind = ActionKind::Nats(NatsConfig {
        url: Redacted::new(format!("nats://shop:{IN_URL}@127.0.0.1:{port}")),
        credentials: None,
        subject: "orders".to_owned(),
        message: None,
        format: MessageFormat::default(),
        content_type: "application/json".to_owned(),
        tls: None,
    });
    let action = Action::compile(&action(kind), &runtime()).unwrap();
    let outcome = action.attempt(&delivery(None, Some("{}")), now()).await;
    let (Outcome::Retry { failure, .. } | Outcome::Rejected(failure)) = outcome else {
        unreachable!("{outcome:?}")
    };
    assert!(
        !failure.message.contains("swordfish"),
        "{}",
        failure.message
    );
}
