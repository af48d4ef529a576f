-- Jobs: actions taken off the fast path, worked on in the order of their lanes.
--
-- Of a lane only the first job is ready, delayed or claimed; with it, those that came along under
-- its claim are claimed too, and all others are behind. Whoever adds to a lane holds its first
-- job, and whoever takes the first away makes the next one ready, having waited for whoever holds
-- it. So a lane that holds jobs is never without one that can be claimed.
--
-- Jobs lie in a ring of slots. Written anew, a job goes to the slot that the head names; a slot
-- with no job left is truncated, and with it whatever dead rows it holds, however old the
-- snapshots that are still open.

create table observer.job_queue (
    id integer generated always as identity primary key,
    listener text not null unique,
    -- where the listener's jobs are kept, and where some may still be while that changes
    place text not null default 'Postgres'
);

create sequence observer.job_id as bigint cache 1;

create table observer.job (
    slot smallint not null,
    -- the place in its lane; the same for as long as the job is there
    id bigint not null,
    queue integer not null,
    -- of listener, observer, action and the hash of the key
    lane bigint not null,
    -- of observer and action
    act bigint not null,
    -- of the tenant: jobs are taken from each act and turn in rotation
    turn integer not null,
    -- 0 high, 1 normal, 2 low
    priority smallint not null,
    -- r ready and due, d delayed, c claimed, b behind
    state "char" not null,
    -- where the row was when somebody wanted it cancelled while it was claimed
    cancelled tid,
    hash integer not null,
    attempts integer not null,
    -- grows with each claim; a result that carries an older one is refused
    claim bigint not null default 0,
    worker uuid,
    -- never before the moment at which it was written, unless the job is behind
    due timestamptz not null,
    enqueued_at timestamptz not null,
    log_id bigint not null,
    name text not null,
    event_id text not null,
    observer text not null,
    action text not null,
    entity text not null,
    key text,
    tenant text,
    -- [{at, kind, error, status}], the latest last
    history json not null,
    event json not null
) partition by list (slot);

-- The functions below keep their plans, which may have been made while there were no jobs: then
-- each way of finding a row looks as good as any other. Hence they may not choose. By its lane a
-- job is looked for by lane (and never by queue too, nor by a state that has an index), among those
-- of a state by that state's index, and no other index has a column that would do. One that this
-- transaction has just locked or written is where it is (ctid), and found there without an index.
do $$
begin
    for slot in 0..3 loop
        execute format(
            'create table observer.job_%1$s partition of observer.job for values in (%1$s)
                with (autovacuum_vacuum_scale_factor = 0.1)', slot);
        execute format('create index on observer.job_%s (lane, id)', slot);
        execute format('create index on observer.job_%s using hash (name)', slot);
        execute format('create index on observer.job_%s (queue, priority, act, turn, due) where state = ''r''', slot);
        execute format('create index on observer.job_%s (queue, due) where state = ''d''', slot);
        execute format('create index on observer.job_%s (queue, act, worker) where state = ''c''', slot);
    end loop;
end
$$;

create table observer.job_head (
    only_row boolean primary key default true check (only_row),
    slot smallint not null default 0 check (slot between 0 and 3),
    -- those that hold any job, this one included. Where claims look: one may be missing here for as
    -- long as it takes until the ring is seen to again
    slots smallint[] not null default '{0}',
    since timestamptz not null default clock_timestamp(),
    -- until when no slot is truncated, because somebody who takes long held one
    patience_until timestamptz not null default clock_timestamp()
);
insert into observer.job_head default values;

create table observer.job_worker (
    id uuid primary key,
    queue integer not null,
    name text not null,
    expires_at timestamptz not null
);
create index on observer.job_worker (queue, expires_at);

-- Jobs that are over, where a listener keeps them for a while.
create table observer.job_done (
    id bigint not null,
    queue integer not null,
    outcome "char" not null,
    priority smallint not null,
    attempts integer not null,
    enqueued_at timestamptz not null,
    ended_at timestamptz not null,
    name text not null,
    event_id text not null,
    observer text not null,
    action text not null,
    entity text not null,
    key text,
    tenant text,
    history json not null,
    event json not null
);
create index on observer.job_done (queue, ended_at);
create index on observer.job_done using hash (name);

create function observer.job_queue_of(listener text) returns integer
language sql stable
return (select q.id from observer.job_queue q where q.listener = job_queue_of.listener);

-- A save that adds jobs names itself, so that it does not add them again when its answer was lost.
alter table observer.checkpoint add column last_save uuid;
