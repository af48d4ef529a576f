//! Circuit breakers in the HTTP API.

use std::time::Duration;

use axum::response::Response;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::endpoint::{Call, affected, schema_of};
use super::problem::Problem;
use super::selection::{FilterText, invalid, one_of, parse};
use crate::coordination::process_commands::{self, BreakerScope, ProcessCommand};
use crate::observers::Observers;

/// How long the answers of the processes are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Circuit breakers of all observers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AllBreakers {
    /// A change of all must say so.
    #[schemars(extend("const" = true))]
    all: bool,
}

/// Circuit breakers of an observer's actions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BreakersOfObserver {
    /// The observer, `namespace/name`.
    observer: FilterText,
    /// Only that of this action.
    action: Option<FilterText>,
}

/// What was closed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct BreakersReset {
    /// Whose circuit breakers; those of all observers where nothing is given.
    reset: BreakerScope,
    /// How many were not closed, in the processes that have answered.
    closed: u64,
    /// The processes that have answered.
    processes: Vec<String>,
    /// Processes that have not answered within 5 s, and may have ended.
    unanswered: Vec<String>,
}

/// Adds the schema of the body.
pub(super) fn body(generator: &mut SchemaGenerator) -> Schema {
    one_of(&[
        schema_of::<AllBreakers>(generator),
        schema_of::<BreakersOfObserver>(generator),
    ])
}

pub(super) async fn reset(call: Call) -> Result<Response, Problem> {
    let reset = scope(call.json()?)?;
    require_known(&call.context.observers.borrow(), &reset)?;
    let (pool, listener) = (&call.context.pool, &call.context.listener);
    let asked = ProcessCommand::CloseBreakers(reset.clone());
    let id = process_commands::ask(pool, listener, &asked).await?;
    let answers = process_commands::answers(pool, listener, id, PATIENCE).await?;
    let closed = answers.closed();
    let reset = BreakersReset {
        reset,
        closed,
        processes: answers.answered.into_keys().collect(),
        unanswered: answers.missing,
    };
    affected(closed, &reset)
}

/// Fails if the listener has no such observer, or the observer no such action.
fn require_known(observers: &Observers, scope: &BreakerScope) -> Result<(), Problem> {
    let Some(observer) = scope.observer.as_deref() else {
        return Ok(());
    };
    if !observers.names().any(|name| name == observer) {
        return Err(Problem::not_found(format!(
            "the listener runs no observer {observer}"
        )));
    }
    let Some(action) = scope.action.as_deref() else {
        return Ok(());
    };
    let mut names = observers.targets().iter().map(|target| &target.name);
    if names.any(|name| observer == &*name.observer && action == &*name.action) {
        return Ok(());
    }
    Err(Problem::not_found(format!(
        "observer {observer} has no action {action}"
    )))
}

/// Parses a body.
fn scope(body: Value) -> Result<BreakerScope, Problem> {
    let given = ["all", "observer"].map(|name| body.get(name).is_some());
    match given {
        [true, false] => match parse(body)? {
            AllBreakers { all: true } => Ok(BreakerScope::default()),
            AllBreakers { all: false } => Err(invalid("all must be true")),
        },
        [false, true] => {
            let BreakersOfObserver { observer, action } = parse(body)?;
            Ok(BreakerScope {
                observer: FilterText::text(Some(observer)),
                action: FilterText::text(action),
            })
        }
        _ => Err(invalid("give one of `all: true` and `observer`")),
    }
}
