//! fraiseql-observers as a program: `setup URL` makes its tables, `run URL SINK` posts every row of
//! the type `Item` that is captured.
//!
//! The library's own loop, with what makes it fast and keeps it safe: large batches, and a window
//! for late commits of some seconds in place of a quarter of an hour, since nothing here commits
//! later than that and each poll reads all of the window.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use fraiseql_observers::sqlx::{self, postgres::PgPoolOptions};
use fraiseql_observers::uuid::Uuid;
use fraiseql_observers::{
    ActionConfig, ChangeLogListener, ChangeLogListenerConfig, DeadLetterQueue, DlqItem,
    EntityEvent, EventMatcher, ObserverDefinition, ObserverExecutor, Result, migrations,
};

const BATCH: usize = 1000;
const COMMIT_LAG: Duration = Duration::from_secs(5);

/// Says what was given up.
struct Told;

#[async_trait]
impl DeadLetterQueue for Told {
    async fn push(&self, event: EntityEvent, _: ActionConfig, error: String) -> Result<Uuid> {
        eprintln!("given up: {}: {error}", event.id);
        Ok(event.id)
    }

    async fn get_pending(&self, _: i64) -> Result<Vec<DlqItem>> {
        Ok(Vec::new())
    }

    async fn mark_success(&self, _: Uuid) -> Result<()> {
        Ok(())
    }

    async fn mark_retry_failed(&self, _: Uuid, _: &str) -> Result<()> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["setup", url] => setup(url).await,
        ["run", url, sink] => run(url, sink).await,
        _ => bail!("setup URL, or run URL SINK"),
    }
}

async fn setup(url: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
    for sql in [
        migrations::entity_change_log_contract_sql(),
        migrations::entity_change_log_capture_trigger_sql(),
        migrations::observer_dispatch_sql(),
    ] {
        sqlx::raw_sql(sql).execute(&pool).await?;
    }
    Ok(())
}

async fn run(url: &str, sink: &str) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(4).connect(url).await?;
    let observer = ObserverDefinition {
        event_type: "INSERT".to_owned(),
        entity: "Item".to_owned(),
        condition: None,
        actions: vec![ActionConfig::Webhook {
            url: Some(sink.to_owned()),
            url_env: None,
            method: None,
            headers: HashMap::new(),
            body_template: None,
            signing_secret: None,
            signing_secret_env: None,
        }],
        retry: fraiseql_observers::RetryConfig::default(),
        on_failure: fraiseql_observers::FailurePolicy::default(),
    };
    let observers = HashMap::from([("speed".to_owned(), observer)]);
    let matcher = EventMatcher::build(observers)?;
    let executor = ObserverExecutor::new(matcher, Arc::new(Told));
    let config = ChangeLogListenerConfig::new(pool)
        .with_listener_id("speed")
        .with_batch_size(BATCH)
        .with_poll_interval(10)
        .with_commit_lag_window(COMMIT_LAG);
    let mut listener = ChangeLogListener::new(config);
    listener.init_dispatch_ledger().await?;
    executor
        .run_listener_loop(&mut listener, None)
        .await
        .context("the loop has ended")
}
