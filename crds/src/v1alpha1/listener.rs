//! `ObserverListener`: which database is read, how, and by which observers.

#![allow(
    clippy::duplicated_attributes,
    reason = "each printed column has its own type and path"
)]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::egress::EgressRules;
use super::pod_template::PodTemplate;
use super::queue::{Queue, RedisServer};
use super::selector::{LabelSelector, ObserverNamespaces};
use super::source::Source;
use super::status::ObserverListenerStatus;
use super::{ValueSource, never_null};
use crate::config::StartAt;
use crate::duration::HumanDuration;

/// What an identity looks like.
const IDENTITY: &str = "^[a-z0-9]([-a-z0-9./]*[a-z0-9])?$";

/// A fleet that runs observers against one Postgres database: it reads the changes that were
/// committed there, matches them against the observers it selects, and performs their actions.
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
    doc = "A fleet that runs observers against one Postgres database: it reads the changes that were committed there, matches them against the observers it selects, and performs their actions.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 46").message(
        "metadata.name must be at most 46 characters, because the names of what is made for it begin with it"
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
        "rule": "!has(self.queue) || self.queue.backend != 'Redis' || has(self.redis)",
        "message": "queue.backend Redis needs redis.url",
        "fieldPath": ".queue.backend",
    },
]))]
pub struct ObserverListenerSpec {
    /// Number of pods. Zero stops the listener; what changes meanwhile waits in the log. A
    /// listener run from a file is always one process.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 256))]
    pub replicas: i32,
    /// Number of shares that the keys are divided into, 1 to 256. The pods share them out among
    /// themselves, so more shards than pods leave room to scale out. It may change at any time:
    /// the listener finishes what is under way and goes on in the new division, and no event is
    /// lost, repeated or out of order.
    #[serde(default = "default_shards")]
    #[schemars(range(min = 1, max = 256))]
    pub shards: u16,
    /// The database that the listener reads changes from and keeps its state in.
    pub database: Database,
    /// How changes get into the change log. Left out, it is `triggers: {}`.
    #[serde(default)]
    pub source: Source,
    /// Where a listener that has never run begins: at the `Beginning` of what the change log still
    /// holds, or `Now`.
    #[serde(default)]
    pub start_at: StartAt,
    /// The name under which progress and dead letters are kept in the database. Left out, it is
    /// `namespace/name` of this resource. Give it to go on where another listener was, which had
    /// another name. It must begin with the namespace of this resource and `/`, and cannot change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = IDENTITY))]
    pub identity: Option<String>,
    /// Which observers to run, by their labels. Left out, it runs all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observer_selector: Option<LabelSelector>,
    /// Which namespaces those observers may be in. Left out, they are in the namespace of the
    /// listener. Every other namespace must allow it, by a label that only those who administer
    /// the cluster may give it: `kubectl label namespace crm
    /// listeners.observers.fraiseql.dev/shop=allowed` allows listeners of `shop` those of `crm`.
    #[serde(default)]
    pub observer_namespaces: ObserverNamespaces,
    /// How the pods agree on which of them works on which shard.
    #[serde(default)]
    pub lease: LeaseTiming,
    /// How long a shard may make no progress while work waits in it, or have no pod that works on
    /// it, before it counts as stalled, 5s to 1h.
    #[serde(default = "default_stalled_after")]
    pub stalled_after: HumanDuration,
    /// How progress is saved.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// How actions are performed.
    #[serde(default)]
    pub delivery: Delivery,
    /// The Redis server that parts of the listener may use. Left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisServer>,
    /// The job queue.
    #[serde(default)]
    pub queue: Queue,
    /// Dead letters.
    #[serde(default)]
    pub dead_letters: DeadLetters,
    /// The HTTP interface for dead letters and jobs. Left out, there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<HttpApi>,
    /// Where actions may connect to.
    #[serde(default)]
    pub egress: EgressRules,
    /// What the pods have beyond what they need: resources, placement, labels. A listener run
    /// from a file has no pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
    /// What becomes of the listener's progress and dead letters in the database when this
    /// resource is deleted: `Delete` removes them, `Retain` keeps them for a listener of the same
    /// identity. While they are kept, the log is kept too.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Times of the Lease that each pod holds to say that it lives. They bound how long nobody works on
/// the shards of a pod that dies: `duration` and one `retryPeriod`.
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
    /// How long after its last renewal a pod counts as gone and others take its shards, 1s to 10m.
    #[serde(default = "default_lease_duration")]
    pub duration: HumanDuration,
    /// How long after its last renewal a pod stops its work by itself. Shorter than `duration`.
    #[serde(default = "default_renew_deadline")]
    pub renew_deadline: HumanDuration,
    /// Time between two tries to renew when one has failed, 100ms to 1m; a pod that is well renews
    /// about twice within `renewDeadline`, which must be longer than 1.2 times this.
    #[serde(default = "default_retry_period")]
    pub retry_period: HumanDuration,
}

/// What becomes of rows in the database when the resource goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They are removed.
    #[default]
    Delete,
    /// They stay.
    Retain,
}

/// The Postgres database whose schema `observer` holds the change log, the listener's progress, its
/// jobs and its dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Database {
    /// The database, as `postgres://user:password@host:5432/database`.
    pub url: ValueSource,
    /// How long changes are kept in the log once every listener has them behind it, 1s to 720h.
    #[serde(default = "default_retention")]
    pub retention: HumanDuration,
    /// Longest pause between two looks at a database in which nothing happens, 1ms to 10s.
    #[serde(default = "default_max_poll_interval")]
    pub max_poll_interval: HumanDuration,
}

/// How progress is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// Time between two writes while there is progress, 1ms to 1m. After a crash, what was
    /// delivered since the last write is delivered once more, under the same ids.
    #[serde(default = "default_checkpoint_interval")]
    pub interval: HumanDuration,
}

/// How actions are performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delivery {
    /// Most attempts of one action under way at once in one pod, 1 to 4096; a batch is one.
    #[serde(default = "default_max_concurrency")]
    #[schemars(range(min = 1, max = 4096))]
    pub max_concurrency: u32,
    /// How long a stop waits for attempts under way, 1ms to 10m. Keep it below the pod's
    /// termination grace period.
    #[serde(default = "default_drain_timeout")]
    pub drain_timeout: HumanDuration,
}

/// What becomes of dead letters that nobody redrives or drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = never_null)]
pub struct DeadLetters {
    /// How long they are kept, 1h to 87600h. Left out, they are kept until they are redriven or
    /// dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<HumanDuration>,
}

/// An HTTP interface on the port of health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpApi {
    /// What a request must show as `Authorization: Bearer ...`, at least 16 characters.
    pub token: ValueSource,
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

/// Most requests of one action under way at once where nobody says otherwise.
pub const DEFAULT_MAX_CONCURRENCY: u32 = 64;

fn default_max_concurrency() -> u32 {
    DEFAULT_MAX_CONCURRENCY
}

fn default_drain_timeout() -> HumanDuration {
    HumanDuration::from_secs(25)
}
