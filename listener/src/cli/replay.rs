//! `replay`: past events once more.

use std::io::IsTerminal;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args};
use crds::config::Bundle;
use observer_listener::dead_letters::replay::{self, Selection};
use observer_listener::migrate;
use program::logs;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::dlq::{TAKEN_UP, moment};
use super::output::{agreed, counted, say};
use super::schema::connect;
use super::{CliError, FileArgs, files, identity};

/// Most events that are asked for by one statement.
const AT_ONCE: i64 = 500;

/// Time between two parts at a rate.
const PART: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files"]).required(true))]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    files: FileArgs,
    /// The observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: String,
    /// Only this action of it
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// From this time on, as 2026-03-01T12:00:00Z, or 24h for so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: DateTime<Utc>,
    /// Until this time, written the same way; left out, until now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<DateTime<Utc>>,
    /// Only events of this key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Most events to hand to the listener in a second; left out, all at once
    #[arg(long, value_name = "PER SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Only say how many events there are
    #[arg(long)]
    dry_run: bool,
    /// Really send them once more
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// Runs `replay`.
pub(super) async fn replay(args: ReplayArgs) -> Result<(), CliError> {
    let (rate, dry_run, yes) = (args.rate, args.dry_run, args.yes);
    let bundle = files::load(&args.files)?.bundle;
    let what = selection(args, &bundle)?;
    let pool = connect(&bundle.listener.database_url).await?;
    migrate::verify(&pool).await?;
    match replay::oldest(&pool).await? {
        Some(oldest) if what.from < oldest => logs::say(&format!(
            "the log holds no events from before {}; spec.database.retention says for how long it does\n",
            oldest.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        )),
        _ => {}
    }
    let all = replay::count(&pool, &what).await?;
    let would = format!(
        "{} of {} would be looked at once more",
        counted(all, "event", "events"),
        what.entity
    );
    if dry_run {
        return say!("{would}");
    }
    agreed(
        yes,
        &format!("{would}, and delivered once more where the condition holds"),
    )?;
    let (events, asked) = ask_for_all(&pool, &what, rate, all).await?;
    say!(
        "{}, {} to make once more where the condition holds; {TAKEN_UP}",
        counted(events, "event", "events"),
        counted(asked, "delivery", "deliveries")
    )?;
    let per_event = u64::try_from(what.actions.len()).unwrap_or(u64::MAX);
    let known = (events * per_event).saturating_sub(asked);
    if known > 0 {
        say!(
            "left out as dead letters, or asked for already: {}; `dead-letters redrive` has those made",
            counted(known, "delivery", "deliveries")
        )?;
    }
    Ok(())
}

/// The events and actions that the arguments name, all of which the listener must have.
fn selection(args: ReplayArgs, bundle: &Bundle) -> Result<Selection, CliError> {
    let name = identity(args.observer);
    let known = bundle.observers.iter();
    let Some(observer) = known.clone().find(|one| one.identity() == name) else {
        let names: Vec<String> = known.map(crds::config::ObserverConfig::identity).collect();
        return Err(CliError::Config(format!(
            "the listener runs no observer {name}; it runs {}",
            names.join(", ")
        )));
    };
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
            "observer {name} sees tenant {own} only, and not {other}"
        )));
    }
    Ok(Selection {
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

/// Hands all to the listener, bit by bit where there is a rate. Returns how many events that were,
/// and how many deliveries.
async fn ask_for_all(
    pool: &PgPool,
    what: &Selection,
    rate: Option<u32>,
    all: u64,
) -> Result<(u64, u64), CliError> {
    let shown = std::io::stderr().is_terminal();
    let mut parts = tokio::time::interval(PART);
    parts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut after, mut events, mut asked, mut due) = (Some(0), 0, 0, 0.0);
    while let Some(from) = after {
        let most = match rate {
            None => AT_ONCE,
            Some(rate) => {
                parts.tick().await;
                due += f64::from(rate) * PART.as_secs_f64();
                let whole = f64::min(due, 10_000.0).floor();
                due -= whole;
                #[allow(clippy::cast_possible_truncation, reason = "at most ten thousand")]
                let whole = whole as i64;
                whole
            }
        };
        // A rate below two a second has parts with none.
        if most == 0 {
            continue;
        }
        let step = replay::ask(pool, what, from, most).await?;
        (after, events, asked) = (step.after, events + step.events, asked + step.asked);
        if shown {
            logs::say(&format!("\r{events} of {all}"));
        }
    }
    if shown {
        logs::say("\n");
    }
    Ok((events, asked))
}
