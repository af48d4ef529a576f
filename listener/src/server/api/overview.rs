//! The listener as a whole: its observers, its shards, its processes, and how much waits.

use std::sync::Arc;

use ::queue::{JobFilter, JobState};
use axum::response::Response;
use chrono::{DateTime, Utc};
use crds::config::Operation;
use schemars::JsonSchema;
use serde::Serialize;

use super::ApiContext;
use super::endpoint::{Call, json};
use super::problem::Problem;
use crate::checkpoint::status;
use crate::coordination::heartbeat::{self, MemberState};
use crate::coordination::live_processes;
use crate::dead_letters::admin::{self, DeadLetterFilter};
use crate::history::position;
use crate::matching::Rule;
use crate::observers::{Compiled, Observers};

/// Observers of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct ObserverList {
    /// The observers, in order of their names.
    items: Vec<ObserverInfo>,
}

/// An observer that the listener runs.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct ObserverInfo {
    /// Its name, `namespace/name`.
    observer: String,
    /// Entity whose events it receives.
    entity: String,
    /// Operations that it receives.
    operations: Vec<Operation>,
    /// The only tenant whose events it receives; all where absent.
    tenant: Option<String>,
    /// Condition that events must meet. Tokens of a tenant see that of the tenant's own observers only.
    condition: Option<String>,
    /// Its actions.
    actions: Vec<ActionInfo>,
}

/// An action of an observer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct ActionInfo {
    /// Its name.
    action: String,
    /// What it is, for example `webhook`.
    kind: String,
    /// State of its circuit breaker, the worst of all processes.
    circuit: Circuit,
    /// Why the circuit breaker opened. Tokens of a tenant do not see it.
    error: Option<String>,
}

/// State of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Circuit {
    /// Attempts go out.
    Closed,
    /// Some attempts go out, to see whether the endpoint is back.
    HalfOpen,
    /// No attempt goes out.
    Open,
}

/// Shards of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct ShardList {
    /// The shards, in order.
    items: Vec<ShardInfo>,
}

/// A shard of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct ShardInfo {
    /// Its number.
    shard: i16,
    /// The number of shards.
    shards: i16,
    /// The process that owns it; nothing if it was released.
    owner: Option<String>,
    /// Whether the owner has ended.
    owner_is_gone: bool,
    /// Number that grows with each claim.
    epoch: i64,
    /// Since when the owner has it, or since when it has none.
    #[schemars(with = "String", extend("format" = "date-time"))]
    since: DateTime<Utc>,
    /// When its progress was saved last.
    #[schemars(with = "String", extend("format" = "date-time"))]
    saved_at: DateTime<Utc>,
    /// When the oldest event that is not behind the saved progress was committed, about.
    #[schemars(with = "Option<String>")]
    oldest: Option<DateTime<Utc>>,
    /// Seconds since then; 0 where no event waits.
    lag_seconds: u64,
}

/// State of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub(super) struct ListenerStatus {
    /// The listener.
    listener: String,
    /// The tenant whose dead letters and jobs are counted; all where absent.
    tenant: Option<String>,
    /// Number of dead letters.
    dead_letters: u64,
    /// Jobs that are not completed.
    jobs: JobCounts,
    /// The history, if the listener keeps one. Tokens of a tenant do not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryInfo>,
    /// Processes that send heartbeats. Tokens of a tenant see none.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<ProcessInfo>>,
}

/// The history of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct HistoryInfo {
    /// Where documents are stored: `postgres` or `elasticsearch`.
    backend: &'static str,
    /// Number of gaps: times whose events are missing.
    gaps: u64,
    /// When the latest gap was recorded.
    #[schemars(with = "Option<String>")]
    latest_gap: Option<DateTime<Utc>>,
}

/// Counts of jobs by their state.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct JobCounts {
    /// They can be claimed.
    available: u64,
    /// They wait for their time.
    scheduled: u64,
    /// A worker holds them.
    running: u64,
    /// They wait behind another of their key.
    blocked: u64,
}

/// A process of the listener.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
struct ProcessInfo {
    /// Its name.
    name: String,
    /// Digest of the observers that it runs.
    config_digest: String,
    /// Since when any process of the listener has run these.
    #[schemars(with = "String", extend("format" = "date-time"))]
    config_since: DateTime<Utc>,
    /// When it started.
    #[schemars(with = "String", extend("format" = "date-time"))]
    started_at: DateTime<Utc>,
}

pub(super) async fn observers(call: Call) -> Result<Response, Problem> {
    let context = &call.context;
    let members = heartbeat::members(&context.pool, &context.listener).await?;
    let observers = Arc::clone(&context.observers.borrow());
    let tenant = call.caller.tenant.as_deref();
    let mut items = infos(&observers, &members, tenant);
    items.sort_by(|a, b| a.observer.cmp(&b.observer));
    json(&ObserverList { items })
}

