//! Messages to Slack, to a receiver that answers as Slack does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::config::{ActionKind, Redacted};
use reqwest::StatusCode;

use super::super::Action;
use super::super::fixture::{action, delivery, now, runtime};
use super::*;
use crate::delivery::outcome::Outcome;
use crate::egress::response::classify;
use testkit::http_sink::{Behaviour, Sink};

fn config(url: &str, text: Option<&str>, blocks: Option<&str>) -> SlackConfig {
    SlackConfig {
        url: Redacted::new(url),
        text: text.map(str::to_owned),
        blocks: blocks.map(str::to_owned),
    }
}

fn message(text: Option<&str>, blocks: Option<&str>, new: &str) -> Result<Value, Failure> {
    let slack = Slack::compile(&config("https://h.example/", text, blocks)).unwrap();
    slack.message(&delivery(None, Some(new)))
}

#[test]
fn without_templates_it_sums_up_the_event() {
    assert_eq!(
        message(None, None, "{}").unwrap(),
        json!({"text": "Update of 7 in public.orders"})
    );
}

#[test]
fn no_value_mentions_anybody_or_breaks_out() {
    let evil = r#"{"note": "<!channel> & \"<https://e.example|x>\"", "list": ["<@U1>"]}"#;
    let escaped = r#"&lt;!channel&gt; &amp; "&lt;https://e.example|x&gt;""#;
    let sent = message(
        Some("*note*: {{ new.note }} <https://own.example|ours>"),
        Some(r#"[{"a": "said {{ new.note }}", "b": {{ new.note }}, "c": {{ new.list }}}]"#),
        evil,
    )
    .unwrap();
    assert_eq!(
        sent["text"],
        format!("*note*: {escaped} <https://own.example|ours>")
    );
    assert_eq!(sent["blocks"][0]["a"], format!("said {escaped}"));
    assert_eq!(sent["blocks"][0]["b"], escaped);
    assert_eq!(sent["blocks"][0]["c"][0], "&lt;@U1&gt;");
}

#[test]
fn captured_block_is_escaped_once() {
    let sent = message(
        Some("{% set said %}{{ new.note }}{% endset %}{{ said }}"),
        None,
        r#"{"note": "a < b"}"#,
    );
    assert_eq!(sent.unwrap()["text"], "a &lt; b");
}

#[test]
fn blocks_that_are_not_an_array_are_rejected() {
    let failure = message(None, Some(r#"{"type": "section"}"#), "{}").unwrap_err();
    assert_eq!(failure.kind, FailureKind::Template);
    assert!(
        failure.message.contains("slack.blocks"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.contains("it is no array"),
        "{}",
        failure.message
    );
}

#[test]
fn a_long_text_is_cut_where_slack_would() {
    let sent = message(Some("{{ 'é' * 50000 }}"), None, "{}").unwrap();
    assert_eq!(sent["text"].as_str().unwrap().chars().count(), MAX_TEXT);
}

#[tokio::test]
async fn a_message_arrives_as_json() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = config(
        &sink.url("/services/T/B/x"),
        Some("total {{ new.total }}"),
        None,
    );
    let action = Action::compile(&action(ActionKind::Slack(config)), &runtime()).unwrap();
    let outcome = action
        .attempt(&delivery(None, Some(r#"{"total": 10.00}"#)), now())
        .await;
    assert_eq!(outcome, Outcome::Delivered);
    let received = sink.received().remove(0);
    assert_eq!(received.line, "POST /services/T/B/x");
    assert_eq!(received.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(body, json!({"text": "total 10.00"}));
}

#[test]
fn named_rejection_says_what_to_do() {
    let slack = Slack::compile(&config("https://hooks.slack.com/", None, None)).unwrap();
    let explained = |code: u16, said: &str| {
        let error = DeliveryError::Status {
            status: StatusCode::from_u16(code).unwrap(),
            retry_after: None,
            location: None,
            excerpt: said.to_owned(),
        };
        match classify("hooks.slack.com", slack.explain(error, Instant::now())) {
            Outcome::Rejected(failure) | Outcome::Retry { failure, .. } => failure.message,
            other => unreachable!("{other:?}"),
        }
    };
    for (name, remedy) in REMEDIES {
        assert_eq!(
            explained(404, name),
            format!("hooks.slack.com rejected it with 404: {name}; {remedy}")
        );
    }
    assert!(explained(404, "else").ends_with("404: else"));
    assert!(explained(503, "no_text").ends_with("503: no_text"));
}

#[test]
fn mistakes_name_their_place() {
    let place = |config| {
        let error = Action::check(&action(ActionKind::Slack(config))).unwrap_err();
        (error.field_path(), error.to_string())
    };
    assert_eq!(
        place(config("ftp://secret.example", None, None)).0,
        "slack.url"
    );
    let (at, said) = place(config("https://h.example/", Some("{{ nex.id }}"), None));
    assert_eq!(at, "slack.text");
    assert!(said.contains("nex is not known here"), "{said}");
    let (at, _) = place(config("https://h.example/", None, Some("[{{ new.id ]")));
    assert_eq!(at, "slack.blocks");
}
