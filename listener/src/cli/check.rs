//! `check`: all problems of the files at once.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use crds::config::{Bundle, ListenerConfig};
use crds::loader::Loaded;
use crds::manifest::Diagnostic;
use observer_listener::actions::verify_own_database;
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::database;
use observer_listener::lint::lint;
use observer_listener::observers::Observers;
use observer_listener::{migrate, tracking};

use super::output::{counted, say};
use super::{CliError, FileArgs};
use super::{files, sample, schema};

/// Field with the database's URL.
const DATABASE_URL: &str = "spec.database.url";

/// Field with the URL for statements of actions in it.
const OWN_URL: &str = "spec.egress.ownDatabase.url";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files"]).required(true))]
pub(super) struct CheckArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Sample event as JSON, in the format of a webhook body: shows what the observers would do, without
    /// doing it
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Also check the listener's database: whether it tracks the tables of the observers, and whether the
    /// login for statements in it has exactly the rights that it needs
    #[arg(long)]
    online: bool,
}

/// Prints all problems, or a summary if there are none.
pub(super) async fn check(args: &CheckArgs) -> Result<(), CliError> {
    let (loaded, observers, source_map, mut problems) = match files::try_load(&args.files)? {
        Ok(Loaded { bundle, source_map }) => {
            let observers = bundle.observers.clone();
            (Some(bundle), observers, source_map, Vec::new())
        }
        Err(report) => (None, report.partial, report.source_map, report.items),
    };
    let egress = loaded.as_ref().map(|bundle| bundle.listener.egress.clone());
    let shared = ActionRuntime::new(
        &egress.clone().unwrap_or_default(),
        &EndpointRegistry::default(),
    )?;
    let compiled = Observers::compile(&observers, &shared);
    // Without the listener, its egress policy is unknown.
    let never = match &egress {
        Some(_) => observers
            .iter()
            .flat_map(|one| lint(one, &shared))
            .collect(),
        None => Vec::new(),
    };
    {
        let wrong = compiled.as_ref().err().into_iter().flatten();
        let located = wrong
            .chain(&never)
            .map(|one| source_map.diagnostic(&one.observer, &one.path, one.message.clone()));
        // A placeholder for an invalid value is not a second problem.
        let new: Vec<Diagnostic> = located
            .filter(|one| {
                !problems
                    .iter()
                    .any(|known| known.path.starts_with(&one.path))
            })
            .collect();
        problems.extend(new);
    }
    problems.extend(loaded.iter().flat_map(|one| wrong_urls(&one.listener)));
    if let (true, Some(bundle), Ok(compiled)) =
        (args.online && problems.is_empty(), &loaded, &compiled)
    {
        let findings = query_tracking(bundle, compiled).await?;
        let located = findings
            .into_iter()
            .map(|one| source_map.diagnostic(&one.observer, &one.path, one.message));
        problems.extend(located);
        problems.extend(wrong_login(&bundle.listener).await?);
    }
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    if !problems.is_empty() {
        return Err(CliError::Config(listed(&problems)));
    }
    if let Some(bundle) = loaded {
        let actions: usize = bundle
            .observers
            .iter()
            .map(|observer| observer.actions.len())
            .sum();
        let (listener, observers) = (bundle.listener.identity(), bundle.observers.len());
        let observers = counted(observers as u64, "observer", "observers");
        let actions = counted(actions as u64, "action", "actions");
        say!("ok: listener {listener} with {observers} and {actions}")?;
        if let (Some(event), Ok(compiled)) = (&args.event, &compiled) {
            sample::show(compiled, event)?;
        }
    }
    Ok(())
}

/// Diagnostic of a listener's field.
fn of_listener(listener: &ListenerConfig, field: &str, message: String) -> Diagnostic {
    Diagnostic {
        file: String::new(),
        line: None,
        path: format!("ObserverListener {}: {field}", listener.identity()),
        message,
    }
}

/// Returns problems with the database URLs of the listener.
fn wrong_urls(listener: &ListenerConfig) -> Vec<Diagnostic> {
    let own = listener.egress.own_database.as_ref();
    let urls = [
        (DATABASE_URL, Some(&listener.database_url)),
        (OWN_URL, own.map(|own| &own.url)),
    ];
    let urls = urls
        .into_iter()
        .filter_map(|(at, url)| Some((at, database::options(url?).err()?)));
    urls.map(|(at, error)| of_listener(listener, at, error.to_string()))
        .collect()
}

/// Returns the problem with the login for statements in the listener's database, if any.
async fn wrong_login(listener: &ListenerConfig) -> Result<Option<Diagnostic>, CliError> {
    let Some(own) = &listener.egress.own_database else {
        return Ok(None);
    };
    let verified = tokio::time::timeout(database::START_PATIENCE, verify_own_database(own)).await;
    let Ok(verified) = verified else {
        return Err(anyhow::anyhow!("the login in {OWN_URL} timed out").into());
    };
    let wrong = verified.err();
    Ok(wrong.map(|error| of_listener(listener, OWN_URL, error.to_string())))
}

/// Queries what the database does not track of the observers.
async fn query_tracking(
    bundle: &Bundle,
    observers: &Observers,
) -> Result<Vec<tracking::Finding>, CliError> {
    let pool = schema::connect(&bundle.listener.database_url).await?;
    migrate::verify(&pool).await?;
    Ok(tracking::findings(&pool, observers.needs()).await?)
}

/// Compiles the observers of files that were loaded. Fails with all problems and their places.
pub(super) fn compile(loaded: &Loaded, runtime: &ActionRuntime) -> Result<Observers, CliError> {
    Observers::compile(&loaded.bundle.observers, runtime).map_err(|problems| {
        let located = problems.into_iter().map(|one| {
            let source_map = &loaded.source_map;
            source_map.diagnostic(&one.observer, &one.path, one.message)
        });
        CliError::Config(listed(&located.collect::<Vec<_>>()))
    })
}

/// Formats one line per problem, and their number.
fn listed(problems: &[Diagnostic]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let noun = if problems.len() == 1 {
        "problem"
    } else {
        "problems"
    };
    format!("{}\n{} {noun}", lines.join("\n"), problems.len())
}
