//! Conditions, their reasons, and the reasons of Events, with what to do about each.
//!
//! The names stand here a second time, as the code writes them where they arise. A test compares
//! these tables with the code.

use crate::table;

/// A reason of a condition or an Event.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// The reason.
    pub name: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

const fn reason(name: &'static str, meaning: &'static str, remedy: &'static str) -> Reason {
    Reason {
        name,
        meaning,
        remedy,
    }
}

/// Conditions of kstatus, which both have.
const KSTATUS_RECONCILING: (&str, &str) = (
    "Reconciling",
    "What was applied does not run everywhere yet. Only there while it is true, for [Flux and others](../how-to/gitops.md#how-the-resources-are-judged).",
);
const KSTATUS_STALLED: (&str, &str) = (
    "Stalled",
    "The resource itself is wrong, and nothing changes until it is corrected. Only there while it is true.",
);

/// Types of conditions of a listener, with what they mean.
pub const OF_LISTENER: [(&str, &str); 7] = [
    (
        "Ready",
        "Every shard has an owner, and the pods deliver by the current configuration. It stays `True` while shards change owners.",
    ),
    ("Progressing", "A change is being rolled out to the pods."),
    (
        "Degraded",
        "A part does not run: an invalid observer, a pod with a problem, a stuck rollout, or too few worker pods.",
    ),
    (
        "DeliveryStalled",
        "Work waits in a shard and none was done for longer than `spec.stalledAfter` (1m). The message names the shards, their pods and the reason. With several reasons, the condition has the worst one.",
    ),
    (
        "HistoryLagging",
        "Events are missing in the history for longer than `spec.stalledAfter` (1m). Deliveries are not affected. Only a listener with `spec.search` has this condition.",
    ),
    KSTATUS_RECONCILING,
    KSTATUS_STALLED,
];

/// Types of conditions of an observer, with what they mean.
pub const OF_OBSERVER: [(&str, &str); 6] = [
    (
        "Accepted",
        "The observer is valid in itself: fields, condition, templates.",
    ),
    ("ResolvedRefs", "The Secrets that it names exist."),
    (
        "Programmed",
        "Every listener that selects it runs it, in each pod that is active or stands by.",
    ),
    (
        "Tracked",
        "The database of every such listener logs the table that it watches, with the columns that its condition and templates read.",
    ),
    KSTATUS_RECONCILING,
    KSTATUS_STALLED,
];

/// Reasons that say that all is well, or that something happens as you asked for.
pub const NORMAL: &[Reason] = &[
    reason("Accepted", "The observer is valid.", ""),
    reason(
        "SecretsInline",
        "Everything runs, but a field appears to hold a secret as a plain `value`, readable by everyone who may view the resource. The message lists the fields.",
        "Move it into a Secret, name that by `secretKeyRef`, and renew it at its issuer.",
    ),
    reason("ResolvedRefs", "All Secrets exist.", ""),
    reason("Programmed", "The observer runs.", ""),
    reason(
        "Tracked",
        "The database logs what the observer watches.",
        "",
    ),
    reason("AsExpected", "Nothing is wrong.", ""),
    reason(
        "HistoryHasGaps",
        "The history is up to date, but events are missing in it: the log was kept for `spec.search.maxLag`, and the search index could not take them for longer.",
        "`observer-listener events show` finds what the log still holds. Gaps are forgotten with `spec.search.retention`.",
    ),
    reason("Delivering", "The pods deliver.", ""),
    reason("UpToDate", "Every pod runs the current configuration.", ""),
    reason("MakingProgress", "No event waits for long.", ""),
    reason(
        "Lagging",
        "Events wait for longer than `spec.stalledAfter`, while every shard makes progress, as after an outage.",
        "Wait, or add pods or raise `maxConcurrency`.",
    ),
    reason(
        "NoActivePod",
        "No pod is active, so nothing can be said about progress.",
        "See `Ready`.",
    ),
    reason(
        "LoadingBundle",
        "The pods load the current configuration.",
        "Wait. After 30 s the reason becomes `BundleNotLoaded`.",
    ),
    reason("RollingOut", "The pods are being replaced.", "Wait."),
    reason(
        "Starting",
        "The pods do not own all shards yet. After a crash this takes as long as the Lease of a member (`spec.lease.duration`).",
        "Wait.",
    ),
    reason(
        "Pending",
        "The observer is on its way to the pods, or the pods have not reported about its table yet.",
        "Wait.",
    ),
    reason(
        "Suspended",
        "`spec.suspend` is true. Events that arrive meanwhile are not delivered later.",
        "Set `suspend: false` to resume.",
    ),
    reason(
        "ScaledToZero",
        "The listener has no pods. Changes wait in the change log.",
        "`kubectl scale observerlistener NAME --replicas 1`.",
    ),
    reason(
        "NotSelected",
        "No listener selects the observer.",
        "Compare its labels and namespace with `spec.observerSelector` and `spec.observerNamespaces` of the listener.",
    ),
];

