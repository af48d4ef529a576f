-- The tables of schema `observer`. The schema itself is made by the migrator; its functions are in the
-- folder beside this file.

-- Which functions the database has: those of the program that applied them last.
create table observer.function_set (
    only_row boolean primary key default true check (only_row),
    -- of all files of functions
    digest bytea not null,
    -- of the program: major, minor, patch
    version integer[] not null,
    -- each with the types of its arguments
    functions text[] not null,
    applied_at timestamptz not null default clock_timestamp()
);

-- Names this log for ever: event ids begin with it, so that ids given again after a restore differ.
create table observer.log_identity (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    since timestamptz not null default clock_timestamp(),
    -- the database that it was given in
    system_identifier bigint not null,
    database_oid oid not null
);
insert into observer.log_identity (system_identifier, database_oid)
select s.system_identifier, d.oid
from pg_control_system() s, pg_database d where d.datname = current_database();

-- Names the server's life since its last start from a crash. Unlogged, so recovery from a crash and promotion of a
-- standby
-- empty it. Xids that were drawn but had not reached the disk are then drawn again, and a
-- snapshot from before says nothing about them: whoever holds one must start from what was saved.
create unlogged table observer.server_incarnation (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid()
);

-- A transaction draws its xid before its first id, so every event of a transaction that began
-- after a snapshot has a larger id than any drawn before that snapshot. Hence no cache.
create sequence observer.change_log_id as bigint cache 1;

-- A ring of partitions: new rows go to the one that log_partition_state names, and one that lies behind
-- every checkpoint is truncated. Nothing is created or dropped while the log is in use.
-- No check constraints: each statement of each writer would pay for setting them up (a fifth of
-- what logging a single row costs), and only the functions of this schema write here.
create table observer.change_log (
    partition_no smallint not null,
    id bigint not null default nextval('observer.change_log_id'),
    xid xid8 not null default pg_current_xact_id(),
    occurred_at timestamptz not null default transaction_timestamp(),
    -- of tenant, entity and key, never negative; the shard follows from it
    hash integer not null,
    -- bytes of both images
    size integer not null,
    -- i insert, u update, d delete, t truncate, c custom, r read by a backfill
    operation "char" not null,
    entity text not null,
    key text,
    tenant text,
    -- json and not jsonb: jsonb refuses what a row may hold, and the writer would fail with it
    old json,
    new json,
    -- W3C trace context of the writer, if it gave one
    traceparent text
) partition by list (partition_no);

