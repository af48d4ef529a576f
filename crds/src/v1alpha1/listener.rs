//! `ObserverListener`: a fleet of pods that runs observers against one database.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column has its own type and path"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::api::HttpApi;
use super::autoscaling::Autoscaling;
use super::console::Console;
use super::egress::EgressRules;
use super::enrich::CacheDefaults;
use super::network_policy::NetworkPolicyOptions;
use super::pod_template::PodTemplate;
use super::queue::Queue;
use super::redis_server::RedisServer;
use super::search::Search;
use super::selector::{LabelSelector, ObserverNamespaces};
use super::source::Source;
use super::status::ObserverListenerStatus;
use super::{ValueSource, never_null};
use crate::config::StartAt;
use crate::duration::HumanDuration;

/// Pattern of an identity.
const IDENTITY: &str = "^[a-z0-9]([-a-z0-9./]*[a-z0-9])?$";

/// A fleet of pods that runs observers against one Postgres database: it reads committed changes,
/// matches them against the observers that it selects, and delivers their actions.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "observers.fraiseql.dev",
    version = "v1alpha1",
    kind = "ObserverListener",
    plural = "observerlisteners",
    shortname = "ol",
    category = "observers",
    namespaced,
    status = "ObserverListenerStatus",
    derive = "PartialEq",
    doc = "A fleet of pods that runs observers against one Postgres database: it reads committed changes, matches them against the observers that it selects, and delivers their actions.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 46").message(
        "metadata.name must be at most 46 characters, because the names of the resources made for it begin with it"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1
    ),
    printcolumn(
        name = "Observers",
        type_ = "integer",
        json_path = ".status.observers.programmed",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.identity) == has(oldSelf.identity) && (!has(self.identity) || self.identity == oldSelf.identity)",
        "message": "identity cannot change: progress is kept under it; make a new listener for another one",
        "fieldPath": ".identity",
    },
    {
        "rule": "!has(self.console) || has(self.api)",
        "message": "console needs api, which says who may use it",
        "fieldPath": ".console",
    },
    {
        "rule": "!has(self.autoscaling) || self.autoscaling.maxReplicas <= self.shards",
        "message": "autoscaling.maxReplicas must be at most spec.shards: a pod without a shard has nothing to do",
        "fieldPath": ".autoscaling.maxReplicas",
    },
    {
        "rule": "!has(self.queue) || self.queue.backend != 'Redis' || has(self.redis)",
        "message": "queue.backend Redis needs redis.url",
        "fieldPath": ".queue.backend",
    },
]))]
pub struct ObserverListenerSpec {
    /// Number of pods, 0 to 256; default 1. Zero pauses the listener: changes wait in the change
    /// log until it is scaled up again. A listener that runs from a file is always one process.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 256))]
    pub replicas: i32,
    /// Has the operator decide the number of pods, by how far the listener is behind. Then `replicas` is not looked at,
    /// but for 0, which pauses the listener. Left out, `replicas` is the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Number of shards that the keys are divided into, 1 to 256; default 8. The pods share the
    /// shards among themselves, so more shards than pods leave room to scale out. The number can
    /// change at any time: the listener finishes the deliveries in flight and continues in the new
    /// layout, without losing, repeating or reordering an event.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u16,
    /// Postgres database with the schema `observer`, which holds the change log and the state of
    /// the listener.
    pub database: Database,
    /// How changes get into the change log; default `triggers: {}`. The kind of source cannot
    /// change on an existing listener.
    #[serde(default)]
    pub source: Source,
    /// Position at which a listener without a checkpoint starts; default `Beginning`. `Beginning`
    /// is the oldest change that the log still holds, `Now` the first change committed after the
    /// start. `Backfill` is as `Now`, and first reads the rows of each table that an observer with the
    /// operation `Read` watches.
    #[serde(default)]
    pub start_at: StartAt,
    /// Name under which progress, dead letters and history are stored, 1 to 128 characters; default
    /// is `namespace/name` of this resource. Set it to continue where a listener of another name left
    /// off. It must begin with the namespace of this resource and `/`, and cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = IDENTITY))]
    pub identity: Option<String>,
    /// Label selector for the observers to run. Left out, the listener runs all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observer_selector: Option<LabelSelector>,
    /// Namespaces whose observers the listener runs; default is its own. Every other namespace must
    /// give its consent with a label that only administrators of the cluster may set:
    /// `kubectl label namespace crm listeners.observers.fraiseql.dev/shop=allowed` lets listeners
    /// in `shop` run the observers of `crm`.
    #[serde(default)]
    pub observer_namespaces: ObserverNamespaces,
    /// Timing of the Leases by which the pods agree who owns which shard.
    #[serde(default)]
    pub lease: LeaseTiming,
    /// Time without progress after which a shard counts as stalled, 5s to 1h; default 1m. It runs
    /// while work waits in the shard, and while no pod owns it.
    #[serde(default = "default_stalled_after")]
    pub stalled_after: HumanDuration,
    /// How often progress is saved.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Limits for the delivery of actions.
    #[serde(default)]
    pub delivery: Delivery,
    /// Redis server for the job queue, for limits that the pods share and for results that they
    /// cache. Left out, jobs are stored in Postgres, and limits and caches are of each pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisServer>,
    /// Job queue, for retries and for actions with `mode: Queued`.
    #[serde(default)]
    pub queue: Queue,
    /// Defaults of the caches of lookups and actions.
    #[serde(default)]
    pub cache: CacheDefaults,
    /// Retention of dead letters.
    #[serde(default)]
    pub dead_letters: DeadLetters,
    /// History of events and what became of them. Left out, none is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// HTTP API for the history, dead letters and jobs, and who may use it. Left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<HttpApi>,
    /// Console, with pages for people beside the HTTP API, which it needs. Left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<Console>,
    /// Destinations that actions may connect to, and limits for them.
    #[serde(default)]
    pub egress: EgressRules,
    /// Network policy that the operator makes for the pods. A listener that runs from a file ignores
    /// it.
    #[serde(default)]
    pub network_policy: NetworkPolicyOptions,
    /// Settings of the pods: resources, scheduling, labels. A listener that runs from a file
    /// ignores them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// What happens to the listener's rows in the database, and to its history, when this resource
    /// is deleted; default `Delete`. `Delete` removes its progress, dead letters and history.
    /// `Retain` keeps them for a listener of the same identity; while they are kept, the change log
    /// is kept too.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Timing of the Lease that each pod renews to show that it is alive. When a pod dies, its shards
/// have no owner for at most `duration` plus one `retryPeriod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "duration(self.duration) > duration(self.renewDeadline)",
        "message": "duration must be longer than renewDeadline",
        "fieldPath": ".duration",
    },
    {
        "rule": "duration(self.renewDeadline).getMilliseconds() * 5 > duration(self.retryPeriod).getMilliseconds() * 6",
        "message": "renewDeadline must be longer than 1.2 times retryPeriod",
        "fieldPath": ".renewDeadline",
    },
]))]
pub struct LeaseTiming {
    /// Time after its last renewal when a pod counts as dead and others take over its shards, 1s to
    /// 10m; default 15s.
    #[serde(default = "default_lease_duration")]
    pub duration: HumanDuration,
    /// Time after its last renewal when a pod stops its work by itself; default 10s. It must be
    /// shorter than `duration` and longer than 1.2 times `retryPeriod`.
    #[serde(default = "default_renew_deadline")]
    pub renew_deadline: HumanDuration,
    /// Time between attempts to renew after one has failed, 100ms to 1m; default 2s. A healthy pod
    /// renews about twice per `renewDeadline`.
    #[serde(default = "default_retry_period")]
    pub retry_period: HumanDuration,
}

