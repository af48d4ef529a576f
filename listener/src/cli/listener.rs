//! A listener whose files were named: its database, what it runs, and where its jobs are.

use std::sync::Arc;

use ::queue::JobQueue;
use crds::config::ListenerConfig;
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::delivery::event::Event;
use observer_listener::history::outcome::{self, EventProgress, ObserverOutcome, OutcomeError};
use observer_listener::migrate;
use observer_listener::observers::Observers;
use serde::Serialize;
use sqlx::PgPool;

use super::schema::connect;
use super::{CliError, DatabaseArgs, check, files, identity, jobs, no_observer};

/// A listener as its files describe it, for commands that run nothing.
pub(super) struct OpenListener {
    pub(super) identity: String,
    pub(super) config: ListenerConfig,
    pub(super) observers: Observers,
    pub(super) queue: Arc<dyn JobQueue>,
}

/// What became of an event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventOutcome {
    pub(super) progress: EventProgress,
    pub(super) observers: Vec<ObserverOutcome>,
}

/// Opens the database, and the listener where files name it.
pub(super) async fn open(args: DatabaseArgs) -> Result<(PgPool, Option<OpenListener>), CliError> {
    let Some(described) = args.described() else {
        let pool = connect(&args.resolve().await?.url).await?;
        migrate::verify(&pool).await?;
        return Ok((pool, None));
    };
    let loaded = files::load(&described).await?;
    let listener = &loaded.bundle.listener;
    let shared = ActionRuntime::new(&listener.egress, &EndpointRegistry::default())?
        .with_listener(&listener.identity());
    let observers = check::compile(&described, &loaded, &shared)?;
    let pool = connect(&listener.database_url).await?;
    migrate::verify(&pool).await?;
    let queue = jobs::of_listener(listener, pool.clone()).await?;
    let listener = OpenListener {
        identity: listener.identity(),
        config: loaded.bundle.listener,
        observers,
        queue,
    };
    Ok((pool, Some(listener)))
}

impl OpenListener {
    /// Returns what became of an event.
    pub(super) async fn outcome(
        &self,
        pool: &PgPool,
        event: &Event,
    ) -> Result<EventOutcome, OutcomeError> {
        let queue = self.queue.as_ref();
        let (progress, observers) =
            outcome::of_event(pool, queue, &self.identity, &self.observers, event).await?;
        Ok(EventOutcome {
            progress,
            observers,
        })
    }

    /// Returns the identity of an observer that the listener runs; fails if it runs none of that name.
    pub(super) fn observer(&self, name: String) -> Result<String, CliError> {
        let name = identity(name);
        let names: Vec<&str> = self.observers.names().collect();
        if names.contains(&name.as_str()) {
            return Ok(name);
        }
        Err(CliError::Config(no_observer(&name, &names)))
    }
}
