//! Webhooks against a real receiver.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use crds::config::{ActionKind, BatchConfig, Egress};
use reqwest::header::HeaderMap;

use super::super::Action;
use super::super::fixture::{action, delivery, now, runtime, webhook};
use super::*;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::endpoint_gate::EndpointRegistry;
use crate::delivery::delivery_id;
use crate::delivery::outcome::Outcome;
use crate::egress::http_client::DRAIN_TIME;
use crate::templating::MAX_BODY;
use testkit::http_sink::{Behaviour, Options, Received, Sink};
use testkit::wait::amounts_to;
use tokio::time::Instant;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD: &str = r#"{"total": 10.00, "status": "new"}"#;
const NEW: &str = r#"{"total": 10.00, "status": "paid", "big": 12345678901234567890.10}"#;

fn compiled(config: WebhookConfig) -> Action {
    Action::compile(&action(ActionKind::Webhook(config)), &runtime()).unwrap()
}

fn compiled_within(config: WebhookConfig, timeout: Duration) -> Action {
    let mut action = action(ActionKind::Webhook(config));
    action.timeout = timeout;
    Action::compile(&action, &runtime()).unwrap()
}

async fn attempt(config: WebhookConfig) -> Outcome {
    compiled(config)
        .attempt(&delivery(Some(OLD), Some(NEW)), now())
        .await
}

/// The outcome at a sink that behaves so.
async fn outcome(behaviour: Behaviour) -> Outcome {
    let sink = Sink::start(behaviour).await.unwrap();
    attempt(webhook(sink.url("/hook"))).await
}

/// What a sink received from a webhook configured so.
async fn sent(configure: impl FnOnce(&mut WebhookConfig)) -> Received {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let mut config = webhook(sink.url("/hook?x=1"));
    configure(&mut config);
    assert_eq!(attempt(config).await, Outcome::Delivered);
    sink.received().remove(0)
}

/// Lets time pass by what is waited for, and not by what a busy machine takes, from when a sink has a
/// request; says when that was.
async fn time_passes_at(sink: &Sink) -> Instant {
    amounts_to("requests", 1, async || sink.counts().requests).await;
    tokio::time::pause();
    Instant::now()
}

fn retry(outcome: Outcome) -> (Failure, Option<Duration>) {
    match outcome {
        Outcome::Retry { failure, after } => (failure, after),
        other => unreachable!("{other:?}"),
    }
}

fn refused(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Rejected(failure) => failure,
        other => unreachable!("{other:?}"),
    }
}

