//! `track`: makes a database ready for a listener: tracks its tables, or makes what its write-ahead log is read by.

use clap::{ArgGroup, Args};
use crds::config::{ListenerConfig, SourceConfig};
use observer_listener::ingest::preparation;
use observer_listener::migrate;
use observer_listener::tracking::prepare;
use observer_listener::tracking::step::{Step, StepOutcome};

use super::output::{counted, say};
use super::{CliError, FileArgs, files, schema};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files", "bundle"]).required(true))]
pub(super) struct TrackArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Print the SQL that would be run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Prepares what the source of a listener reads. Fails if something is missing afterwards.
pub(super) async fn track(args: TrackArgs) -> Result<(), CliError> {
    let listener = files::load(&args.files).await?.bundle.listener;
    let steps = match &listener.source {
        SourceConfig::Triggers(listed) if listed.is_empty() => {
            return say!(
                "no table is listed: list tables in spec.source.triggers.tables, as {{table: public.orders}}, or track \
                 them with select observer.track('public.orders')"
            );
        }
        SourceConfig::Kafka(_) => {
            return say!("there is nothing to prepare: the topics are read as they are");
        }
        SourceConfig::Triggers(_) | SourceConfig::Wal(_) => {
            prepare(&listener, args.dry_run).await?
        }
    };
    for step in &steps {
        print(step, args.dry_run)?;
    }
    let missing = steps.iter().filter(|step| step.failure().is_some()).count();
    if missing > 0 {
        let missing = counted(missing as u64, "thing is", "things are");
        return Err(anyhow::anyhow!("{missing} missing, as the lines above say").into());
    }
    Ok(())
}

async fn prepare(listener: &ListenerConfig, dry_run: bool) -> Result<Vec<Step>, CliError> {
    let pool = schema::connect(&listener.database_url).await?;
    migrate::verify(&pool).await?;
    Ok(match listener.source.wal() {
        Some(source) => {
            if source.tables.is_empty() {
                let comment = if dry_run { "-- " } else { "" };
                say!(
                    "{comment}no table is listed, so those of the publication {} are read: list tables in \
                     spec.source.wal.tables, as {{table: public.orders}}",
                    source.publication
                )?;
            }
            preparation::prepare(&pool, source, dry_run).await?
        }
        None => prepare::track(&pool, listener.source.tracked_tables(), dry_run).await?,
    })
}

/// Prints a step; in a dry run as SQL, with comments.
fn print(step: &Step, dry_run: bool) -> Result<(), CliError> {
    let what = &step.what;
    match &step.outcome {
        StepOutcome::Planned(sql) => say!("{sql};"),
        StepOutcome::Done(sql) => say!("{what}: done: {sql};"),
        StepOutcome::There if dry_run => say!("-- {what}: there already"),
        StepOutcome::There => say!("{what}: there already"),
        StepOutcome::Failed(failure) if dry_run => say!("-- {what}: missing: {failure}"),
        StepOutcome::Failed(failure) => say!("{what}: missing: {failure}"),
    }
}
