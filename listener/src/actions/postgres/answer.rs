//! What errors of Postgres say.

use std::io::ErrorKind;

use super::super::answer::{Answer, advised, broken};

/// Classes and codes of errors that pass by themselves: no connection, conflicts with others, too few
/// resources, a server that stops or only reads.
const PASSING: [&str; 9] = [
    "08", "40", "53", "57P", "58", "55P03", "55006", "25006", "XX000",
];

/// Those among them that concern what the statement touches, and not the server.
const OWN: [&str; 3] = ["40", "55P03", "55006"];

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

/// What an error of a statement says.
pub(super) fn read(error: &sqlx::Error) -> Answer {
    let told = match error {
        sqlx::Error::Database(told) => told,
        sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => {
            return Answer::Never(format!("the statement cannot be sent: {error}"), None);
        }
        sqlx::Error::Tls(_) => return Answer::SetUp(error.to_string()),
        sqlx::Error::Io(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
            return Answer::Away(format!("no connection: {cause}"));
        }
        _ => return broken(::queue::told(error)),
    };
    let code = told.code().unwrap_or_default();
    let said = format!("{code} {}", told.message());
    let passing = PASSING.iter().any(|known| code.starts_with(known)) && code != "08P01";
    if OWN.iter().any(|known| code.starts_with(known)) {
        return Answer::Later(said, None);
    }
    if passing || code == CANCELED {
        return Answer::Busy(said, None);
    }
    Answer::Never(
        advised(said, &REMEDIES, |known| code.starts_with(known)),
        None,
    )
}
