//! `check`: everything that is wrong with the files, at once.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use crds::config::Redacted;
use crds::load::{Loaded, Problem};
use observer_listener::actions::{Gates, Shared};
use observer_listener::database;
use observer_listener::dispatch::observers::Observers;
use observer_listener::lint::lint;
use observer_listener::{migrate, tracking};

use super::output::{counted, say};
use super::{CliError, FileArgs};
use super::{files, sample, schema};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files"]).required(true))]
pub(super) struct CheckArgs {
    #[command(flatten)]
    files: FileArgs,
    /// An event as JSON, in the form of a webhook's body: shows what the observers would do about it,
    /// and does nothing
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// Ask the listener's database too whether it logs what the observers watch
    #[arg(long)]
    online: bool,
}

/// Prints all problems, or what would be run.
pub(super) async fn check(args: &CheckArgs) -> Result<(), CliError> {
    let (loaded, observers, locations, mut problems) = match files::try_load(&args.files)? {
        Ok(Loaded { bundle, locations }) => {
            let observers = bundle.observers.clone();
            (Some(bundle), observers, locations, Vec::new())
        }
        Err(report) => (None, report.partial, report.locations, report.problems),
    };
    let egress = loaded.as_ref().map(|bundle| bundle.listener.egress.clone());
    let shared = Shared::new(&egress.clone().unwrap_or_default(), &Gates::default())?;
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
            .map(|one| locations.problem(&one.observer, &one.path, one.message.clone()));
        // What stands in for a value that was found wrong is nobody's mistake.
        let new: Vec<Problem> = located
            .filter(|one| {
                !problems
                    .iter()
                    .any(|known| known.path.starts_with(&one.path))
            })
            .collect();
        problems.extend(new);
    }
    if let Some(bundle) = &loaded
        && let Err(error) = database::options(&bundle.listener.database_url)
    {
        let path = format!(
            "ObserverListener {}: spec.source.changeLog.databaseUrl",
            bundle.listener.identity()
        );
        problems.push(Problem {
            file: String::new(),
            line: None,
            path,
            message: error.to_string(),
        });
    }
    if let (true, Some(bundle), Ok(compiled)) =
        (args.online && problems.is_empty(), &loaded, &compiled)
    {
        let findings = ask(&bundle.listener.database_url, compiled).await?;
        let located = findings
            .into_iter()
            .map(|one| locations.problem(&one.observer, &one.path, one.message));
        problems.extend(located);
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

/// What the database has to say about the observers.
async fn ask(url: &Redacted, observers: &Observers) -> Result<Vec<tracking::Finding>, CliError> {
    let pool = schema::connect(url).await?;
    migrate::verify(&pool).await?;
    Ok(tracking::findings(&pool, observers.needs()).await?)
}

/// One line for each, and their number.
pub(super) fn listed(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let noun = if problems.len() == 1 {
        "problem"
    } else {
        "problems"
    };
    format!("{}\n{} {noun}", lines.join("\n"), problems.len())
}
