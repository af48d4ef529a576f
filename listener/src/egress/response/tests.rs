#![allow(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq)]
enum Expected {
    Retry(FailureKind),
    Rejected(FailureKind),
}

fn verdict(outcome: &Outcome) -> Expected {
    match outcome {
        Outcome::Retry { failure, .. } => Expected::Retry(failure.kind),
        Outcome::Rejected(failure) => Expected::Rejected(failure.kind),
        other => unreachable!("no error is {other:?}"),
    }
}

fn status(code: u16) -> DeliveryError {
    DeliveryError::Status {
        status: StatusCode::from_u16(code).unwrap(),
        retry_after: Some(Duration::from_secs(7)),
        location: Some("elsewhere.example".into()),
        excerpt: "no such hook".into(),
    }
}

#[test]
fn each_answer_has_its_outcome() {
    use Expected::{Rejected, Retry};
    use FailureKind as K;
    for (answer, expected) in [
        (status(101), Retry(K::Response)),
        (status(301), Rejected(K::Redirect)),
        (status(304), Rejected(K::Redirect)),
        (status(308), Rejected(K::Redirect)),
        (status(400), Rejected(K::Status)),
        (status(401), Rejected(K::Status)),
        (status(404), Rejected(K::Status)),
        (status(407), Retry(K::Status)),
        (status(408), Retry(K::Status)),
        (status(410), Rejected(K::Status)),
        (status(422), Rejected(K::Status)),
        (status(425), Retry(K::Status)),
        (status(429), Retry(K::Status)),
        (status(500), Retry(K::Status)),
        (status(501), Retry(K::Status)),
        (status(503), Retry(K::Status)),
        (status(505), Retry(K::Status)),
        (status(599), Retry(K::Status)),
        (status(600), Retry(K::Response)),
        (DeliveryError::EgressDenied("x".into()), Rejected(K::Egress)),
        (
            DeliveryError::ConnectionFailed("x".into()),
            Retry(K::Connection),
        ),
        (DeliveryError::Unreachable("x".into()), Retry(K::Connection)),
        (
            DeliveryError::Misconfigured("x".into()),
            Retry(K::Connection),
        ),
        (
            DeliveryError::TemporarilyRejected("x".into(), Some(450)),
            Retry(K::Status),
        ),
        (
            DeliveryError::InvalidResponse("x".into()),
            Retry(K::Response),
        ),
        (
            DeliveryError::ResponseTooLarge("x".into()),
            Retry(K::Response),
        ),
        (
            DeliveryError::Timeout(Duration::from_secs(1)),
            Retry(K::Timeout),
        ),
        (
            DeliveryError::Unavailable("x".into(), Some(451)),
            Retry(K::Status),
        ),
        (
            DeliveryError::Permanent("x".into(), None),
            Rejected(K::Status),
        ),
    ] {
        let outcome = classify("h", answer.clone());
        assert_eq!(verdict(&outcome), expected, "{answer:?}");
    }
}

#[test]
fn messages_name_the_response_and_the_redirect_target() {
    let Outcome::Rejected(gone) = classify("h.example", status(404)) else {
        unreachable!()
    };
    assert_eq!(gone.status, Some(404));
    assert_eq!(gone.message, "h.example rejected it with 404: no such hook");
    let Outcome::Rejected(moved) = classify("h.example", status(302)) else {
        unreachable!()
    };
    assert!(
        moved.message.contains("to elsewhere.example"),
        "{}",
        moved.message
    );
    assert!(moved.message.contains("not followed"), "{}", moved.message);
}

#[test]
fn retry_after_is_kept_for_retryable_statuses() {
    for code in [429, 503] {
        let Outcome::Retry { after, .. } = classify("h", status(code)) else {
            unreachable!()
        };
        assert_eq!(after, Some(Duration::from_secs(7)));
    }
}

#[test]
fn retry_after_is_seconds_or_a_date_within_a_day() {
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    for (value, expected) in [
        ("0", Some(0)),
        (" 120 ", Some(120)),
        ("99999999", Some(86_400)),
        ("99999999999999999999999999", Some(86_400)),
        ("Sun, 01 Mar 2026 12:01:00 GMT", Some(60)),
        ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
        ("Mon, 01 Mar 2027 12:00:00 GMT", Some(86_400)),
        ("", None),
        ("-5", None),
        ("soon", None),
    ] {
        let expected = expected.map(Duration::from_secs);
        assert_eq!(retry_after(value, now), expected, "{value}");
    }
}

proptest! {
    #[test]
    fn no_wish_exceeds_the_bound(value: String, seconds: u64) {
        let now = DateTime::UNIX_EPOCH;
        for text in [value, seconds.to_string()] {
            prop_assert!(retry_after(&text, now).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
        }
    }

    #[test]
    fn every_status_has_an_outcome_that_names_it(code in 100u16..1000) {
        prop_assume!(!(200..300).contains(&code));
        match classify("h", status(code)) {
            Outcome::Retry { failure, .. } | Outcome::Rejected(failure) => {
                prop_assert_eq!(failure.status, Some(code));
            }
            other => prop_assert!(false, "no error is {other:?}"),
        }
    }
}
