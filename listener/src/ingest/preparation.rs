//! Preparation of a source before a listener reads it: what its server needs, and the slot, which holds all that is
//! written from then on.

use crds::config::WalSourceConfig;
use sqlx::PgPool;

use super::connection::{catalog_pool, check};
use super::error::IngestError;
use super::opening;
use super::setup::{self, Mode};
use super::store::SourceStore;
use crate::tracking::step::{Step, StepFailure, StepOutcome};

/// Makes what is missing, or says what would be made. Returns what became of each step.
pub async fn prepare(
    log: &PgPool,
    source: &WalSourceConfig,
    dry_run: bool,
) -> Result<Vec<Step>, IngestError> {
    let mode = if dry_run { Mode::DryRun } else { Mode::All };
    let pool = catalog_pool(&source.database_url)?;
    let prepared = async {
        check(&pool, &source.database_url).await?;
        let steps = setup::prepare(&pool, source, mode).await?;
        let user: String = sqlx::query_scalar("select quote_ident(current_user)")
            .fetch_one(&pool)
            .await
            .map_err(IngestError::Catalog)?;
        Ok::<_, IngestError>((steps, user))
    };
    let result = prepared.await;
    pool.close().await;
    let (mut steps, user) = result?;
    setup::check_not_tracked(log, source).await?;
    let name = SourceStore::slot_name(log, source).await?;
    // A table that is published after the slot is made has changes in it that are never sent.
    let is_published = steps
        .iter()
        .all(|step| step.failure().is_none() || !step.what.starts_with(setup::PUBLICATION));
    let outcome = if is_published {
        slot(log, source, (&name, &user), dry_run).await?
    } else {
        StepOutcome::Failed(StepFailure {
            reason: crds::pod_status::SOURCE_NOT_READ,
            why: "it is made once the publication is complete: run this command again then"
                .to_owned(),
            sql: None,
        })
    };
    steps.push(Step::new(format!("replication slot {name}"), outcome));
    Ok(steps)
}

async fn slot(
    log: &PgPool,
    source: &WalSourceConfig,
    (name, user): (&str, &str),
    dry_run: bool,
) -> Result<StepOutcome, IngestError> {
    let saved = SourceStore::saved(log, name).await?;
    if !dry_run {
        // Whoever drops the listener finds the slot by it, if it never ran, too.
        SourceStore::name_only(log, name).await?;
    }
    match opening::prepare_slot(source, name, saved, dry_run).await {
        Err(error @ (IngestError::ForeignSlot { .. } | IngestError::SlotLost { .. })) => {
            Ok(StepOutcome::Failed(error.into()))
        }
        // The message of a server has its SQLSTATE.
        Err(IngestError::Session(error)) if error.to_string().contains(setup::NO_RIGHT) => {
            let refused = IngestError::Rights {
                what: "the slot cannot be looked at".to_owned(),
                reason: error.to_string(),
                sql: format!("alter role {user} with replication"),
            };
            Ok(StepOutcome::Failed(refused.into()))
        }
        other => other,
    }
}