do $$
begin
    for partition_no in 0..7 loop
        execute format(
            'create table observer.change_log_%1$s partition of observer.change_log for values in (%1$s)
                with (autovacuum_vacuum_insert_scale_factor = 0.5)', partition_no);
        execute format('create index on observer.change_log_%s (id)', partition_no);
        execute format('create index on observer.change_log_%s (xid, id)', partition_no);
    end loop;
end
$$;

create table observer.log_partition_state (
    only_row boolean primary key default true check (only_row),
    partition_no smallint not null default 0 check (partition_no between 0 and 7),
    since timestamptz not null default clock_timestamp()
);
insert into observer.log_partition_state default values;

-- How far each shard of each listener is, and who may say so.
create table observer.checkpoint (
    listener text not null,
    shard smallint not null check (shard >= 0 and shard < shards),
    shards smallint not null check (shards between 1 and 256),
    -- grows with each change of hands; a write that carries an older one is refused
    epoch bigint not null,
    holder text not null,
    claimed_at timestamptz not null default clock_timestamp(),
    -- all that this snapshot sees is behind
    base_low_id bigint not null,
    base_snapshot pg_snapshot not null,
    base_high_id bigint not null,
    -- the window under way, if any, and the id in it up to which all is behind
    window_low_id bigint,
    window_snapshot pg_snapshot,
    window_high_id bigint,
    last_id bigint not null default 0,
    -- events beyond last_id that are wholly done, and actions done of others:
    -- [[log id, observer, action], ...]; a reader that starts here skips them
    completed_ids bigint[] not null default '{}',
    partially_completed json not null default '[]',
    -- what others had done of the shard's keys while the listener had another number of shards:
    -- [{"shardCount", "shard", "from", "to", "lastId", "completed", "partial", "until"}, ...], with the meaning of the columns
    -- above; emptied once the shard's own position is past it
    pre_reshard_progress json not null default '[]',
    -- names a save that adds jobs, so that it does not add them again when its answer was lost
    last_commit_id uuid,
    system_identifier bigint not null,
    database_oid oid not null,
    saved_at timestamptz not null default clock_timestamp(),
    primary key (listener, shard),
    check ((window_snapshot is null) = (window_low_id is null)
        and (window_snapshot is null) = (window_high_id is null)),
    check (window_snapshot is not null or last_id = 0)
);

-- How far the history of each shard is, for listeners that keep one. The columns are those of the
-- checkpoint, whose epoch says who may write here.
create table observer.search_position (
    listener text not null,
    shard smallint not null check (shard >= 0 and shard < shards),
    shards smallint not null check (shards between 1 and 256),
    base_low_id bigint not null,
    base_snapshot pg_snapshot not null,
    base_high_id bigint not null,
    window_low_id bigint,
    window_snapshot pg_snapshot,
    window_high_id bigint,
    last_id bigint not null default 0,
    -- how old events become at most before the log no longer waits for this
    max_lag interval not null,
    saved_at timestamptz not null default clock_timestamp(),
    primary key (listener, shard),
    check ((window_snapshot is null) = (window_low_id is null)
        and (window_snapshot is null) = (window_high_id is null)),
    check (window_snapshot is not null or last_id = 0)
);

-- What left the log before the history had it.
create table observer.search_gap (
    id bigint generated always as identity primary key,
    listener text not null,
    shard smallint not null,
    -- when the first and the last of these events occurred
    from_time timestamptz not null,
    to_time timestamptz not null,
    events bigint not null,
    recorded_at timestamptz not null default clock_timestamp()
);
create index on observer.search_gap (listener, recorded_at);

-- Actions given up on.
create table observer.dead_letter (
    id bigint generated always as identity primary key,
    listener text not null,
    event_id text not null,
    log_id bigint not null,
    observer text not null,
    action text not null,
    entity text not null,
    operation text not null,
    key text,
    tenant text,
    hash integer not null,
    occurred_at timestamptz not null,
    old json,
    new json,
    attempts integer not null,
    error_kind text not null,
    error text not null,
    status smallint,
    -- [{at, attempt, kind, error, status}], the latest last
    history json not null default '[]',
    created_at timestamptz not null default clock_timestamp(),
    redrive_requested_at timestamptz,
    -- the event's, as in the change log
    traceparent text,
    unique (listener, event_id, observer, action)
);
create index on observer.dead_letter (listener, redrive_requested_at) where redrive_requested_at is not null;
create index on observer.dead_letter (listener, log_id, id);
create index on observer.dead_letter (listener, created_at);

-- Whoever has one of these rows locked is the only one to do what it stands for. Not advisory locks:
-- whoever may connect to the database can take those, for as long as they like.
create table observer.mutex (name text primary key);

-- Leases as Kubernetes writes them. The row without a name counts a listener's writes: each is
-- given the next number as its version and holds on to the row until it is committed. So whoever
-- sees a number sees all writes up to it, and a write that names a version replaces that very one.
create table observer.lease (
    listener text not null,
    name text not null,
    version bigint not null,
    lease json not null,
    primary key (listener, name)
);

-- Observers that processes of a listener run or have run, by a digest, and since when. Kept for a week
-- beyond the last of them, so that those that were replaced are known as the older ones when somebody
-- runs them again.
create table observer.config (
    listener text not null,
    digest text not null,
    since timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp(),
    primary key (listener, digest)
);

-- The processes of a listener, by their heartbeats.
create table observer.member (
    listener text not null,
    -- as the process names itself, and what tells it from others of that name
    name text not null,
    uid text not null,
    config_digest text not null,
    started_at timestamptz not null default clock_timestamp(),
    -- without another heartbeat it counts as ended from then on
    expires_at timestamptz not null,
    -- endpoints that it leaves alone: [{"observer", "action", "state", "error"}, ...]
    open_circuits json not null default '[]',
    -- what its cache holds and has served; nothing where no observer has one
    cache json,
    -- what it did in each minute of the last hour, written at most once a minute:
    -- [{"minute", "events", "delivered", "failed", "deadLetters", "lagSeconds"}, ...], minutes since 1970
    activity jsonb not null default '[]',
    primary key (listener, name)
);

-- These stand in for the transition tables of a trigger that has none: as such a trigger, the functions
-- of capture would read whatever has these names, such as a temporary view of the caller's.
create view observer.changed_rows as select where false;
create view observer.old_rows as select where false;
create view observer.new_rows as select where false;

-- What a role may log that is not to log events of every entity. A regrole keeps to its role when that
-- is renamed, and is dumped by name.
create table observer.emit_restriction (
    role regrole not null,
    entity_prefix text not null,
    -- any where null
    tenant text
);
create unique index on observer.emit_restriction (role, entity_prefix, coalesce(tenant, ''), (tenant is null));

-- Jobs: actions taken off the fast path, worked on in the order of their lanes.
--
-- Of a lane only the first job is available, scheduled or running; with it, those that came along under
-- its claim are running too, and all others are blocked. Whoever adds to a lane holds its first
-- job, and whoever takes the first away makes the next one available, having waited for whoever holds
-- it. So a lane that holds jobs is never without one that can be claimed.
--
-- Jobs lie in a ring of partitions. Written anew, a job goes to the one that job_partition_state names; one with
-- no job left is truncated, and with it whatever dead rows it holds, however old the
-- snapshots that are still open.

create table observer.job_queue (
    id integer generated always as identity primary key,
    listener text not null unique,
    -- where the listener's jobs are kept, and where some may still be while that changes
    backend text not null default 'Postgres'
);

create sequence observer.job_id as bigint cache 1;

create table observer.job (
    partition_no smallint not null,
    -- the place in its lane; the same for as long as the job is there
    id bigint not null,
    queue integer not null,
    -- of listener, observer, action and the hash of the key
    lane_id bigint not null,
    -- of observer and action
    action_hash bigint not null,
    -- of the tenant: jobs are taken from each action and tenant in rotation
    tenant_hash integer not null,
    -- 0 high, 1 normal, 2 low
    priority smallint not null,
    -- a available, s scheduled, r running, b blocked by another of its lane
    state "char" not null,
    -- where the row was when somebody wanted it cancelled while it was running
    cancelled tid,
    hash integer not null,
    attempts integer not null,
    -- grows with each claim; a result that carries an older one is refused
    claim_generation bigint not null default 0,
    worker uuid,
    -- never before the moment at which it was written, unless the job is blocked
    scheduled_at timestamptz not null,
    enqueued_at timestamptz not null,
    log_id bigint not null,
    dedup_key text not null,
    event_id text not null,
    observer text not null,
    action text not null,
    entity text not null,
    key text,
    tenant text,
    -- [{at, kind, error, status}], the latest last
    history json not null,
    event json not null
) partition by list (partition_no);

-- The functions keep their plans, which may have been made while there were no jobs: then
-- each way of finding a row looks as good as any other. Hence they may not choose. By its lane a
-- job is looked for by lane (and never by queue too, nor by a state that has an index), among those
-- of a state by that state's index, and no other index has a column that would do. One that this
-- transaction has just locked or written is where it is (ctid), and found there without an index.
do $$
begin
    for partition_no in 0..3 loop
        execute format(
            'create table observer.job_%1$s partition of observer.job for values in (%1$s)
                with (autovacuum_vacuum_scale_factor = 0.1)', partition_no);
        execute format('create index on observer.job_%s (lane_id, id)', partition_no);
        execute format('create index on observer.job_%s using hash (dedup_key)', partition_no);
        execute format(
            'create index on observer.job_%s (queue, priority, action_hash, tenant_hash, scheduled_at)
                where state = ''a''', partition_no);
        execute format('create index on observer.job_%s (queue, scheduled_at) where state = ''s''', partition_no);
        execute format('create index on observer.job_%s (queue, action_hash, worker) where state = ''r''',
            partition_no);
    end loop;
end
$$;

create table observer.job_partition_state (
    only_row boolean primary key default true check (only_row),
    partition_no smallint not null default 0 check (partition_no between 0 and 3),
    -- those that hold any job, this one included. Where claims look: one may be missing here for as
    -- long as it takes until the ring is seen to again
    partitions_in_use smallint[] not null default '{0}',
    since timestamptz not null default clock_timestamp(),
    -- until when no partition is truncated, because somebody who takes long held one
    truncate_after timestamptz not null default clock_timestamp()
);
insert into observer.job_partition_state default values;

create table observer.job_worker (
    id uuid primary key,
    queue integer not null,
    name text not null,
    expires_at timestamptz not null
);
create index on observer.job_worker (queue, expires_at);

-- Jobs that are over, where a listener keeps them for a while.
create table observer.finished_job (
    id bigint not null,
    queue integer not null,
    -- c completed, d discarded: it became a dead letter
    outcome "char" not null,
    priority smallint not null,
    attempts integer not null,
    enqueued_at timestamptz not null,
    finished_at timestamptz not null,
    dedup_key text not null,
    event_id text not null,
    observer text not null,
    action text not null,
    entity text not null,
    key text,
    tenant text,
    history json not null,
    event json not null
);
create index on observer.finished_job (queue, finished_at);
create index on observer.finished_job using hash (dedup_key);

-- Deliveries that took effect in this database: a row each, written in the transaction of the effect,
-- so that none takes effect twice.
create table observer.processed_delivery (
    listener text not null,
    -- by a digest with the secret below
    delivery_id text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (listener, delivery_id)
);
create index on observer.processed_delivery (listener, at);

-- Statements of observers run as a login that may claim deliveries and no more in this schema. What they
-- claim is named by a digest with this secret, which that login cannot read: a statement that calls the
-- function itself cannot name a delivery that is not its own.
create table observer.claim_secret (
    only_row boolean primary key default true check (only_row),
    secret uuid not null default gen_random_uuid()
);
insert into observer.claim_secret default values;

-- Sessions of the console that have not ended. What a session may do is in its cookie; without its row that is
-- worth nothing.
create table observer.console_session (
    -- of the session's id, which only the cookie holds
    digest bytea primary key,
    listener text not null,
    expires_at timestamptz not null
);
create index on observer.console_session (listener, expires_at);

-- The history of listeners that keep it here: a document for each event, with what became of it.
create table observer.search_document (
    listener text collate "C" not null,
    -- of the event
    id text collate "C" not null,
    log_id bigint not null,
    occurred_at timestamptz not null,
    entity text collate "C" not null,
    operation text collate "C" not null,
    key text collate "C",
    tenant text collate "C",
    -- observers that matched
    observers text[] collate "C" not null,
    -- states of deliveries, or notMatched
    outcomes text[] collate "C" not null,
    -- whether some delivery is not over
    unfinished boolean not null,
    -- words with their places, and terms, which begin with a slash; made by the listener. One column, so that
    -- the index finds documents by any combination of both
    terms tsvector not null,
    -- the document as JSON. Not json, which refuses nesting that a row may have
    body text not null,
    changed_at timestamptz not null default clock_timestamp(),
    primary key (listener, id)
    -- terms and body lie apart, so that counting by the other columns reads little
) with (toast_tuple_target = 128, autovacuum_vacuum_scale_factor = 0.1);
-- What is counted stays in the row: read from elsewhere, it takes ten times as long.
alter table observer.search_document
    alter listener set storage main, alter id set storage main, alter entity set storage main,
    alter operation set storage main, alter key set storage main, alter tenant set storage main,
    alter observers set storage main, alter outcomes set storage main;
-- An analysis reads the terms of each row of its sample, which took seconds in which little else was done. The
-- planner is left no choice by them.
alter table observer.search_document alter terms set statistics 10, alter body set statistics 0;
-- Without a list of what is not in the index yet, which each search reads as a whole, for a range many times: with
-- 2 MB in it that takes half a second, and a vacuum at its pace lets it grow without bound. Writing costs twice the
-- CPU time for that.
create index on observer.search_document using gin (terms) with (fastupdate = off);
create index on observer.search_document (listener, occurred_at, log_id, id);
-- A tenant may be longer than what fits into an index.
create index on observer.search_document (listener, left(tenant, 100), occurred_at, log_id, id)
where tenant is not null;
create index on observer.search_document (listener, occurred_at, log_id, id) where unfinished;

revoke all on schema observer from public;

comment on table observer.function_set is 'Which functions this schema has, and which program applied them.';
comment on table observer.change_log is 'Committed changes and custom events, written by observer.track''s triggers and observer.emit.';
comment on table observer.log_partition_state is 'The partition of the log that is being written to.';
comment on table observer.log_identity is 'The log''s name for ever; event ids begin with it.';
comment on table observer.checkpoint is 'How far each shard of each listener is. Holds back the removal of what is not yet behind.';
comment on table observer.search_position is 'How far the history of each shard is. Holds back the removal of events for a while.';
comment on table observer.search_gap is 'Events that were removed before the history had them.';
comment on table observer.dead_letter is 'Actions given up on, until redriven or dropped.';
comment on table observer.mutex is 'Its rows are locked by whoever does what only one may do at a time.';
comment on table observer.config is 'Which observers the processes of each listener run, by a digest.';
comment on table observer.member is 'The processes of each listener, by their heartbeats.';
comment on table observer.lease is 'Who takes part in a listener, and whose a shard is, where no cluster keeps the Leases.';
comment on view observer.changed_rows is
'Stands in for the transition table of a trigger that has none. Empty.';
comment on view observer.old_rows is 'Like observer.changed_rows.';
comment on view observer.new_rows is 'Like observer.changed_rows.';
comment on table observer.emit_restriction is
'The entities and tenants of which these roles, and their members, may log events; others may of all.';
comment on table observer.processed_delivery is
'Deliveries that took effect in this database, for as long as they might be attempted again.';
comment on table observer.search_document is
'The history of listeners that keep it in this database: each event with what became of it, as searches find it.';
comment on table observer.console_session is 'Sessions of the console that have not ended, by a digest of their ids.';
comment on table observer.claim_secret is 'What the names of deliveries in observer.processed_delivery are made with.';

-- Results of the cache that were dropped by hand; kept for as long as a result may live. Written one at a
-- time, so that who sees a number sees all before it.
create table observer.cache_invalidation (
    id bigint generated always as identity primary key,
    listener text not null,
    -- of all where null
    observer text,
    name text,
    -- those that depend on an entity, or on its row with a key
    entity text,
    key text,
    -- what was committed before
    snapshot pg_snapshot not null,
    created_at timestamptz not null default clock_timestamp(),
    check (name is null or observer is not null),
    check (key is null or entity is not null)
);
create index on observer.cache_invalidation (listener, id);
comment on table observer.cache_invalidation is 'Results of the cache that were dropped by hand, for as long as one may live.';

-- What people asked all processes of a listener to do, until it is over. Written one at a time, so that who
-- sees a number sees all before it.
create table observer.process_command (
    id bigint generated always as identity primary key,
    listener text not null,
    kind text not null check (kind in ('closeBreakers', 'logFilter')),
    -- whose circuit breakers are closed; those of all where null
    observer text,
    action text,
    -- what is logged until it expires; as each process was started with where null
    filter text,
    -- who reads it later does not obey it
    expires_at timestamptz not null,
    -- by process, how many circuit breakers it closed, or why it could not obey
    answers jsonb not null default '{}',
    created_at timestamptz not null default clock_timestamp(),
    check (action is null or observer is not null)
);
create index on observer.process_command (listener, id);
comment on table observer.process_command is 'What people asked all processes of a listener to do: to close circuit breakers, or to log more or less for a while.';

-- What people changed over HTTP: written before a change begins, and completed when it is over. Kept for 90 days.
create table observer.audit (
    id bigint generated always as identity primary key,
    listener text not null,
    at timestamptz not null default clock_timestamp(),
    -- name of the token, or of the user of the cluster
    actor text not null,
    -- the only one that the actor may change
    tenant text,
    -- as the OpenAPI document names it
    operation text not null,
    -- the body, cut down where it is long. json and not jsonb, which refuses texts that a body may hold
    request json not null,
    -- how many were changed, where that is known
    count bigint,
    -- why it failed
    error text,
    -- nothing where nobody saw its end: a process ended, a client went away, or it took too long
    finished_at timestamptz
);
create index on observer.audit (listener, id);
create index on observer.audit (listener, at);
comment on table observer.audit is 'What people changed over HTTP, for 90 days.';

-- Sources that fill the log from elsewhere, by slot, or by name where topics are read: what of them is in the log, and who reads them.
create table observer.source (
    name text primary key,
    -- listeners with this source; the slot is dropped with the last of them
    listeners text[] not null default '{}',
    -- of the server and the database that are read; nothing before the first session
    system_identifier text,
    timeline bigint,
    database text,
    -- number of the publication: one that was made again sends nothing of what was written before
    publication bigint,
    -- all up to here is in the log; the slot is never told more than this
    confirmed_lsn pg_lsn,
    -- the transaction under way, by its commit, and how many of its changes are in the log
    commit_lsn pg_lsn,
    ordinal bigint not null default 0,
    -- grows with each change of hands; a write that carries an older one changes nothing
    epoch bigint not null default 0,
    holder text not null default '',
    -- without a further write, others may take over from then on
    expires_at timestamptz not null default '-infinity',
    saved_at timestamptz not null default clock_timestamp(),
    -- name of the Kafka cluster, where topics are read; nothing before the first session
    cluster text,
    -- what the session that reads them lists
    topics text[],
    check ((system_identifier is null) = (confirmed_lsn is null)),
    check (commit_lsn is not null or ordinal = 0)
);

-- Offsets of a source that reads topics: all records before them are in the log.
create table observer.source_offset (
    name text not null references observer.source on delete cascade,
    topic text not null,
    partition integer not null,
    -- another topic may get the name of one that is deleted
    topic_id text not null,
    next_offset bigint not null,
    primary key (name, topic, partition)
);

-- What a source lost before the log had it, and records that are no events: of a write-ahead log with positions, of a
-- topic with the first offset and the one after the last.
create table observer.source_gap (
    id bigint generated always as identity primary key,
    name text not null,
    reason text not null,
    from_lsn pg_lsn,
    to_lsn pg_lsn,
    topic text,
    partition integer,
    from_offset bigint,
    to_offset bigint,
    records bigint,
    recorded_at timestamptz not null default clock_timestamp(),
    unique (name, topic, partition, reason),
    check (num_nulls(from_lsn, to_lsn) = 0 and num_nonnulls(topic, partition, from_offset, to_offset, records) = 0
        or num_nonnulls(from_lsn, to_lsn) = 0 and num_nulls(topic, partition, from_offset, to_offset, records) = 0)
);
comment on table observer.source_offset is 'How far sources have read topics.';
comment on table observer.source is 'Sources that fill the log from elsewhere: what of them is in the log, and who reads them.';
comment on table observer.source_gap is 'What sources lost before the log had it.';

-- Backfills: the rows that a table has, as events of their own kind, page by page in the order of a unique key.
create table observer.backfill (
    id bigint generated always as identity primary key,
    listener text not null,
    entity text not null,
    -- the only one that these events are for
    observer text,
    -- [{"column", "operator", "value"}, ...]: only rows of which all hold
    filters json not null default '[]',
    -- rows in a second, at most
    rate integer check (rate > 0),
    -- Pending, Running, Completed, Cancelled, Failed
    state text not null default 'Pending',
    -- the unique key that rows are read by, and that of the last row in the log, a text for each column
    key_columns text[],
    last_key text[],
    rows_read bigint not null default 0,
    -- as the planner knows it
    estimated_rows bigint,
    error text,
    -- asked for by spec.startAt, once
    is_initial boolean not null default false,
    -- grows with each change of hands; a page that carries an older one is not written
    epoch bigint not null default 0,
    holder text not null default '',
    expires_at timestamptz not null default '-infinity',
    requested_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz
);
create index on observer.backfill (listener, id) where state in ('Pending', 'Running');
create unique index on observer.backfill (listener, entity) where is_initial;

-- Whom the events of a page are for, by the transaction that wrote them, and what they are older than: all that
-- the snapshot has not seen. A reader skips rows that have such a change. Kept as long as the events.
create table observer.backfill_page (
    xid xid8 primary key,
    listener text not null,
    observer text,
    -- nothing where rows that had changed meanwhile were left out
    snapshot pg_snapshot,
    -- below the ids of all that had not begun then
    low_id bigint,
    -- what tells rows of one key apart; nothing where the key does
    row_columns text[],
    -- not below those of all that was logged before others knew of the page; set once it is committed
    high_id bigint
);
comment on table observer.backfill is 'Backfills that were asked for, and how far each is.';
comment on table observer.backfill_page is 'Whom events of backfills are for, and what they are older than.';