/// Reasons for which somebody has to do something.
pub const FAULTS: &[Reason] = &[
    reason(
        "Invalid",
        "A field is wrong.",
        "Correct the field that the message names.",
    ),
    reason(
        "InvalidObservers",
        "Some observers do not run; the others do.",
        "Look at the status of the observers that the message names.",
    ),
    reason(
        "SecretMissing",
        "A Secret, or a key of it, does not exist.",
        "Create what the message names. The operator notices it.",
    ),
    reason(
        "NamespaceNotAllowed",
        "The observer's namespace does not allow a listener of another namespace to run it.",
        "[Allow it](../how-to/kubernetes.md#which-observers-a-listener-runs), or run the observer by a listener of its own namespace.",
    ),
    reason(
        "NamespaceTerminating",
        "The namespace is being deleted, so nothing can be created there.",
        "Nothing.",
    ),
    reason(
        "IdentityConflict",
        "An older listener of the namespace has the same identity in the same database.",
        "Delete one of them, or create a new one with another `spec.identity`.",
    ),
    reason(
        "NameTaken",
        "An object that the listener needs exists and belongs to something else. The operator leaves it alone.",
        "Delete or rename that object, or give the listener another name.",
    ),
    reason(
        "ApplyFailed",
        "The API server rejects an object that the operator writes, for example because of a quota or an admission policy.",
        "The message is the API server's own.",
    ),
    reason(
        "BundleTooLarge",
        "Of an observer: older ones take all the room that its listener has, 16 MiB as text or 8 MiB compressed, so it \
         does not run; the others do. Of a listener: it takes more than 1 MiB itself, with its own secrets.",
        "Make observers smaller, or spread them over several listeners.",
    ),
    reason(
        "BundleMissing",
        "The pod cannot find its configuration.",
        "Wait; if it lasts, see whether the Secret `NAME-listener-bundle` exists.",
    ),
    reason(
        "BundleUnreadable",
        "The pod cannot read its configuration.",
        "See the log of the pod, and whether its Role names the Secrets of the bundle.",
    ),
    reason(
        "BundleInvalid",
        "The configuration in the bundle is not valid for this version of the listener.",
        "Use the same version of operator and listener (`spec.podTemplate.image`).",
    ),
    reason(
        "BundleNotLoaded",
        "An active pod has not loaded the current configuration for 30 s.",
        "Read the log of the pod.",
    ),
    reason(
        "PodsNotRunning",
        "No pod runs.",
        "`kubectl describe pod`: often the image, a quota, or Pod Security.",
    ),
    reason(
        "PodsUnavailable",
        "Fewer pods are ready than asked for.",
        "`kubectl describe pod`.",
    ),
    reason(
        "PodsNotReporting",
        "The operator cannot reach the pods, or some of them, on port 9464.",
        "Look for a network policy in the way.",
    ),
    reason(
        "RolloutStuck",
        "A rollout does not finish.",
        "`kubectl describe pod`: often the image, a quota, Pod Security, or a missing priority class.",
    ),
    reason(
        "WorkersUnavailable",
        "For longer than `spec.stalledAfter`, fewer worker pods are ready than `spec.queue.workers.replicas`.",
        "`kubectl describe pod -l app.kubernetes.io/component=worker`, and their logs.",
    ),
    reason(
        "ConfigOutdated",
        "The process has older observers than another live process. It stands by.",
        "Give all processes the same files.",
    ),
    reason(
        "InternalError",
        "A part of the program failed. It starts again by itself.",
        "Read the log; report a bug if it repeats.",
    ),
];

