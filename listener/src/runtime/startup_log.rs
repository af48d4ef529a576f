//! What a listener logs at its start: which database it reads, and what its observers watch.

use crds::config::{ListenerConfig, StartAt};
use sqlx::PgPool;

use crate::checkpoint::stored_rows;
use crate::database;
use crate::observers::Observers;

/// Maximum number of observers that are logged one by one.
const MAX_LOGGED: usize = 50;

/// Logs the database, without user and password, and the observers.
pub(super) fn log_listener(listener: &ListenerConfig, observers: &Observers) {
    let name = listener.identity();
    // A URL that cannot be read is an error of the first connection.
    if let Ok(options) = database::options(&listener.database_url) {
        let (host, port) = (options.get_host(), options.get_port());
        // Postgres takes the user's name where no database is named.
        let database = options
            .get_database()
            .unwrap_or("(that of the user's name)");
        tracing::info!(
            listener = name,
            database = format!("{host}:{port}/{database}"),
            "reading the changes of a database"
        );
    }
    let rules = observers.rules();
    for rule in rules.iter().take(MAX_LOGGED) {
        let operations: Vec<&str> = rule.operations.iter().map(|one| one.as_str()).collect();
        tracing::info!(
            listener = name,
            observer = &*rule.observer,
            entity = rule.entity,
            operations = operations.join(", "),
            "observing"
        );
    }
    if rules.len() > MAX_LOGGED {
        let more = rules.len() - MAX_LOGGED;
        tracing::info!(listener = name, more, "observing, with more observers");
    }
}

/// Logs where a listener starts that has never run under its name.
pub(super) async fn log_first_run(
    pool: &PgPool,
    listener: &str,
    (start, entities): (StartAt, &[String]),
) {
    match start {
        StartAt::Beginning => {
            // The number is for people to read, and nothing to fail for.
            let events = stored_rows::count_rows(pool, listener).await;
            let events =
                events.map_or_else(|_| "all events".to_owned(), |kept| kept.events.of("event"));
            tracing::info!(
                listener,
                "this listener runs for the first time under this name, and begins with what the log holds: {events}. To \
                 begin with what comes next, set spec.startAt to Now before the first run, or run \
                 `observer-listener reset-position --to latest`"
            );
        }
        StartAt::Now => tracing::info!(
            listener,
            "this listener runs for the first time under this name, and begins with what is committed from now on \
             (spec.startAt: Now)"
        ),
        StartAt::Backfill if entities.is_empty() => tracing::warn!(
            listener,
            "this listener runs for the first time under this name, and no observer watches the operation Read: nothing is \
             backfilled (spec.startAt: Backfill). Add Read to spec.events.operations of an observer, and run \
             `observer-listener backfill start`"
        ),
        StartAt::Backfill => tracing::info!(
            listener,
            tables = entities.join(", "),
            "this listener runs for the first time under this name, and begins with the rows of these tables and with what \
             is committed from now on (spec.startAt: Backfill)"
        ),
    }
}
