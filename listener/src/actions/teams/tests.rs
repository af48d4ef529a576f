//! Messages to Microsoft Teams, to a receiver.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use crds::config::{ActionKind, Redacted};

use super::super::Action;
use super::super::fixture::{action, delivery, now, runtime};
use super::*;
use crate::delivery::outcome::Outcome;
use testkit::http_sink::{Behaviour, Sink};

fn config(url: &str, content: TeamsContent) -> TeamsConfig {
    TeamsConfig {
        url: Redacted::new(url),
        content,
    }
}

fn message(content: TeamsContent, new: &str) -> Result<Value, Failure> {
    let teams = Teams::compile(&config("https://h.example/", content)).unwrap();
    let body = teams.message(&delivery(None, Some(new)))?;
    Ok(serde_json::from_slice(&body).unwrap())
}

#[test]
fn a_text_stands_in_a_card() {
    for (content, text) in [
        (TeamsContent::Summary, "Update of 7 in public.orders"),
        (
            TeamsContent::Text("note: {{ new.note }}".to_owned()),
            "note: a \"b\"\nc",
        ),
        (
            TeamsContent::Text("**{{ new.link }}**".to_owned()),
            "**\\[here\\](https://evil.example) \\*\\<a\\>**",
        ),
    ] {
        let sent = message(
            content,
            r#"{"note": "a \"b\"\nc", "link": "[here](https://evil.example) *<a>"}"#,
        )
        .unwrap();
        let attachment = &sent["attachments"][0];
        assert_eq!(sent["type"], "message");
        assert_eq!(
            attachment["contentType"],
            "application/vnd.microsoft.card.adaptive"
        );
        assert_eq!(attachment["content"]["body"][0]["text"], text);
    }
}

#[test]
fn a_card_of_one_s_own_is_sent_as_it_is_and_must_be_one() {
    let card = |text: &str| message(TeamsContent::Card(text.to_owned()), r#"{"id": 7}"#);
    let sent = card(
        r#"{"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "{{ new.id }}"}]}"#,
    );
    let text = &sent.unwrap()["attachments"][0]["content"]["body"][0]["text"];
    assert_eq!(text, "7");
    for wrong in [r#"{"type": "Card"}"#, "[]", "7"] {
        let failure = card(wrong).unwrap_err();
        assert!(
            failure.message.contains("Adaptive Card"),
            "{}",
            failure.message
        );
    }
}

#[test]
fn oversized_message_is_rejected_with_a_remedy() {
    let failure = message(TeamsContent::Text("{{ 'x' * 40000 }}".to_owned()), "{}").unwrap_err();
    assert!(
        failure.message.contains("let it say less"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn message_arrives_and_limits_are_kept() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = config(&sink.url("/workflows/x"), TeamsContent::Summary);
    let action = Action::compile(&action(ActionKind::Teams(config)), &runtime()).unwrap();
    let outcome = action.attempt(&delivery(None, None), now()).await;
    assert_eq!(outcome, Outcome::Delivered);
    assert_eq!(sink.received()[0].line, "POST /workflows/x");
    sink.behave(Behaviour::Status(429));
    let outcome = action.attempt(&delivery(None, None), now()).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}

#[test]
fn mistakes_name_their_place() {
    let place = |config| {
        let error = Action::check(&action(ActionKind::Teams(config))).unwrap_err();
        error.field_path()
    };
    assert_eq!(place(config("x", TeamsContent::Summary)), "teams.url");
    let text = TeamsContent::Text("{{ nex.id }}".to_owned());
    assert_eq!(place(config("https://h.example/", text)), "teams.text");
    let card = TeamsContent::Card("{{ new.id".to_owned());
    assert_eq!(place(config("https://h.example/", card)), "teams.card");
}
