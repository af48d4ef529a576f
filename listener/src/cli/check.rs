//! `check`: everything that is wrong with the files, at once.

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

/// The field with the database's URL.
const DATABASE_URL: &str = "spec.database.url";

/// The field with the URL of statements in it.
const OWN_URL: &str = "spec.egress.ownDatabase.url";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files"]).required(true))]
pub(super) struct CheckArgs {
    #[command(flatten)]
    files: FileArgs,
    /// An event as JSON, in the form of a webhook's body: shows what the observers would do about it,
    /// and does nothing
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Ask the listener's database too whether it logs what the observers watch, and whether the login
    /// for their statements in it may do what it should and no more
    #[arg(long)]
    online: bool,
}

/// Prints all problems, or what would be run.
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
    // Where the listener is not known, nor is where it may send to.
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
        // What stands in for a value that was found wrong is nobody's mistake.
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
        let findings = ask(bundle, compiled).await?;
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

/// URLs of the listener's database that cannot be read.
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

/// What is wrong with the login for statements in the listener's database.
async fn wrong_login(listener: &ListenerConfig) -> Result<Option<Diagnostic>, CliError> {
    let Some(own) = &listener.egress.own_database else {
        return Ok(None);
    };
    let verified = tokio::time::timeout(database::START_PATIENCE, verify_own_database(own)).await;
    let Ok(verified) = verified else {
        return Err(anyhow::anyhow!("no answer for the login in {OWN_URL}").into());
    };
    let wrong = verified.err();
    Ok(wrong.map(|error| of_listener(listener, OWN_URL, error.to_string())))
}

/// What the database has to say about the observers.
async fn ask(bundle: &Bundle, observers: &Observers) -> Result<Vec<tracking::Finding>, CliError> {
    let pool = schema::connect(&bundle.listener.database_url).await?;
    migrate::verify(&pool).await?;
    Ok(tracking::findings(&pool, observers.needs()).await?)
}

/// One line for each, and their number.
pub(super) fn listed(problems: &[Diagnostic]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let noun = if problems.len() == 1 {
        "problem"
    } else {
        "problems"
    };
    format!("{}\n{} {noun}", lines.join("\n"), problems.len())
}
