//! The reasons of errors on `/status`.

use crds::pod_status::PodProblem;

use crate::telemetry::health::DATABASE_UNREACHABLE;
use ::queue::QueueError;
use ::queue::redis::OpenError;

use super::error::RunError;
use crate::capture::change_log::LogError;
use crate::capture::reader::ReadError;
use crate::checkpoint::CheckpointError;
use crate::database::DatabaseError;
use crate::dispatch::DispatchError;
use crate::jobs::backend::QueueBackendError;
use crate::migrate::MigrateError;

/// Returns the problem of an error: the reason that a condition has, and a message with the remedy.
pub(super) fn problem(error: &RunError) -> PodProblem {
    PodProblem {
        reason: reason(error).to_owned(),
        message: error.to_string(),
    }
}

fn reason(error: &RunError) -> &'static str {
    match error {
        RunError::Database(DatabaseError::Url(_)) => "DatabaseUrlInvalid",
        RunError::Database(
            DatabaseError::Unreachable { .. } | DatabaseError::Unwritable { .. },
        )
        | RunError::DatabaseOutage(_) => DATABASE_UNREACHABLE,
        RunError::Database(DatabaseError::Full { .. }) => "DatabaseFull",
        RunError::Database(DatabaseError::Pooled { .. }) => "DatabasePooled",
        RunError::Database(DatabaseError::Refused { .. }) => "DatabaseAccessDenied",
        RunError::Schema(error) => of_schema(error),
        RunError::Log(error) | RunError::Read(ReadError::Log(error)) => of_log(error),
        RunError::Claim(error) | RunError::Dispatch(DispatchError::Checkpoint(error)) => {
            of_checkpoint(error)
        }
        RunError::Queue(QueueBackendError::Database(error)) => of_database(error),
        RunError::Queue(QueueBackendError::Queue(error)) => of_queue(error),
        RunError::Queue(QueueBackendError::Redis(OpenError::Redis(_))) => "QueueUnreachable",
        RunError::Queue(QueueBackendError::Switched(_)) => "QueueSwitched",
        RunError::Queue(
            QueueBackendError::LeftInRedis
            | QueueBackendError::Redis(OpenError::Address(_) | OpenError::Evicts(_)),
        ) => "QueueMisconfigured",
        RunError::ConfigOutdated { .. } => "ConfigOutdated",
        RunError::Read(ReadError::ServerRestarted) => "DatabaseRestarted",
        RunError::Read(ReadError::Ahead(_)) => "CheckpointMismatch",
        RunError::Dispatch(DispatchError::Task(_) | DispatchError::Reader)
        | RunError::Metrics(_)
        | RunError::Listen { .. }
        | RunError::Membership(_)
        | RunError::Task(_) => "InternalError",
    }
}

fn of_schema(error: &MigrateError) -> &'static str {
    match error {
        MigrateError::Missing => "SchemaMissing",
        MigrateError::Older { .. }
        | MigrateError::OlderFunctions { .. }
        | MigrateError::InUse { .. }
        | MigrateError::Step(_) => "SchemaOutdated",
        MigrateError::Newer { .. } | MigrateError::NewerFunctions { .. } => "SchemaNewer",
        MigrateError::Changed(_) | MigrateError::Superseded { .. } | MigrateError::Foreign => {
            "SchemaConflict"
        }
        MigrateError::OldServer(_) => "PostgresTooOld",
        MigrateError::Encoding(_) => "DatabaseEncoding",
        MigrateError::Privilege { .. } => "DatabaseAccessDenied",
        MigrateError::Database(error) => of_database(error),
    }
}

fn of_log(error: &LogError) -> &'static str {
    match error {
        LogError::Database(error) => of_database(error),
        LogError::Snapshot(_) | LogError::Operation { .. } => "ChangeLogCorrupted",
    }
}

fn of_checkpoint(error: &CheckpointError) -> &'static str {
    match error {
        CheckpointError::Database(error) => of_database(error),
        CheckpointError::Log(error) => of_log(error),
        CheckpointError::Queue(error) => of_queue(error),
        CheckpointError::QueueSwitched => "QueueSwitched",
        CheckpointError::ServerRestarted => "DatabaseRestarted",
        CheckpointError::Foreign { .. } | CheckpointError::Ahead(_) => "CheckpointMismatch",
        CheckpointError::Corrupted { .. } | CheckpointError::Encode(_) => "CheckpointCorrupted",
    }
}

fn of_queue(error: &QueueError) -> &'static str {
    match error {
        QueueError::Postgres(error) => of_database(error),
        _ => "QueueUnreachable",
    }
}

/// A server that says no because of what it was asked is there; all else may pass by itself.
fn of_database(error: &sqlx::Error) -> &'static str {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    match code.as_deref().and_then(|code| code.get(..2)) {
        // Lack of rights, and names that are not there.
        Some("28" | "42") => "DatabaseAccessDenied",
        _ => DATABASE_UNREACHABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_of_an_error_says_what_can_be_done() {
        let cases = [
            (RunError::Schema(MigrateError::Missing), "SchemaMissing"),
            (
                RunError::Schema(MigrateError::Older {
                    found: 1,
                    needed: 2,
                }),
                "SchemaOutdated",
            ),
            (
                RunError::Read(ReadError::ServerRestarted),
                "DatabaseRestarted",
            ),
            (
                RunError::Log(LogError::Database(sqlx::Error::PoolTimedOut)),
                "DatabaseUnreachable",
            ),
        ];
        for (error, reason) in cases {
            let problem = problem(&error);
            assert_eq!(problem.reason, reason);
            assert!(!problem.message.is_empty());
        }
    }
}