/// Describes the observers that a caller may see: a tenant's, its own and those of no tenant.
fn infos(
    observers: &Observers,
    members: &[MemberState],
    tenant: Option<&str>,
) -> Vec<ObserverInfo> {
    let seen = observers.each().filter(|(rule, _)| {
        let of = rule.tenant.as_deref();
        tenant.is_none() || of.is_none() || of == tenant
    });
    let info = |(rule, own): (&Rule, &[Arc<Compiled>])| {
        let shows_condition = tenant.is_none() || rule.tenant.is_some();
        let condition = rule.condition.as_ref().filter(|_| shows_condition);
        ObserverInfo {
            observer: rule.observer.to_string(),
            entity: rule.entity.clone(),
            operations: rule.operations.clone(),
            tenant: rule.tenant.clone(),
            condition: condition.map(|condition| condition.text().to_owned()),
            actions: own
                .iter()
                .map(|target| {
                    let action = &*target.name.action;
                    let (circuit, error) = circuit(members, &rule.observer, action);
                    ActionInfo {
                        action: action.to_owned(),
                        kind: target.action.kind().to_owned(),
                        circuit,
                        // Endpoints are shared, so it may tell of another's delivery.
                        error: error.filter(|_| tenant.is_none()),
                    }
                })
                .collect(),
        }
    };
    seen.map(info).collect()
}

/// Returns the worst state of an action's circuit breaker, and why it opened.
fn circuit(members: &[MemberState], observer: &str, action: &str) -> (Circuit, Option<String>) {
    let all = members
        .iter()
        .flat_map(|member| member.open_circuits.as_array().into_iter().flatten());
    let own = all.filter(|one| one["observer"] == observer && one["action"] == action);
    let state = |one: &serde_json::Value| {
        let circuit = match one["state"].as_str() {
            Some("open") => Circuit::Open,
            _ => Circuit::HalfOpen,
        };
        (circuit, one["error"].as_str().map(str::to_owned))
    };
    own.map(state)
        .max_by_key(|(circuit, _)| *circuit)
        .unwrap_or((Circuit::Closed, None))
}

pub(super) async fn shards(call: Call) -> Result<Response, Problem> {
    let context = &call.context;
    let shards = status::list(&context.pool, Some(&context.listener)).await?;
    let processes = live_processes::present(&context.pool, &context.listener).await?;
    let now = Utc::now();
    let info = |shard: status::ShardState| {
        let is_gone = |owner: &String| !processes.contains(owner);
        let lag = shard
            .oldest
            .map_or(0, |oldest| (now - oldest).num_seconds());
        ShardInfo {
            shard: shard.shard,
            shards: shard.shards,
            owner_is_gone: shard.owner.as_ref().is_some_and(is_gone),
            owner: shard.owner,
            epoch: shard.epoch,
            since: shard.since,
            saved_at: shard.saved_at,
            oldest: shard.oldest,
            lag_seconds: u64::try_from(lag).unwrap_or_default(),
        }
    };
    json(&ShardList {
        items: shards.into_iter().map(info).collect(),
    })
}

pub(super) async fn status(call: Call) -> Result<Response, Problem> {
    let (context, tenant) = (&call.context, &call.caller.tenant);
    let filter = DeadLetterFilter {
        listener: Some(context.listener.to_string()),
        tenant: tenant.as_deref().map(str::to_owned),
        ..DeadLetterFilter::default()
    };
    let dead_letters = admin::count(&context.pool, &filter).await?.unsigned_abs();
    let (jobs, history, processes) = if let Some(tenant) = tenant.as_deref() {
        (jobs_of_tenant(context, tenant).await?, None, None)
    } else {
        let members = heartbeat::members(&context.pool, &context.listener).await?;
        let members = members.into_iter().map(|member| ProcessInfo {
            name: member.name,
            config_digest: member.config_digest,
            config_since: member.config_since,
            started_at: member.started_at,
        });
        let processes = Some(members.collect());
        (jobs(context).await?, history(context).await?, processes)
    };
    json(&ListenerStatus {
        listener: context.listener.to_string(),
        tenant: tenant.as_deref().map(str::to_owned),
        dead_letters,
        jobs,
        history,
        processes,
    })
}

async fn history(context: &ApiContext) -> Result<Option<HistoryInfo>, Problem> {
    let Some(index) = &context.search else {
        return Ok(None);
    };
    let gaps = position::gaps(&context.pool, &context.listener).await?;
    Ok(Some(HistoryInfo {
        backend: index.backend(),
        gaps: gaps.count.unsigned_abs(),
        latest_gap: gaps.latest,
    }))
}

async fn jobs(context: &ApiContext) -> Result<JobCounts, Problem> {
    let mut counts = JobCounts::default();
    for (_, stats) in context.queue.stats().await? {
        counts.available += stats.available;
        counts.scheduled += stats.scheduled();
        counts.running += stats.running;
        counts.blocked += stats.blocked;
    }
    Ok(counts)
}

async fn jobs_of_tenant(context: &ApiContext, tenant: &str) -> Result<JobCounts, Problem> {
    let count = async |state| {
        let filter = JobFilter {
            state: Some(state),
            tenant: Some(tenant.to_owned()),
            ..JobFilter::default()
        };
        let (_, count) = context.queue.list(&filter, 0).await?;
        Ok::<u64, Problem>(count)
    };
    Ok(JobCounts {
        available: count(JobState::Available).await?,
        scheduled: count(JobState::Scheduled).await?,
        running: count(JobState::Running).await?,
        blocked: count(JobState::Blocked).await?,
    })
}
