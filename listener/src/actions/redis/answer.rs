//! What an error of Redis means for a delivery.

use redis::{ErrorKind, RedisError};

use super::super::{Failure, FailureKind, Outcome};

/// Errors that pass by themselves, as the server names them.
const PASSING: [&str; 11] = [
    "BUSY",
    "CLUSTERDOWN",
    "EXECABORT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
];

/// What is to be done about others.
const REMEDIES: [(&str, &str); 7] = [
    (
        "WRONGTYPE",
        "the key holds something else: give the action a key of its own",
    ),
    (
        "NOPERM",
        "give the user of redis.url the right to this command and this key",
    ),
    (
        "NOAUTH",
        "the server wants a password: put it into redis.url",
    ),
    ("WRONGPASS", "user or password of redis.url are wrong"),
    (
        "MOVED",
        "the server is part of a cluster, whose redirections are not followed",
    ),
    (
        "CROSSSLOT",
        "the server is part of a cluster, whose keys must be in one slot for this",
    ),
    (
        "ASK",
        "the server is part of a cluster, whose redirections are not followed",
    ),
];

/// What came of a call to `host` that failed.
pub(super) fn classify(host: &str, error: &RedisError) -> Outcome {
    let passes = |kind, message| Outcome::Retry {
        failure: Failure::of(kind, message),
        after: None,
    };
    if error.is_timeout() {
        return passes(
            FailureKind::Timeout,
            format!("{host} did not answer in time"),
        );
    }
    if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() {
        let message = format!("no connection to {host}, or it broke: {error}");
        return passes(FailureKind::Connection, message);
    }
    let code = match (error.code(), error.kind()) {
        (Some(code), _) => code,
        (None, ErrorKind::AuthenticationFailed) => "WRONGPASS",
        (None, _) => "",
    };
    let detail = error.detail().unwrap_or_default();
    let said = format!("{host} refuses: {code} {detail}")
        .trim_end()
        .to_owned();
    if PASSING.contains(&code) {
        return passes(FailureKind::Status, said);
    }
    let remedy = REMEDIES.iter().find(|(known, _)| *known == code);
    let message = match remedy {
        Some((_, remedy)) => format!("{said}; {remedy}"),
        None => said,
    };
    Outcome::Refused(Failure::of(FailureKind::Status, message))
}