/// Reasons that concern the database or Redis.
pub const DATABASE: &[Reason] = &[
    reason(
        "SourceNotRead",
        "The source of the change log is not read. What is logged already is delivered.",
        "Read the message: it has the remedy. The slot or the topics hold what is not read, so nothing is missing yet.",
    ),
    reason(
        "SlotLost",
        "The slot of the source does not hold what comes next, so changes are missing. What is logged already is delivered.",
        "Find out what was changed meanwhile. Set `spec.source.wal.onSlotLost: Recreate` to record the gap and go on with a new slot.",
    ),
    reason(
        "OffsetLost",
        "A topic of the source does not hold the record that comes next, so records are missing. What is logged already is delivered.",
        "Find out what was written meanwhile. Set `spec.source.kafka.onOffsetLost: Earliest` to record the gap and go on with the earliest record.",
    ),
    reason(
        "SlotAtRisk",
        "The server is about to invalidate the slot of the source, as it holds back too much of the write-ahead log.",
        "Raise `max_slot_wal_keep_size` of the server, and see why the source is not read fast enough.",
    ),
    reason(
        "DatabaseUnreachable",
        "The database does not respond to the pod, or does not accept writes.",
        "Check address, network policy, TLS, and whether it is a standby. If it concerns one pod of several, look at its node.",
    ),
    reason(
        "DatabaseUrlInvalid",
        "The URL cannot be used.",
        "Correct the Secret's value as the message says.",
    ),
    reason(
        "DatabaseAccessDenied",
        "The database responds and denies access.",
        "Check user, password and privileges.",
    ),
    reason(
        "DatabaseFull",
        "No connection is left on the server, in the database or for the role.",
        "Raise `max_connections` or the connection limit.",
    ),
    reason(
        "DatabasePooled",
        "A pooler gives each transaction another session.",
        "Point the URL to the server itself, or to a pool with `pool_mode = session`.",
    ),
    reason(
        "DatabaseEncoding",
        "The database is not in UTF8.",
        "Restore it into a database with the encoding UTF8.",
    ),
    reason(
        "DatabaseRestarted",
        "The server crashed or a standby was promoted. The listener resumes from its checkpoints.",
        "Nothing.",
    ),
    reason(
        "PostgresTooOld",
        "The server is older than [supported](support.md).",
        "Upgrade Postgres.",
    ),
    reason(
        "SchemaMissing",
        "The schema `observer` does not exist.",
        "Run `observer-listener migrate`.",
    ),
    reason(
        "SchemaOutdated",
        "The schema is older than the program.",
        "Run `observer-listener migrate` of the program's version.",
    ),
    reason(
        "SchemaNewer",
        "The schema is newer than the program.",
        "Use the newer program.",
    ),
    reason(
        "SchemaConflict",
        "The schema `observer` was not made by this program, or was changed.",
        "The message says what differs.",
    ),
    reason(
        "CheckpointMismatch",
        "The database was restored or replaced, so stored positions mean nothing in it.",
        "[Reset the position](../how-to/restore.md).",
    ),
    reason(
        "CheckpointCorrupted",
        "A checkpoint cannot be read.",
        "[Reset the position](../how-to/restore.md), and report a bug.",
    ),
    reason(
        "ChangeLogCorrupted",
        "The change log holds something that cannot be read.",
        "Report a bug.",
    ),
    reason(
        "QueueUnreachable",
        "Redis, where jobs are stored, does not respond to the pod.",
        "Check address, network policy and TLS.",
    ),
    reason(
        "QueueMisconfigured",
        "Redis cannot be used as it is: its URL, its `maxmemory-policy` (which must be `noeviction`), or `spec.redis` is missing while jobs may be left there.",
        "See [Change the queue backend](../how-to/change-backend.md).",
    ),
    reason(
        "QueueSwitched",
        "The queue now uses another backend. The listener starts again with it.",
        "Nothing.",
    ),
];

/// Reasons of `DeliveryStalled`.
pub const STALLED: &[Reason] = &[
    reason(
        "ShardUnowned",
        "No pod owns the shard, although pods are there.",
        "Read the pods' logs. Often they may not write Leases (`kubectl auth can-i update leases --as system:serviceaccount:NAMESPACE:NAME-listener`), or cannot reach the API server.",
    ),
    reason(
        "BlockedByTransaction",
        "A transaction is open in the database, and later changes wait for its end.",
        "The message names it. End it (`select pg_terminate_backend(PID)`), and set `idle_in_transaction_session_timeout` for its role.",
    ),
    reason(
        "EndpointFailing",
        "The endpoint of the oldest event responds with errors or not at all.",
        "Repair the endpoint, suspend the observer, or lower `retry.attempts` so that deliveries become dead letters.",
    ),
    reason(
        "ConcurrencyLimitReached",
        "As many attempts are in flight as allowed, and none ends.",
        "Lower the actions' `timeout`. If the endpoints are only slow, raise `spec.delivery.maxConcurrency`.",
    ),
];

