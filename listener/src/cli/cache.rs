//! `cache`: show what the caches of a listener's processes hold and have served, or drop results from them.

use clap::{ArgGroup, Args, Subcommand};
use crds::config::Bundle;
use observer_listener::cache::CacheStats;
use observer_listener::cache::commands::{self, Invalidation};
use observer_listener::coordination::heartbeat::{self, MemberState};

use super::output::{OutputFormat, say};
use super::schema::open_database_of_listener;
use super::table::{one_line, print};
use super::{CliError, DatabaseArgs, identity, observer_of};

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Show what the cache of each process holds, and how it has served requests
    Stats {
        /// Output format
        #[arg(long, short, value_enum, default_value_t)]
        output: OutputFormat,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Drop results from the caches of all processes, which learn of it within about a second
    Invalidate(InvalidateArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["all", "observer", "entity"]).required(true))]
pub(super) struct InvalidateArgs {
    /// All results
    #[arg(long)]
    all: bool,
    /// Results of this observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only results of this lookup or action of the observer
    #[arg(long, value_name = "NAME", requires = "observer")]
    name: Option<String>,
    /// Results that a change of this entity ends (`invalidateOn`)
    #[arg(long, value_name = "NAME")]
    entity: Option<String>,
    /// Only results that depend on its row with this key
    #[arg(long, value_name = "KEY", requires = "entity")]
    key: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs a `cache` command.
pub(super) async fn cache(command: CacheCommand) -> Result<(), CliError> {
    match command {
        CacheCommand::Stats { output, database } => stats(database, output).await,
        CacheCommand::Invalidate(args) => invalidate(args).await,
    }
}

const HEAD: [&str; 9] = [
    "PROCESS", "RESULTS", "BYTES", "REQUESTS", "MEMORY", "REDIS", "JOINED", "STALE", "MADE",
];

async fn stats(database: DatabaseArgs, output: OutputFormat) -> Result<(), CliError> {
    let (pool, listener) = open_database_of_listener(&database.resolve().await?).await?;
    let members = heartbeat::members(&pool, &listener).await?;
    let with_cache: Vec<(&MemberState, &CacheStats)> = members
        .iter()
        .filter_map(|member| Some((member, member.cache.as_ref()?)))
        .collect();
    if matches!(output, OutputFormat::Json) {
        let all: serde_json::Map<_, _> = with_cache
            .iter()
            .map(|(member, stats)| (member.name.clone(), serde_json::json!(stats)))
            .collect();
        return say!("{}", serde_json::Value::Object(all));
    }
    if with_cache.is_empty() {
        return say!("no running process of {listener} has a lookup or an action with a cache");
    }
    let rows: Vec<[String; 9]> = with_cache
        .iter()
        .map(|(member, stats)| row(member, stats))
        .collect();
    print(HEAD, &rows)
}

fn row(member: &MemberState, stats: &CacheStats) -> [String; 9] {
    let served = |how: &str| stats.served.get(how).copied().unwrap_or(0);
    let made = ["miss", "refreshed", "bypassed"]
        .map(served)
        .iter()
        .sum::<u64>();
    let requests = stats.served.values().sum::<u64>();
    let numbers = [
        stats.entries,
        stats.bytes,
        requests,
        served("memory"),
        served("redis"),
        served("joined"),
        served("stale"),
        made,
    ];
    let mut numbers = numbers.into_iter();
    std::array::from_fn(|n| match n {
        0 => one_line(&member.name),
        _ => numbers.next().unwrap_or_default().to_string(),
    })
}

async fn invalidate(args: InvalidateArgs) -> Result<(), CliError> {
    let database = args.database.resolve().await?;
    let what = Invalidation {
        observer: args.observer.map(identity),
        name: args.name,
        entity: args.entity,
        key: args.key,
    };
    let texts = [&what.observer, &what.name, &what.entity, &what.key];
    if texts.into_iter().flatten().any(String::is_empty) {
        return Err(CliError::Config(
            "a name or a key is empty; leave the option out to drop more".to_owned(),
        ));
    }
    if let Some(bundle) = &database.bundle {
        check_names(bundle, &what)?;
    }
    let (pool, listener) = open_database_of_listener(&database).await?;
    commands::invalidate(&pool, &listener, &what).await?;
    say!("dropped; running processes of {listener} learn of it within about a second")
}

/// Fails if the files have no such observer, lookup or action, since the name may be mistyped.
fn check_names(bundle: &Bundle, what: &Invalidation) -> Result<(), CliError> {
    let Some(observer) = &what.observer else {
        return Ok(());
    };
    let found = observer_of(bundle, observer)?;
    let lookups = found.enrich.iter().map(|one| &one.name);
    let mut names = lookups.chain(found.actions.iter().map(|one| &one.name));
    match &what.name {
        Some(name) if names.all(|one| one != name) => Err(CliError::Config(format!(
            "observer {observer} has no lookup or action {name}"
        ))),
        _ => Ok(()),
    }
}
