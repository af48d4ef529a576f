#![allow(clippy::panic, clippy::unwrap_used, reason = "a test may panic")]

use crds::config::{ActionKind, Redacted, SmtpConfig, SmtpTls};

use super::super::Action;
use super::super::fixture::{action, delivery, now, runtime};
use super::*;
use crate::delivery::delivery_id;
use crate::delivery::outcome::Outcome;
use testkit::servers::smtp::{LOGIN, Smtp};

const NEW: &str =
    r#"{"id": 7, "name": "Ada Löwe", "mail": "ada@example.com", "note": "<b>\r\nBcc: x@y.z"}"#;

fn config(server: &Smtp, tls: SmtpTls) -> EmailConfig {
    let secret = |text: &str| Redacted::new(text);
    let login = (tls != SmtpTls::None).then(|| (secret(LOGIN.0), secret(LOGIN.1)));
    EmailConfig {
        smtp: SmtpConfig {
            host: "localhost".to_owned(),
            port: server.port,
            tls,
            ca: Some(secret(&server.ca)),
            login,
        },
        from: "Der Ladën <shop@example.com>".to_owned(),
        to: vec!["{{ new.name }} <{{ new.mail }}>".to_owned()],
        cc: Vec::new(),
        bcc: vec!["archive@example.com, more@example.com".to_owned()],
        reply_to: Some("help@example.com".to_owned()),
        subject: "Bestellung {{ new.id }} für {{ new.name }}".to_owned(),
        text: Some("Order {{ new.id }}: {{ new.note }}".to_owned()),
        html: Some("<p>Order {{ new.id }}: {{ new.note }}</p>".to_owned()),
    }
}

fn compiled(config: EmailConfig) -> Action {
    Action::compile(&action(ActionKind::Email(config)), &runtime()).unwrap()
}

async fn send(config: EmailConfig) -> Outcome {
    compiled(config)
        .attempt(&delivery(None, Some(NEW)), now())
        .await
}

