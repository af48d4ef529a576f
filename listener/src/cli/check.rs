//! `check`: everything that is wrong with the files, at once.

use clap::{ArgGroup, Args};
use crds::load::{Loaded, Problem};
use observer_listener::actions::{Gates, Shared};
use observer_listener::database;
use observer_listener::dispatch::observers::Observers;

use super::files;
use super::{CliError, FileArgs};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files"]).required(true))]
pub(super) struct CheckArgs {
    #[command(flatten)]
    files: FileArgs,
}

/// Prints all problems, or what would be run.
pub(super) fn check(args: &CheckArgs) -> Result<(), CliError> {
    let (loaded, observers, locations, mut problems) = match files::try_load(&args.files)? {
        Ok(Loaded { bundle, locations }) => {
            let observers = bundle.observers.clone();
            (Some(bundle), observers, locations, Vec::new())
        }
        Err(report) => (None, report.partial, report.locations, report.problems),
    };
    let shared = Shared::new(&crds::config::Egress::default(), &Gates::default())?;
    if let Err(wrong) = Observers::compile(&observers, &shared) {
        let located = wrong
            .into_iter()
            .map(|one| locations.problem(&one.observer, &one.path, one.message));
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
        println!("ok: listener {listener} with {observers} observers and {actions} actions");
    }
    Ok(())
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
