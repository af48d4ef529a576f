//! `breaker`: close circuit breakers in all processes of a listener.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use observer_listener::coordination::process_commands::{
    self, Answers, BreakerScope, ProcessCommand,
};

use super::output::{counted, say};
use super::schema::open_database_of_listener;
use super::{CliError, DatabaseArgs, identity, observer_of};

/// How long the answers of the processes are waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum BreakerCommand {
    /// Close the circuit breakers of an observer's actions in all processes, so that deliveries are made without
    /// waiting for a probe; actions with the same endpoint share one
    Reset(ResetArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["observer", "all"]).required(true))]
pub(super) struct ResetArgs {
    /// Observer, as name or namespace/name
    observer: Option<String>,
    /// Only this action of it
    #[arg(requires = "observer")]
    action: Option<String>,
    /// Those of all observers of the listener
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Runs a `breaker` command.
pub(super) async fn breaker(command: BreakerCommand) -> Result<(), CliError> {
    let BreakerCommand::Reset(args) = command;
    let database = args.database.resolve().await?;
    let scope = BreakerScope {
        observer: args.observer.map(identity),
        action: args.action,
    };
    if let (Some(bundle), Some(observer)) = (&database.bundle, &scope.observer) {
        let found = observer_of(bundle, observer)?;
        let mut actions = found.actions.iter().map(|one| &one.name);
        if let Some(action) = &scope.action
            && actions.all(|one| one != action)
        {
            let message = format!("observer {observer} has no action {action}");
            return Err(CliError::Config(message));
        }
    }
    let (pool, listener) = open_database_of_listener(&database).await?;
    // Without files nobody knows whether there is such an observer.
    let may_be_unknown = database.bundle.is_none() && scope.observer.is_some();
    let asked = ProcessCommand::CloseBreakers(scope);
    let id = process_commands::ask(&pool, &listener, &asked).await?;
    let answers = process_commands::answers(&pool, &listener, id, PATIENCE).await?;
    if answers.is_unheard() {
        return say!("no process of {listener} runs; circuit breakers are closed when one starts");
    }
    let of = processes(answers.answered.len());
    match answers.closed() {
        0 if may_be_unknown => {
            say!("no circuit breaker was open in {of}, or there is no such observer or action")?;
        }
        closed => {
            let closed = counted(closed, "circuit breaker", "circuit breakers");
            say!("closed {closed} in {of}")?;
        }
    }
    require_all(&answers)
}

/// Formats a number of processes.
pub(super) fn processes(count: usize) -> String {
    counted(count as u64, "process", "processes")
}

/// Fails if a process has not answered.
pub(super) fn require_all(answers: &Answers) -> Result<(), CliError> {
    if answers.missing.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "no answer in time from {}: it obeys if it reads the database again within a minute, and has ended otherwise",
        answers.missing.join(", ")
    )
    .into())
}