fn refused(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Rejected(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn passing(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Retry { failure, .. } => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn encrypted_message_arrives_whole_with_the_same_id() {
    for (mode, tls) in [
        ("implicit", SmtpTls::Implicit),
        ("starttls", SmtpTls::StartTls),
    ] {
        let mut server = Smtp::start(mode).await;
        let email = compiled(config(&server, tls));
        let mut ids = Vec::new();
        for _ in 0..2 {
            let outcome = email.attempt(&delivery(None, Some(NEW)), now()).await;
            assert_eq!(outcome, Outcome::Delivered, "{mode}");
            let message = server.next().await;
            assert_eq!(message["encrypted"], true);
            assert_eq!(message["user"], LOGIN.0);
            assert_eq!(message["from"], "shop@example.com");
            let to =
                serde_json::json!(["ada@example.com", "archive@example.com", "more@example.com"]);
            assert_eq!(message["to"], to);
            let text = message["text"].as_str().unwrap().replace("\r\n", "\n");
            let (head, body) = text.split_once("\n\n").unwrap();
            assert!(!head.contains("archive@"), "{head}");
            assert!(head.contains("Auto-Submitted: auto-generated"), "{head}");
            assert!(head.contains("Reply-To: help@example.com"), "{head}");
            assert!(
                head.contains("Date: Sun, 01 Mar 2026 12:00:00 +0000"),
                "{head}"
            );
            assert!(!head.contains("Bcc"), "{head}");
            assert!(
                body.contains("multipart") || head.contains("multipart/alternative"),
                "{head}"
            );
            assert!(body.contains("&lt;b&gt;"), "{body}");
            let id = head.lines().find(|line| line.starts_with("Message-ID: "));
            ids.push(id.unwrap().to_owned());
        }
        let id = delivery_id("a1b2-42", "default/big-orders", "notify");
        assert_eq!(ids, vec![format!("Message-ID: <{id}@example.com>"); 2]);
    }
}

#[tokio::test]
async fn without_encryption_nobody_logs_in() {
    let mut server = Smtp::start("none").await;
    let mut plain = config(&server, SmtpTls::None);
    plain.html = None;
    assert_eq!(send(plain).await, Outcome::Delivered);
    let message = server.next().await;
    assert_eq!(
        (&message["encrypted"], &message["user"]),
        (&false.into(), &serde_json::Value::Null)
    );
}

#[tokio::test]
async fn transient_errors_retry_and_permanent_ones_name_a_remedy() {
    let mut server = Smtp::start("starttls").await;
    let mut busy = config(&server, SmtpTls::StartTls);
    busy.to = vec!["busy@example.com".to_owned()];
    let busy = compiled(busy);
    let failure = passing(busy.attempt(&delivery(None, Some(NEW)), now()).await);
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Status, Some(451))
    );
    assert!(
        failure.message.contains("greylisted"),
        "{}",
        failure.message
    );
    assert_eq!(
        busy.attempt(&delivery(None, Some(NEW)), now()).await,
        Outcome::Delivered
    );
    server.next().await;

    let mut nobody = config(&server, SmtpTls::StartTls);
    nobody.cc = vec!["nobody@example.com".to_owned()];
    let failure = refused(send(nobody).await);
    assert_eq!(failure.status, Some(550));
    assert!(
        failure.message.contains("correct the address"),
        "{}",
        failure.message
    );

    let mut wrong = config(&server, SmtpTls::StartTls);
    wrong.smtp.login = Some((Redacted::new("shop"), Redacted::new("hunter3-wrong")));
    let failure = refused(send(wrong).await);
    assert!(
        failure.message.contains("user or password"),
        "{}",
        failure.message
    );
    assert!(!failure.message.contains("hunter3"));
}

#[tokio::test]
async fn untrusted_server_gets_nothing() {
    let server = Smtp::start("starttls").await;
    let mut strange = config(&server, SmtpTls::StartTls);
    strange.smtp.ca = None;
    let failure = passing(send(strange).await);
    assert_eq!(failure.kind, FailureKind::Connection);
    let plain = Smtp::start("none").await;
    let mut stripped = config(&plain, SmtpTls::StartTls);
    stripped.smtp.ca = None;
    let outcome = send(stripped).await;
    assert!(!matches!(outcome, Outcome::Delivered), "{outcome:?}");
}

#[tokio::test]
async fn no_value_adds_a_header_or_a_recipient() {
    let server = Smtp::start("none").await;
    for (field, told) in [
        ("subject", "control character"),
        ("to", "control character"),
        ("none", "0 recipients"),
    ] {
        let mut config = config(&server, SmtpTls::None);
        match field {
            "subject" => config.subject = "{{ new.note }}".to_owned(),
            "to" => config.to = vec!["a@example.com{{ new.note }}".to_owned()],
            _ => {
                config.to = vec![" ".to_owned()];
                config.bcc = Vec::new();
            }
        }
        let failure = refused(send(config).await);
        assert_eq!(failure.kind, FailureKind::Template);
        assert!(failure.message.contains(told), "{}", failure.message);
    }
    let mut config = config(&server, SmtpTls::None);
    config.to = vec!["{{ new.name }}".to_owned()];
    let failure = refused(send(config).await);
    assert!(
        failure.message.contains("an element of its own"),
        "{}",
        failure.message
    );
}

/// A server that says what it offers and notes each line, for one message after the other.
async fn noting(
    offers: &'static [&'static str],
) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, notes) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut reader = BufReader::new(reader);
            writer.write_all(b"220 here\r\n").await.unwrap();
            let mut in_data = false;
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|read| read > 0)
            {
                let text = String::from_utf8(std::mem::take(&mut line)).unwrap();
                let mut answer = "250 ok\r\n".to_owned();
                if in_data {
                    in_data = text != ".\r\n";
                    if in_data {
                        answer.clear();
                    }
                } else if text.starts_with("EHLO") {
                    answer = offers
                        .iter()
                        .fold(String::new(), |all, offer| all + "250-" + offer + "\r\n");
                    answer += "250 HELP\r\n";
                } else if text.starts_with("DATA") {
                    in_data = true;
                    answer = "354 go\r\n".to_owned();
                }
                let _ = told.send(text);
                if writer.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    });
    (port, notes)
}

fn plain(port: u16, to: &str) -> EmailConfig {
    EmailConfig {
        smtp: SmtpConfig {
            host: "localhost".to_owned(),
            port,
            tls: SmtpTls::None,
            ca: None,
            login: None,
        },
        from: "shop@example.com".to_owned(),
        to: vec![to.to_owned()],
        cc: Vec::new(),
        bcc: Vec::new(),
        reply_to: None,
        subject: "s".to_owned(),
        text: Some("{{ new.note }}".to_owned()),
        html: None,
    }
}

fn noted(notes: &mut tokio::sync::mpsc::UnboundedReceiver<String>) -> Vec<String> {
    std::iter::from_fn(|| notes.try_recv().ok()).collect()
}

