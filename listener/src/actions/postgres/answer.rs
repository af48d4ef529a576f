//! What an error of Postgres means for a delivery.

use super::super::{Failure, FailureKind, Outcome};

/// Classes and codes of errors that pass by themselves: no connection, conflicts with others, too few
/// resources, a server that stops or only reads.
const PASSING: [&str; 9] = [
    "08", "40", "53", "57P", "58", "55P03", "55006", "25006", "XX000",
];

/// What is to be done about others, by the beginning of their codes.
const REMEDIES: [(&str, &str); 12] = [
    ("42804", "parameters are text: cast them, as in $1::bigint"),
    (
        "42883",
        "parameters are text: cast them to what the function takes, as in $1::bigint",
    ),
    ("42P18", "cast the parameters, as in $1::text"),
    (
        "08P01",
        "give as many parameters as the statement refers to",
    ),
    ("42501", "grant the user of postgres.url the right to it"),
    ("42P01", "correct the name, with its schema"),
    ("42", "correct postgres.statement"),
    ("22", "correct the parameter, or what it is cast to"),
    ("23", "the database does not accept such a row"),
    ("28", "user or password of postgres.url are wrong"),
    ("3D000", "correct the database in postgres.url"),
    (
        "P0001",
        "the function raised this; what is to be attempted again is raised with errcode 40001",
    ),
];

/// Cancelled by its own `statement_timeout`.
const CANCELED: &str = "57014";

/// What came of a statement at `host` that failed.
pub(super) fn classify(host: &str, error: &sqlx::Error) -> Outcome {
    let passes = |kind, message| Outcome::Retry {
        failure: Failure::of(kind, message),
        after: None,
    };
    let told = match error {
        sqlx::Error::Database(told) => told,
        sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => {
            let message = format!("cannot run the statement at {host}: {error}");
            return Outcome::Refused(Failure::of(FailureKind::Status, message));
        }
        _ => {
            let message = format!("no connection to {host}, or it broke: {error}");
            return passes(FailureKind::Connection, message);
        }
    };
    let code = told.code().unwrap_or_default();
    let said = format!("{host} refuses ({code}): {}", told.message());
    if code == CANCELED {
        return passes(FailureKind::Timeout, said);
    }
    let remedy = REMEDIES.iter().find(|(known, _)| code.starts_with(known));
    let passing = PASSING.iter().any(|known| code.starts_with(known)) && code != "08P01";
    if passing {
        return passes(FailureKind::Status, said);
    }
    let message = match remedy {
        Some((_, remedy)) => format!("{said}; {remedy}"),
        None => said,
    };
    Outcome::Refused(Failure::of(FailureKind::Status, message))
}
