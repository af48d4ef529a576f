//! Errors of Postgres.

use sqlx::error::DatabaseError;

use crate::error::SearchError;

impl From<sqlx::Error> for SearchError {
    fn from(error: sqlx::Error) -> Self {
        let message = queue::describe_error(&error);
        match &error {
            sqlx::Error::Database(database) if is_lasting(&**database) => Self::Refused(message),
            sqlx::Error::Configuration(_) => Self::Refused(message),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::TypeNotFound { .. } => Self::Response(message),
            _ => Self::Unavailable(message),
        }
    }
}

/// Whether the same statement would fail again: for lack of a table or a right, or by its own fault. All
/// else passes: a server that restarts, is a standby, is full, or has too much to do.
fn is_lasting(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    // Features, data, authorization, catalog, syntax or rights, limits of the program.
    matches!(
        code.get(..2),
        Some("0A" | "22" | "23" | "28" | "3D" | "3F" | "42" | "54")
    )
}