#[tokio::test]
async fn a_rendered_name_or_address_is_one_recipient() {
    let (port, mut notes) = noting(&[]).await;
    let template = "{{ new.name }} <{{ new.mail }}>";
    for (to, new, expected) in [
        (
            template,
            r#"{"name": "Doe, John", "mail": "john@example.com", "note": ""}"#,
            true,
        ),
        (
            template,
            r#"{"name": "x@evil.example, Bob", "mail": "john@example.com", "note": ""}"#,
            true,
        ),
        (
            template,
            r#"{"name": "x@evil.example>, Bob <", "mail": "john@example.com", "note": ""}"#,
            true,
        ),
        (
            template,
            r#"{"name": "Bob", "mail": "john@example.com, x@evil.example", "note": ""}"#,
            false,
        ),
        (
            "{{ new.mail }}",
            r#"{"mail": "john@example.com, x@evil.example", "note": ""}"#,
            false,
        ),
    ] {
        let email = compiled(plain(port, to));
        let outcome = email.attempt(&delivery(None, Some(new)), now()).await;
        let lines = noted(&mut notes);
        let recipients: Vec<&String> = lines
            .iter()
            .filter(|line| line.starts_with("RCPT"))
            .collect();
        if expected {
            assert_eq!(outcome, Outcome::Delivered, "{new}");
            assert_eq!(recipients, ["RCPT TO:<john@example.com>\r\n"], "{new}");
        } else {
            assert_eq!(refused(outcome).kind, FailureKind::Template, "{new}");
            assert!(recipients.is_empty(), "{new}");
        }
    }
    let mut wrong = plain(port, "bob@example.com, nobody");
    assert!(Action::compile(&action(ActionKind::Email(wrong.clone())), &runtime()).is_err());
    wrong.to = vec!["a@example.com, \"Doe, J\" <b@example.com>".to_owned()];
    assert_eq!(send(wrong).await, Outcome::Delivered);
    let count = noted(&mut notes)
        .iter()
        .filter(|line| line.starts_with("RCPT"))
        .count();
    assert_eq!(count, 2);
}

#[tokio::test]
async fn line_ends_of_bodies_are_the_protocol_s() {
    let (port, mut notes) = noting(&[]).await;
    let email = compiled(plain(port, "a@example.com"));
    let new = r#"{"note": "one\rtwo\r\nthree\nfour\r.\rfive"}"#;
    let outcome = email.attempt(&delivery(None, Some(new)), now()).await;
    assert_eq!(outcome, Outcome::Delivered);
    let lines = noted(&mut notes);
    for line in &lines {
        let inner = line.strip_suffix("\r\n").unwrap();
        assert!(!inner.contains(['\r', '\n']), "{line:?}");
    }
    for line in ["one\r\n", "two\r\n", "..\r\n", "five\r\n"] {
        assert!(lines.contains(&line.to_owned()), "{line:?} in {lines:?}");
    }
}

#[tokio::test]
async fn addresses_that_are_not_ascii_go_where_they_can() {
    let new = r#"{"mail": "jörg@example.com", "note": ""}"#;
    let (port, mut notes) = noting(&["8BITMIME", "SMTPUTF8"]).await;
    let email = compiled(plain(port, "{{ new.mail }}"));
    let outcome = email.attempt(&delivery(None, Some(new)), now()).await;
    assert_eq!(outcome, Outcome::Delivered);
    let lines = noted(&mut notes);
    assert!(
        lines.contains(&"RCPT TO:<jörg@example.com>\r\n".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("MAIL") && line.contains("SMTPUTF8")),
        "{lines:?}"
    );

    let (port, mut notes) = noting(&["8BITMIME"]).await;
    let email = compiled(plain(port, "{{ new.mail }}"));
    for _ in 0..25 {
        let outcome = email.attempt(&delivery(None, Some(new)), now()).await;
        let failure = refused(outcome);
        assert!(failure.message.contains("SMTPUTF8"), "{}", failure.message);
    }
    // None of this holds up others, whose domains need no such server.
    for mail in ["ann@example.com", "ann@bücher.example"] {
        let new = format!(r#"{{"mail": "{mail}", "note": ""}}"#);
        let outcome = email.attempt(&delivery(None, Some(&new)), now()).await;
        assert_eq!(outcome, Outcome::Delivered);
    }
    let lines = noted(&mut notes);
    assert!(
        lines.contains(&"RCPT TO:<ann@xn--bcher-kva.example>\r\n".to_owned()),
        "{lines:?}"
    );
}