/// Reasons of `HistoryLagging`.
pub const HISTORY: &[Reason] = &[
    reason(
        "SearchIndexFailing",
        "The search index does not take documents. They are added later from the change log, which is kept for them for `spec.search.maxLag` (24h).",
        "The message has the error: the server's address, its credentials and their [permissions](../how-to/history.md#permissions), its disk, or a read-only block.",
    ),
    reason(
        "CatchingUp",
        "The search index takes documents, but more events wait than it has taken yet, as after an outage.",
        "Wait. If it lasts, the index is slower than the events are: add pods, or give the search server more resources.",
    ),
];

/// Reasons of `Tracked`.
pub const TRACKED: &[Reason] = &[
    reason(
        "TableMissing",
        "There is no table of that name.",
        "Correct `spec.events.entity` (the message has the most similar name), or create the table.",
    ),
    reason(
        "TableNotTracked",
        "The table's changes are not logged.",
        "`select observer.track('schema.table')` in the listener's database; of a partition name the root, of a view the tables behind it.",
    ),
    reason(
        "CaptureBroken",
        "The table is tracked, but its triggers are disabled, or columns of its key or tenant are gone.",
        "Call `observer.track` again: see [Track tables](../how-to/track-tables.md).",
    ),
    reason(
        "ColumnMissing",
        "The events lack a column that the observer reads.",
        "Correct the name, or remove it from the table's `exclude`. For `spec.tenant`, name the tenant column to `observer.track`.",
    ),
];

/// Reasons of Events that no condition has.
pub const EVENTS: &[Reason] = &[
    reason("RolledOut", "A rollout has finished.", ""),
    reason(
        "Reloaded",
        "Every pod runs the current configuration, without a restart.",
        "",
    ),
    reason(
        "ScaledOut",
        "A listener with `spec.autoscaling` gets more pods: its oldest event is older than `targetLag`, or `minReplicas` asks for them.",
        "",
    ),
    reason(
        "ScaledIn",
        "It gets fewer pods: no event has been old for some time, or `maxReplicas` allows no more.",
        "",
    ),
    reason(
        "CleanupSucceeded",
        "The rows of a deleted listener were removed from its database, and its history from its search index.",
        "",
    ),
    reason(
        "CleanupSkipped",
        "The rows of a deleted listener, or its history, could not be removed.",
        "`select observer.drop_listener('namespace/name')` in its database. For documents in Elasticsearch or OpenSearch, see [Remove a history](../how-to/history.md#remove-a-history).",
    ),
    reason(
        "DataRetained",
        "The rows and the history of a deleted listener stay, because its `deletionPolicy` is `Retain`.",
        "`select observer.drop_listener('namespace/name')` once nobody needs them.",
    ),
    reason(
        "Unknown",
        "Stands for a reason that the API server would reject.",
        "Read the message.",
    ),
];

/// Names of all reasons.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NORMAL, FAULTS, DATABASE, STALLED, HISTORY, TRACKED, EVENTS]
        .into_iter()
        .flatten()
        .map(|reason| reason.name)
}

/// Writes the page.
pub(crate) fn body() -> String {
    let types = |of: &[(&str, &str)]| {
        table(
            ["Condition", "Meaning when `True`"],
            of.iter()
                .map(|(name, meaning)| [format!("`{name}`"), (*meaning).to_owned()]),
        )
    };
    let reasons = |title: &str, of: &[Reason]| {
        let rows = table(
            ["Reason", "Meaning", "What to do"],
            of.iter().map(|one| {
                [
                    format!("`{}`", one.name),
                    one.meaning.to_owned(),
                    one.remedy.to_owned(),
                ]
            }),
        );
        format!("## {title}\n\n{rows}")
    };
    [
        "Events that arrive while an observer is invalid are not delivered later. Check its conditions \
         after every change. The pods look up tables within a minute of a change in the database, and \
         every 5 s while something is wrong.\n\n"
            .to_owned(),
        format!("## Conditions of a listener\n\n{}", types(&OF_LISTENER)),
        format!("## Conditions of an observer\n\n{}", types(&OF_OBSERVER)),
        reasons("Faults", FAULTS),
        reasons("Database and queue", DATABASE),
        reasons("Reasons of DeliveryStalled", STALLED),
        reasons("Reasons of HistoryLagging", HISTORY),
        reasons("Reasons of Tracked", TRACKED),
        reasons("Normal states", NORMAL),
        reasons("Reasons of Events", EVENTS),
    ]
    .concat()
}
