//! `check`: all problems of the files at once.

use std::path::Path;
use std::sync::Arc;

use clap::{ArgGroup, Args};
use crds::config::{Bundle, ListenerConfig, SourceConfig};
use crds::loader::Loaded;
use crds::manifest::Diagnostic;
use observer_listener::actions::verify_own_database;
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::database;
use observer_listener::delivery::event::Event;
use observer_listener::history::events::EventId;
use observer_listener::lint::lint;
use observer_listener::observers::Observers;
use observer_listener::{history, migrate, tracking};
use program::logs;
use serde::Serialize;
use sqlx::PgPool;

use super::evaluation::Evaluation;
use super::output::{OutputFormat, counted, say};
use super::{CliError, FileArgs};
use super::{events, files, sample, schema};

/// Field with the database's URL.
const DATABASE_URL: &str = "spec.database.url";

/// Field with the URL for statements of actions in it.
const OWN_URL: &str = "spec.egress.ownDatabase.url";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["files", "bundle"]).required(true))]
pub(super) struct CheckArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Event to show what the observers would do with it, without doing it: the id of one that the change
    /// log of the database holds, in any form that `events show` takes, or a file with a sample event as
    /// JSON, in the format of a webhook body; repeatable
    #[arg(long = "event", value_name = "ID or FILE")]
    events: Vec<String>,
    /// Also check the listener's database: whether it tracks the tables of the observers, and whether the
    /// login for statements in it has exactly the rights that it needs. With --event, make the lookups of
    /// the observers, and show what would be sent with their results
    #[arg(long)]
    online: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

/// What was found, for programs.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    listener: Option<String>,
    observers: usize,
    actions: usize,
    problems: Vec<ReportedProblem<'a>>,
    events: Vec<Evaluation>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportedProblem<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    message: &'a str,
}

/// Prints all problems, or a summary if there are none.
pub(super) async fn check(args: &CheckArgs) -> Result<(), CliError> {
    let (loaded, observers, source_map, mut problems) = match files::try_load(&args.files).await? {
        Ok(Loaded { bundle, source_map }) => {
            let observers = bundle.observers.clone();
            (Some(bundle), observers, source_map, Vec::new())
        }
        Err(report) => (None, report.partial, report.source_map, report.items),
    };
    let listener = loaded.as_ref().map(|bundle| &bundle.listener);
    let egress = listener.map(|listener| listener.egress.clone());
    let identity = listener.map(ListenerConfig::identity).unwrap_or_default();
    let shared = ActionRuntime::new(
        &egress.clone().unwrap_or_default(),
        &EndpointRegistry::default(),
    )?
    .with_listener(&identity);
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
        let located = findings.into_iter().map(|one| {
            if one.observer.is_empty() {
                of_listener(&bundle.listener, &one.path, one.message)
            } else {
                source_map.diagnostic(&one.observer, &one.path, one.message)
            }
        });
        problems.extend(located);
        problems.extend(wrong_login(&bundle.listener).await?);
    }
    problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    if !problems.is_empty() {
        if let OutputFormat::Json = args.output {
            print_problems(&problems)?;
        }
        return Err(CliError::Config(listed(&problems)));
    }
    match (loaded, compiled) {
        (Some(bundle), Ok(compiled)) => evaluate(args, &bundle, &compiled).await,
        _ => Ok(()),
    }
}

/// Prints what the observers of files without a problem would do with the events that were given.
async fn evaluate(
    args: &CheckArgs,
    bundle: &Bundle,
    observers: &Observers,
) -> Result<(), CliError> {
    let actions = bundle.observers.iter().map(|one| one.actions.len());
    let mut report = Report {
        listener: Some(bundle.listener.identity()),
        observers: bundle.observers.len(),
        actions: actions.sum(),
        ..Report::default()
    };
    let as_text = matches!(args.output, OutputFormat::Table);
    if as_text {
        let (listener, observers) = (bundle.listener.identity(), report.observers);
        let observers = counted(observers as u64, "observer", "observers");
        let actions = counted(report.actions as u64, "action", "actions");
        say!("ok: listener {listener} with {observers} and {actions}")?;
    }
    let mut past = PastEvents::new(&bundle.listener);
    let mut missing = Vec::new();
    for given in &args.events {
        let is_sample = Path::new(given).exists();
        let event = match (is_sample, given.parse::<EventId>()) {
            (false, Ok(id)) => {
                let Some(event) = past.find(&id).await? else {
                    missing.push(given.as_str());
                    continue;
                };
                event
            }
            _ => sample::read(Path::new(given))?,
        };
        let evaluation = Evaluation::of(observers, &Arc::new(event), args.online).await;
        if as_text {
            if !is_sample || args.events.len() > 1 {
                evaluation.print_event()?;
            }
            evaluation.print()?;
        } else {
            report.events.push(evaluation);
        }
    }
    if !as_text {
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(events::missing(&past.pool().await?, &missing.join(", ")).await?)
}

/// Events of the listener's database, to which a connection is made when the first one is read.
struct PastEvents<'a> {
    listener: &'a ListenerConfig,
    pool: Option<PgPool>,
}

impl<'a> PastEvents<'a> {
    const fn new(listener: &'a ListenerConfig) -> Self {
        let pool = None;
        Self { listener, pool }
    }

    async fn pool(&mut self) -> Result<PgPool, CliError> {
        if let Some(pool) = &self.pool {
            return Ok(pool.clone());
        }
        let pool = schema::connect(&self.listener.database_url).await?;
        migrate::verify(&pool).await?;
        self.pool = Some(pool.clone());
        Ok(pool)
    }

    async fn find(&mut self, id: &EventId) -> Result<Option<Event>, CliError> {
        Ok(history::events::find(&self.pool().await?, id).await?)
    }
}

/// Prints problems for programs.
fn print_problems(problems: &[Diagnostic]) -> Result<(), CliError> {
    let problems = problems.iter().map(|one| ReportedProblem {
        file: &one.file,
        line: one.line,
        path: &one.path,
        message: &one.message,
    });
    let report = Report {
        problems: problems.collect(),
        ..Report::default()
    };
    say!("{}", serde_json::to_string_pretty(&report)?)
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
    let source = bundle.listener.source.wal();
    let captured = match &bundle.listener.source {
        SourceConfig::Wal(source) => schema::connect(&source.database_url).await?,
        SourceConfig::Triggers(_) => pool,
        // Topics have no tables.
        SourceConfig::Kafka(_) => return Ok(Vec::new()),
    };
    let listed = bundle.listener.source.tracked_tables();
    // A run tracks what is listed; what keeps it from that is found without.
    let steps = tracking::prepare::track(&captured, listed, true).await?;
    Ok(tracking::findings(&captured, source, (listed, &steps), observers.needs()).await?)
}

/// Compiles the observers of what was loaded. Files fail with all problems and their places; a bundle goes
/// without those that do not compile, as the pods that run it do.
pub(super) fn compile(
    args: &FileArgs,
    loaded: &Loaded,
    runtime: &ActionRuntime,
) -> Result<Observers, CliError> {
    if args.is_bundle() {
        let (observers, problems) =
            Observers::compile_what_can_run(&loaded.bundle.observers, runtime);
        for problem in problems {
            logs::say(&format!("warning: {problem}\n"));
        }
        return Ok(observers);
    }
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
