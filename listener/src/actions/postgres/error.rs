//! Errors of Postgres, as delivery errors.

use std::io::ErrorKind;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use crate::egress::response::{DeliveryError, append_remedy, connection_failed};

/// Classes and codes of transient errors: no connection, conflicts, lack of resources, a server that
/// shuts down or is read-only.
const PASSING: [&str; 14] = [
    "08", "40", "53", "57P", "58", "55P03", "55006", "25006", "XX000",
    // A time limit of the role's ended the session, or the snapshot is too old.
    "25P03", "25P04", "72000",
    // A pooler has replaced the session in which the statement was prepared.
    "26000", "42P05",
];

/// Those of them that concern what the statement touches, and not the server.
const OWN: [&str; 3] = ["40", "55P03", "55006"];

/// Remedies for others, by the beginning of their codes.
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
    (
        "42501",
        "grant the user by whom the statement runs the right to it",
    ),
    ("42P01", "correct the name, with its schema"),
    ("42", "correct postgres.statement"),
    ("22", "correct the parameter, or what it is cast to"),
    ("23", "the database does not accept such a row"),
    ("28", "user or password of the URL are wrong"),
    ("3D000", "correct the database in the URL"),
    (
        "P0001",
        "the function raised this; what is to be attempted again is raised with errcode 40001",
    ),
];

/// A write in a read-only transaction.
pub(super) const READ_ONLY: &str = "25006";

/// A feature that Postgres does not have; also how it refuses a plan that has grown old.
const NOT_SUPPORTED: &str = "0A000";

/// Where in Postgres a plan is refused whose statement returns other columns than it did: the text
/// comes in the server's language.
const PLAN_REFUSED_IN: &str = "RevalidateCachedQuery";

/// Errors of the session and not of the statement.
const OF_SESSION: [&str; 3] = ["25006", "26000", "42P05"];

/// Returns whether a statement failed because what it returns has changed since it was prepared, as
/// after `alter table`. It stays refused for as long as the session lasts.
pub(super) fn plan_is_old(error: &sqlx::Error) -> bool {
    let told = error.as_database_error();
    told.is_some_and(|told| {
        let of_postgres = told.try_downcast_ref::<PgDatabaseError>();
        told.code().is_some_and(|code| code == NOT_SUPPORTED)
            && of_postgres.is_some_and(|told| told.routine() == Some(PLAN_REFUSED_IN))
    })
}

/// Returns whether the session is useless for further attempts.
pub(super) fn session_is_useless(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.is_some_and(|code| OF_SESSION.contains(&&*code)) || plan_is_old(error)
}

/// Cancelled by its own `statement_timeout`.
const CANCELED: &str = "57014";

/// Returns what an error of a statement means.
pub(super) fn delivery_error(error: &sqlx::Error) -> DeliveryError {
    let told = match error {
        sqlx::Error::Database(told) => told,
        sqlx::Error::Configuration(_) | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => {
            return DeliveryError::Permanent(
                format!("the statement cannot be sent: {error}"),
                None,
            );
        }
        sqlx::Error::Tls(_) => return DeliveryError::Misconfigured(error.to_string()),
        sqlx::Error::Io(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
            return DeliveryError::Unreachable(format!("no connection: {cause}"));
        }
        _ => return connection_failed(::queue::describe_error(error)),
    };
    let code = told.code().unwrap_or_default();
    let said = format!("{code} {}", told.message());
    let passing = PASSING.iter().any(|known| code.starts_with(known)) && code != "08P01";
    if OWN.iter().any(|known| code.starts_with(known)) {
        return DeliveryError::TemporarilyRejected(said, None);
    }
    if passing || code == CANCELED || plan_is_old(error) {
        return DeliveryError::Unavailable(said, None);
    }
    DeliveryError::Permanent(
        append_remedy(said, &REMEDIES, |known| code.starts_with(known)),
        None,
    )
}