/// A webhook that sends up to four together, and so many deliveries, the one at `odd` of another kind.
async fn batched(sink: &Sink, many: usize, odd: usize) -> Vec<Outcome> {
    let mut config = webhook(sink.url("/"));
    config.signing_secrets = vec![Redacted::new(SECRET)];
    config.batch = Some(BatchConfig {
        max_events: 4,
        max_bytes: 100_000,
        linger: Duration::from_millis(50),
    });
    let action = compiled(config);
    let deliveries = (0..many).map(|n| {
        let kind = if n == odd { "odd" } else { "even" };
        let mut delivery = delivery(None, Some(&format!(r#"{{"kind": "{kind}"}}"#)));
        let event = Arc::get_mut(&mut delivery.event).unwrap();
        event.id = format!("a1b2-{n}");
        delivery
    });
    let deliveries: Vec<Delivery> = deliveries.collect();
    let attempts = deliveries
        .iter()
        .map(|delivery| action.attempt(delivery, now()));
    futures::future::join_all(attempts).await
}

/// The ids of the events in the body of a request.
fn ids(received: &Received) -> Vec<String> {
    let events: Vec<serde_json::Value> = serde_json::from_slice(&received.body).unwrap();
    let ids = events.iter().map(|event| event["id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

#[tokio::test]
async fn events_go_together_signed_each_with_its_id() {
    let sink = Sink::start_with(Options {
        signing_secrets: vec![SECRET.to_owned()],
        ..Options::default()
    });
    let sink = sink.await.unwrap();
    let outcomes = batched(&sink, 6, usize::MAX).await;
    assert_eq!(outcomes, vec![Outcome::Delivered; 6]);
    let mut received = sink.received();
    received.sort_by_key(ids);
    let sent: Vec<_> = received.iter().map(ids).collect();
    assert_eq!(
        sent,
        [
            vec!["a1b2-0", "a1b2-1", "a1b2-2", "a1b2-3"],
            vec!["a1b2-4", "a1b2-5"]
        ]
    );
    assert!(received.iter().all(|one| one.signed == Some(true)));
    assert!(received[0].webhook_id.starts_with("batch."));
    assert_ne!(received[0].webhook_id, received[1].webhook_id);
}

#[tokio::test]
async fn one_rejected_delivery_holds_up_none_of_its_batch() {
    let picky = Behaviour::Picky {
        word: "odd".to_owned(),
        per_mille: 0,
        seed: 0,
    };
    let sink = Sink::start(picky).await.unwrap();
    let outcomes = batched(&sink, 4, 2).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        if n == 2 {
            assert_eq!(refused(outcome).status, Some(422));
        } else {
            assert_eq!(outcome, Outcome::Delivered, "{n}");
        }
    }
    let taken = sink.received().into_iter();
    let mut taken: Vec<_> = taken
        .filter(|one| one.status == Some(200))
        .flat_map(|one| ids(&one))
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, ["a1b2-0", "a1b2-1", "a1b2-3"], "each once");
    for status in [403, 308] {
        let sink = Sink::start(Behaviour::Status(status)).await.unwrap();
        batched(&sink, 4, 2).await;
        assert_eq!(sink.counts().requests, 1, "it is not for what was sent");
    }
}

#[tokio::test]
async fn retry_goes_alone() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let mut config = webhook(sink.url("/"));
    config.batch = Some(BatchConfig {
        max_events: 4,
        max_bytes: 100_000,
        linger: Duration::from_mins(1),
    });
    let again = Delivery {
        attempt: 2,
        ..delivery(Some(OLD), Some(NEW))
    };
    assert_eq!(
        compiled(config).attempt(&again, now()).await,
        Outcome::Delivered
    );
    let received = sink.received().remove(0);
    assert_eq!(ids(&received), [again.event.id.as_str()]);
    assert_eq!(received.webhook_id, again.id());
}

#[tokio::test]
async fn the_event_arrives_as_json_with_its_digits_and_headers() {
    let received = sent(|_| {}).await;
    assert_eq!(received.line, "POST /hook?x=1");
    let body = std::str::from_utf8(&received.body).unwrap();
    assert!(
        body.starts_with(
            r#"{"id":"a1b2-42","entity":"public.orders","operation":"Update","key":"7""#
        ),
        "{body}"
    );
    assert!(body.contains("12345678901234567890.10"), "{body}");
    assert!(
        body.ends_with(
            r#""changed":["big","status"],"observer":"default/big-orders","action":"notify"}"#
        ),
        "{body}"
    );
    let id = delivery_id("a1b2-42", "default/big-orders", "notify");
    assert_eq!(received.webhook_id, id);
    assert_eq!(received.header("webhook-timestamp"), Some("1772366400"));
    assert_eq!(received.header("webhook-signature"), None);
    assert_eq!(received.header("content-type"), Some("application/json"));
    let agent = concat!("observer-listener/", env!("CARGO_PKG_VERSION"));
    assert_eq!(received.header("user-agent"), Some(agent));
    assert_eq!(received.header("referer"), None);
}

#[tokio::test]
async fn reference_library_verifies_with_either_secret() {
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let sink = Sink::start_with(Options {
        signing_secrets: vec![SECRET.to_owned()],
        ..Options::default()
    })
    .await
    .unwrap();
    let mut config = webhook(sink.url("/hook"));
    config.signing_secrets = vec![Redacted::new(SECRET), Redacted::new(other)];
    // The reference library wants a timestamp close to the present.
    let outcome = compiled(config)
        .attempt(&delivery(Some(OLD), Some(NEW)), Utc::now())
        .await;
    assert_eq!(outcome, Outcome::Delivered);
    let received = sink.received().remove(0);
    assert_eq!(received.signed, Some(true));
    assert_eq!(sink.counts().badly_signed, 0);
    let headers: HeaderMap = received
        .headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    for secret in [SECRET, other] {
        let reference = standardwebhooks::Webhook::new(secret).unwrap();
        reference.verify(&received.body, &headers).unwrap();
    }
}

#[tokio::test]
async fn attempts_share_id_and_trace_but_not_the_span() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let action = compiled(webhook(sink.url("/")));
    let mut delivery = delivery(None, Some(NEW));
    for attempt in [1, 2] {
        delivery.attempt = attempt;
        action.attempt(&delivery, now()).await;
    }
    let received = sink.received();
    assert_eq!(received[0].webhook_id, received[1].webhook_id);
    let parts: Vec<Vec<&str>> = received
        .iter()
        .map(|r| r.header("traceparent").unwrap().split('-').collect())
        .collect();
    assert_eq!(
        parts[0].iter().map(|part| part.len()).collect::<Vec<_>>(),
        [2, 32, 16, 2]
    );
    assert_eq!(parts[0][1], parts[1][1]);
    assert_ne!(parts[0][2], parts[1][2]);
}

#[tokio::test]
async fn templates_and_secrets_make_the_request() {
    let received = sent(|config| {
        config.method = Method::Put;
        config.content_type = "application/vnd.shop+json".to_owned();
        config.body =
            Some(r#"{"text": "order {{ key }} is {{ new.status }}", "big": {{ new.big }}}"#.into());
        config.headers = vec![
            (
                "X-Key".into(),
                HeaderConfig::Template("{{ entity }}/{{ key }}".into()),
            ),
            (
                "Authorization".into(),
                HeaderConfig::Secret(Redacted::new("Bearer s3cr3t\n")),
            ),
        ];
    })
    .await;
    assert_eq!(received.line, "PUT /hook?x=1");
    assert_eq!(
        &received.body[..],
        br#"{"text": "order 7 is paid", "big": 12345678901234567890.10}"#
    );
    assert_eq!(received.header("x-key"), Some("public.orders/7"));
    assert_eq!(received.header("authorization"), Some("Bearer s3cr3t"));
    assert_eq!(
        received.header("content-type"),
        Some("application/vnd.shop+json")
    );
}

#[tokio::test]
async fn a_value_cannot_add_a_header() {
    let mut config = webhook("http://127.0.0.1:9/");
    config.headers = vec![(
        "X-Note".into(),
        HeaderConfig::Template("{{ new.note }}".into()),
    )];
    let failure = refused(
        compiled(config)
            .attempt(
                &delivery(None, Some(r#"{"note": "a\r\nX-Evil: 1"}"#)),
                now(),
            )
            .await,
    );
    assert_eq!(failure.kind, FailureKind::Template);
    assert!(failure.message.contains("x-note"), "{}", failure.message);
}

#[tokio::test]
async fn retries_honour_retry_after() {
    let (failure, after) = retry(outcome(Behaviour::Status(503)).await);
    assert_eq!(
        (failure.kind, failure.status, after),
        (FailureKind::Status, Some(503), None)
    );
    let throttle = Behaviour::Throttle {
        times: 1,
        seconds: 30,
    };
    let (failure, after) = retry(outcome(throttle).await);
    assert_eq!(failure.status, Some(429));
    assert_eq!(after, Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn redirects_are_rejected_and_not_followed() {
    let target = Sink::start(Behaviour::Ok).await.unwrap();
    let failure = refused(outcome(Behaviour::Redirect(target.url("/private?token=abc"))).await);
    assert_eq!(
        (failure.kind, failure.status),
        (FailureKind::Redirect, Some(302))
    );
    assert!(failure.message.contains("127.0.0.1"), "{}", failure.message);
    assert!(!failure.message.contains("private"), "{}", failure.message);
    assert_eq!(target.counts().requests, 0);
}

#[tokio::test]
async fn broken_connections_are_retried() {
    let (failure, _) = retry(outcome(Behaviour::Reset).await);
    assert_eq!(failure.kind, FailureKind::Connection);
    let (failure, _) = retry(outcome(Behaviour::Garbage).await);
    assert_eq!(failure.kind, FailureKind::Response, "{}", failure.message);

    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let url = sink.url("/secret-path");
    drop(sink);
    tokio::task::yield_now().await;
    let (failure, _) = retry(attempt(webhook(url)).await);
    assert_eq!(failure.kind, FailureKind::Connection);
    assert!(
        !failure.message.contains("secret-path"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn endpoint_without_tls_is_retried() {
    let sink = Sink::start(Behaviour::Garbage).await.unwrap();
    let url = sink.url("/").replace("http:", "https:");
    let action = compiled_within(webhook(url), Duration::from_millis(500));
    let (failure, _) = retry(action.attempt(&delivery(None, Some(NEW)), now()).await);
    assert!(
        matches!(failure.kind, FailureKind::Connection | FailureKind::Timeout),
        "{failure:?}"
    );
}

#[tokio::test]
async fn hanging_endpoint_costs_the_timeout_and_no_more() {
    let sink = Sink::start(Behaviour::Hang).await.unwrap();
    let timeout = Duration::from_hours(1);
    let action = compiled_within(webhook(sink.url("/")), timeout);
    let begun = Instant::now();
    let event = delivery(None, Some(NEW));
    let (outcome, asked) = tokio::join!(action.attempt(&event, now()), time_passes_at(&sink));
    let (failure, _) = retry(outcome);
    assert_eq!(failure.kind, FailureKind::Timeout);
    // Its time began between these two, and nothing is waited for after it.
    let (least, most) = (asked.elapsed(), begun.elapsed());
    assert!(least <= timeout && timeout <= most, "{least:?} to {most:?}");
}

#[tokio::test]
async fn success_stands_with_any_body() {
    assert_eq!(outcome(Behaviour::ShortBody(200)).await, Outcome::Delivered);
    assert_eq!(
        outcome(Behaviour::HugeBody(8 * 1024 * 1024)).await,
        Outcome::Delivered
    );
    let sink = Sink::start(Behaviour::EndlessBody(200)).await.unwrap();
    let sent = attempt(webhook(sink.url("/hook")));
    let (outcome_of_endless, asked) = tokio::join!(sent, time_passes_at(&sink));
    assert_eq!(outcome_of_endless, Outcome::Delivered);
    assert!(asked.elapsed() < 5 * DRAIN_TIME, "{:?}", asked.elapsed());
    tokio::time::resume();
    let (failure, _) = retry(outcome(Behaviour::ShortBody(500)).await);
    assert!(
        failure.message.ends_with("answered 500: short"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn connections_are_used_again() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let action = compiled(webhook(sink.url("/")));
    let delivery = delivery(None, Some(NEW));
    for _ in 0..20 {
        assert_eq!(action.attempt(&delivery, now()).await, Outcome::Delivered);
    }
    assert_eq!(sink.counts().connections, 1);
}

#[tokio::test]
async fn echoed_secrets_of_a_webhook_are_redacted() {
    let sink = Sink::start(Behaviour::Echo(400)).await.unwrap();
    let mut config = webhook(sink.url("/services/T0AAAAAA/token-x?sig=topsecret"));
    config.headers = vec![(
        "Authorization".into(),
        HeaderConfig::Secret(Redacted::new("Bearer s3cr3t")),
    )];
    config.signing_secrets = vec![Redacted::new(SECRET)];
    let action = compiled(config);
    let failure = refused(action.attempt(&delivery(None, Some(NEW)), now()).await);
    for secret in ["T0AAAAAA", "token-x", "topsecret", "s3cr3t", "MfKQ"] {
        assert!(!failure.message.contains(secret), "{}", failure.message);
        assert!(!format!("{action:?}").contains(secret));
    }
    assert!(
        failure.message.contains("[redacted]"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn private_addresses_are_denied_by_address_and_by_name() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let closed = ActionRuntime::new(&Egress::default(), &EndpointRegistry::default()).unwrap();
    let port = sink.address().port();
    for url in [
        format!("http://127.0.0.1:{port}/secret"),
        format!("http://localhost:{port}/secret"),
        format!("https://localhost:{port}/secret"),
        format!("http://[::ffff:127.0.0.1]:{port}/secret"),
    ] {
        let config = action(ActionKind::Webhook(webhook(&url)));
        let action = Action::compile(&config, &closed).unwrap();
        let failure = refused(action.attempt(&delivery(None, Some(NEW)), now()).await);
        assert_eq!(failure.kind, FailureKind::Egress, "{url}");
        assert!(
            failure.message.contains("spec.egress.allow"),
            "{}",
            failure.message
        );
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
    assert_eq!(sink.counts().requests, 0);
}

#[tokio::test]
async fn a_host_may_be_allowed_by_name() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let runtime = ActionRuntime::new(
        &Egress {
            cidrs: Vec::new(),
            hosts: vec!["localhost".to_owned()],
            ..Egress::default()
        },
        &EndpointRegistry::default(),
    )
    .unwrap();
    let url = format!("http://localhost:{}/", sink.address().port());
    let action = Action::compile(&action(ActionKind::Webhook(webhook(url))), &runtime).unwrap();
    let outcome = action.attempt(&delivery(None, Some(NEW)), now()).await;
    assert_eq!(outcome, Outcome::Delivered);
}

#[tokio::test]
async fn event_too_large_for_a_body_is_rejected() {
    let image = format!(r#"{{"a": "{}"}}"#, "x".repeat(MAX_BODY));
    let action = compiled(webhook("http://127.0.0.1:9/"));
    let failure = refused(action.attempt(&delivery(None, Some(&image)), now()).await);
    assert_eq!(failure.kind, FailureKind::Event);
    assert!(
        failure.message.contains("webhook.body"),
        "{}",
        failure.message
    );
}

#[test]
fn mistakes_are_found_without_a_network_and_named() {
    let fault = |change: fn(&mut WebhookConfig)| {
        let mut config = webhook("https://hooks.example.com/t0ken");
        change(&mut config);
        let error = Action::check(&action(ActionKind::Webhook(config))).unwrap_err();
        let message = error.to_string();
        assert!(
            !format!("{message}{error:?}").contains("t0ken"),
            "{error:?}"
        );
        message
    };
    let message = fault(|c| c.url = Redacted::new("ftp://h/t0ken"));
    assert!(message.starts_with("webhook.url"), "{message}");
    let message = fault(|c| c.body = Some("{\n{{ new.a }".into()));
    assert!(message.starts_with("webhook.body, line 2"), "{message}");
    let message = fault(|c| c.content_type = "a\nb".into());
    assert!(message.starts_with("webhook.contentType"), "{message}");
    let message = fault(|c| c.signing_secrets = vec![Redacted::new("whsec_!t0ken")]);
    assert!(message.starts_with("webhook.signingSecret"), "{message}");
    for name in ["Webhook-Id", "Content-Length", "two words"] {
        let mut config = webhook("https://hooks.example.com/");
        config.headers = vec![(name.into(), HeaderConfig::Template(String::new()))];
        let error = Action::check(&action(ActionKind::Webhook(config))).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(Action::check(&action(ActionKind::Webhook(webhook("https://h.example/")))).is_ok());
}

#[test]
fn no_template_makes_a_header_of_several_lines() {
    const CORPUS: [&str; 5] = [
        "{{ new.note }}",
        "t {{ new.id }} {{ new.note|replace(\"\\n\", \" \") }}",
        "{{ key }}{{ tenant }}",
        "plain",
        "{% if new.id %}x{% endif %}",
    ];
    let event = r#"{"id": 7, "note": "a\r\nx-injected: 1\u0000\u007fé\u0085"}"#;
    let delivery = delivery(None, Some(event));
    testkit::fuzz::Fuzz::new("headers").run(
        &CORPUS,
        &["{{ new.note }}", "{{", "}}", "\r\n", ": "],
        |source| {
            let mut config = webhook("http://127.0.0.1:9/");
            let value = HeaderConfig::Template(source.to_owned());
            config.headers = vec![("x-shop".to_owned(), value)];
            config.body = Some("{}".to_owned());
            let Ok(webhook) = Webhook::compile(&config, CompileContext::CHECK) else {
                return;
            };
            let Ok((headers, _)) = webhook
                .item(&delivery, now())
                .and_then(|item| webhook.request(&[item], now()))
            else {
                return;
            };
            let value = headers["x-shop"].as_bytes();
            assert!(!value.iter().any(u8::is_ascii_control), "{source:?}");
        },
    );
}