/// What happens to a listener's rows in the database when its resource is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are removed.
    #[default]
    Delete,
    /// They are kept.
    Retain,
}

/// Postgres database of a listener. Its schema `observer` holds the change log, checkpoints, jobs
/// and dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Database {
    /// Connection URL, as `postgres://user:password@host:5432/database`.
    pub url: ValueSource,
    /// Minimum age at which changes are removed from the change log, 1s to 720h; default 1h.
    /// Changes that some listener has not processed yet are kept however old they are.
    #[serde(default = "default_retention")]
    pub retention: HumanDuration,
    /// Longest pause between polls of the change log, 1ms to 10s; default 8ms. While no change
    /// arrives for a long time it grows up to 16 times as long.
    #[serde(default = "default_max_poll_interval")]
    pub max_poll_interval: HumanDuration,
}

/// How often progress is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// Time between checkpoints while there is progress, 1ms to 1m; default 250ms. After a crash,
    /// deliveries since the last checkpoint are repeated under the same ids.
    #[serde(default = "default_checkpoint_interval")]
    pub interval: HumanDuration,
}

/// Limits for the delivery of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delivery {
    /// Most attempts of one action in flight at once in one pod, 1 to 4096; default 64. A batch
    /// counts as one attempt. An action can set a limit of its own.
    #[serde(default = "default_max_concurrency")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_concurrency: u32,
    /// Time that a shutdown waits for attempts in flight, 1ms to 10m; default 25s. Keep it below
    /// the pod's termination grace period.
    #[serde(default = "default_drain_timeout")]
    pub drain_timeout: HumanDuration,
}

/// Retention of dead letters that nobody redrives or drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct DeadLetters {
    /// Age at which dead letters are removed, 1h to 87600h. Left out, they are kept until they are
    /// redriven or dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<HumanDuration>,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            interval: default_checkpoint_interval(),
        }
    }
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            max_concurrency: default_max_concurrency(),
            drain_timeout: default_drain_timeout(),
        }
    }
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            duration: default_lease_duration(),
            renew_deadline: default_renew_deadline(),
            retry_period: default_retry_period(),
        }
    }
}

fn default_lease_duration() -> HumanDuration {
    HumanDuration::from_secs(15)
}

fn default_renew_deadline() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn default_retry_period() -> HumanDuration {
    HumanDuration::from_secs(2)
}

fn default_stalled_after() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn default_replicas() -> i32 {
    1
}

fn default_shards() -> u16 {
    8
}

fn default_max_poll_interval() -> HumanDuration {
    HumanDuration::from_millis(8)
}

fn default_retention() -> HumanDuration {
    HumanDuration::from_secs(3600)
}

fn default_checkpoint_interval() -> HumanDuration {
    HumanDuration::from_millis(250)
}

/// Default of [`Delivery::max_concurrency`].
pub const DEFAULT_MAX_CONCURRENCY: u32 = 64;

fn default_max_concurrency() -> u32 {
    DEFAULT_MAX_CONCURRENCY
}

fn default_drain_timeout() -> HumanDuration {
    HumanDuration::from_secs(25)
}
