//! `replay`: deliver past events again.

use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};
use crds::config::Bundle;
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::dead_letters::replay::{self, ReplaySelection};
use observer_listener::migrate;
use program::logs;
use serde::Serialize;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::dead_letters::moment;
use super::output::{OutputFormat, PICKUP_NOTE, confirm, counted, say};
use super::schema::connect;
use super::terminal::Progress;
use super::{CliError, FileArgs, check, dry_run, files, identity, observer_of};

/// Events per request without a rate.
const BATCH: i64 = 500;

/// Interval of requests at a rate.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files", "bundle"]).required(true))]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: String,
    /// Only this action
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Start of the period, as 2026-03-01T12:00:00Z, or 24h for 24 hours ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: DateTime<Utc>,
    /// End of the period, in the same format; default: now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<DateTime<Utc>>,
    /// Only events of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Events per second to request; default: all at once
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Only print how many events would be delivered, how many would not, and which parts of the condition
    /// are false
    #[arg(long)]
    dry_run: bool,
    /// Maximum number of events that a dry run evaluates, the newest ones
    #[arg(
        long, value_name = "EVENTS", default_value_t = 10_000, requires = "dry_run",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000)
    )]
    limit: u64,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// Confirm that the events are delivered again
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// Runs `replay`.
pub(super) async fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let (rate, dry_run, yes) = (args.rate, args.dry_run, args.yes);
    let (limit, output) = (args.limit, args.output);
    let loaded = files::load(&args.files).await?;
    let bundle = &loaded.bundle;
    // What a replay does is up to the running listener, whose files these may not be.
    let observers = if dry_run {
        let shared = ActionRuntime::new(&bundle.listener.egress, &EndpointRegistry::default())?
            .with_listener(&bundle.listener.identity());
        Some(check::compile(&args.files, &loaded, &shared)?)
    } else {
        None
    };
    let selection = selection(args, bundle)?;
    let pool = connect(&bundle.listener.database_url).await?;
    migrate::verify(&pool).await?;
    match replay::oldest(&pool).await? {
        Some(oldest) if selection.from < oldest => logs::say(&format!(
            "the change log starts at {}; spec.database.retention sets how long events are kept\n",
            oldest.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        )),
        _ => {}
    }
    let all = replay::count(&pool, &selection).await?;
    if let Some(observers) = observers {
        return dry_run::print(&pool, &observers, &selection, (all, limit), output).await;
    }
    let would = format!(
        "{} of {} would be evaluated again",
        counted(all, "event", "events"),
        selection.entity
    );
    confirm(
        yes,
        &format!("{would}, and delivered again if the condition holds"),
    )
    .await?;
    let (events, requested) = request_all(&pool, &selection, rate, all).await?;
    let per_event = u64::try_from(selection.actions.len()).unwrap_or(u64::MAX);
    let skipped = (events * per_event).saturating_sub(requested);
    if let OutputFormat::Json = output {
        let replayed = Replayed {
            events,
            requested,
            skipped,
        };
        return say!("{}", serde_json::to_string_pretty(&replayed)?);
    }
    say!(
        "{}, {} requested, to be made if the condition holds; {PICKUP_NOTE}",
        counted(events, "event", "events"),
        counted(requested, "delivery", "deliveries")
    )?;
    if skipped > 0 {
        say!(
            "skipped because they are dead letters or requested already: {}; `dead-letters redrive` retries those",
            counted(skipped, "delivery", "deliveries")
        )?;
    }
    Ok(())
}

/// What was requested, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    events: u64,
    /// Number of deliveries that were requested.
    requested: u64,
    /// Number of deliveries that are dead letters or were requested before.
    skipped: u64,
}

/// Returns the events and actions to replay; fails if the listener does not have them.
fn selection(args: ReplayArgs, bundle: &Bundle) -> Result<ReplaySelection, CliError> {
    let name = identity(args.observer);
    let observer = observer_of(bundle, &name)?;
    let actions = observer.actions.iter().map(|action| action.name.clone());
    let wanted = args.action.as_ref();
    let actions: Vec<String> = actions
        .filter(|name| wanted.is_none_or(|wanted| wanted == name))
        .collect();
    if actions.is_empty() {
        let wanted = wanted.map(String::as_str).unwrap_or_default();
        return Err(CliError::Config(format!(
            "observer {name} has no action {wanted}"
        )));
    }
    let other = observer.tenant.as_ref().zip(args.tenant.as_ref());
    if let Some((own, other)) = other.filter(|(own, other)| own != other) {
        return Err(CliError::Config(format!(
            "observer {name} only sees tenant {own}, not {other}"
        )));
    }
    Ok(ReplaySelection {
        listener: bundle.listener.identity(),
        observer: name,
        actions,
        entity: observer.entity.clone(),
        operations: observer.operations.clone(),
        tenant: observer.tenant.clone().or(args.tenant),
        key: args.key,
        from: args.from,
        to: args.to.unwrap_or_else(Utc::now),
    })
}

/// Requests the replay of all events, at a rate if given. Returns the number of events and of deliveries.
async fn request_all(
    pool: &PgPool,
    selection: &ReplaySelection,
    rate: Option<u32>,
    all: u64,
) -> Result<(u64, u64), CliError> {
    let progress = Progress::new(("event", "events"), Some(all));
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut after, mut events, mut requested, mut due) = (Some(0), 0, 0, 0.0);
    while let Some(from) = after {
        let most = match rate {
            None => BATCH,
            Some(rate) => {
                ticks.tick().await;
                due += f64::from(rate) * INTERVAL.as_secs_f64();
                let whole = f64::min(due, 10_000.0).floor();
                due -= whole;
                #[allow(clippy::cast_possible_truncation, reason = "at most ten thousand")]
                let whole = whole as i64;
                whole
            }
        };
        // At a rate below two per second, some ticks have none.
        if most == 0 {
            continue;
        }
        let step = replay::request(pool, selection, from, most).await?;
        (after, events) = (step.after, events + step.events);
        requested += step.requested;
        progress.show(events, "");
    }
    Ok((events, requested))
}
