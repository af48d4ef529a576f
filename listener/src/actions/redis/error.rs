//! Errors of Redis, as delivery errors.

use redis::{ErrorKind, RedisError};

use crate::egress::response::{DeliveryError, append_remedy, connection_failed};

/// Transient errors, as the server names them.
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

/// Remedies for others.
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

/// Returns what an error of a command means.
pub(super) fn delivery_error(error: &RedisError) -> DeliveryError {
    if error.is_connection_refusal() {
        return DeliveryError::Unreachable(format!("no connection: {error}"));
    }
    if error.is_timeout() || error.is_io_error() || error.is_connection_dropped() {
        return connection_failed(error);
    }
    let code = match (error.code(), error.kind()) {
        (Some(code), _) => code,
        (None, ErrorKind::AuthenticationFailed) => "WRONGPASS",
        (None, _) => "",
    };
    let detail = error.detail().unwrap_or_default();
    let said = format!("{code} {detail}").trim().to_owned();
    if PASSING.contains(&code) {
        return DeliveryError::Unavailable(said, None);
    }
    DeliveryError::Permanent(append_remedy(said, &REMEDIES, |known| known == code), None)
}
