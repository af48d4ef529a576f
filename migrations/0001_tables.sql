-- The tables of schema `observer`. The schema itself is made by the migrator.

-- Names this log for ever: event ids begin with it, so that ids given again after a restore differ.
create table observer.incarnation (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid(),
    since timestamptz not null default clock_timestamp(),
    -- the database that it was given in
    system_identifier bigint not null,
    database_oid oid not null
);
insert into observer.incarnation (system_identifier, database_oid)
select s.system_identifier, d.oid
from pg_control_system() s, pg_database d where d.datname = current_database();

-- Names the server's present life. Unlogged, so recovery from a crash and promotion of a standby
-- empty it. Xids that were drawn but had not reached the disk are then drawn again, and a
-- snapshot from before says nothing about them: whoever holds one must start from what was saved.
create unlogged table observer.life (
    only_row boolean primary key default true check (only_row),
    id uuid not null default gen_random_uuid()
);

-- A transaction draws its xid before its first id, so every event of a transaction that began
-- after a snapshot has a larger id than any drawn before that snapshot. Hence no cache.
create sequence observer.change_log_id as bigint cache 1;

-- A ring of partitions: new rows go to the slot that log_head names, and a slot that lies
-- behind every checkpoint is truncated. Nothing is created or dropped while the log is in use.
-- No check constraints: each statement of each writer would pay for setting them up (a fifth of
-- what logging a single row costs), and only the functions of this schema write here.
create table observer.change_log (
    slot smallint not null,
    id bigint not null default nextval('observer.change_log_id'),
    xid xid8 not null default pg_current_xact_id(),
    occurred_at timestamptz not null default transaction_timestamp(),
    -- of tenant, entity and key, never negative; the shard follows from it
    hash integer not null,
    -- bytes of both images
    size integer not null,
    -- i insert, u update, d delete, t truncate, c custom
    operation "char" not null,
    entity text not null,
    key text,
    tenant text,
    -- json and not jsonb: jsonb refuses what a row may hold, and the writer would fail with it
    old json,
    new json
) partition by list (slot);

do $$
begin
    for slot in 0..7 loop
        execute format(
            'create table observer.change_log_%1$s partition of observer.change_log for values in (%1$s)
                with (autovacuum_vacuum_insert_scale_factor = 0.5)', slot);
        execute format('create index on observer.change_log_%s (id)', slot);
        execute format('create index on observer.change_log_%s (xid, id)', slot);
    end loop;
end
$$;

create table observer.log_head (
    only_row boolean primary key default true check (only_row),
    slot smallint not null default 0 check (slot between 0 and 7),
    since timestamptz not null default clock_timestamp()
);
insert into observer.log_head default values;

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
    from_floor bigint not null,
    from_snapshot pg_snapshot not null,
    from_ceiling bigint not null,
    -- the window under way, if any, and the id in it up to which all is behind
    to_floor bigint,
    to_snapshot pg_snapshot,
    to_ceiling bigint,
    last_id bigint not null default 0,
    -- events beyond last_id that are wholly done, and actions done of others:
    -- [[log id, observer, action], ...]; a reader that starts here skips them
    finished bigint[] not null default '{}',
    partly json not null default '[]',
    system_identifier bigint not null,
    database_oid oid not null,
    saved_at timestamptz not null default clock_timestamp(),
    primary key (listener, shard),
    check ((to_snapshot is null) = (to_floor is null) and (to_snapshot is null) = (to_ceiling is null)),
    check (to_snapshot is not null or last_id = 0)
);

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
    unique (listener, event_id, observer, action)
);
create index on observer.dead_letter (listener, redrive_requested_at) where redrive_requested_at is not null;

revoke all on schema observer from public;

-- Whoever has one of these rows locked is the only one to do what it stands for. Not advisory locks:
-- whoever may connect to the database can take those, for as long as they like.
create table observer.mutex (name text primary key);

-- Waits for it, and holds it until the transaction ends.
create function observer.lock(mutex text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    loop
        perform from observer.mutex m where m.name = lock.mutex for update;
        exit when found;
        insert into observer.mutex (name) values (lock.mutex) on conflict do nothing;
    end loop;
end
$$;

-- Whether nobody else had it; it is held until the transaction ends then.
create function observer.try_lock(mutex text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from observer.mutex m where m.name = try_lock.mutex for update skip locked;
    if found then return true; end if;
    if exists (select from observer.mutex m where m.name = try_lock.mutex) then return false; end if;
    begin
        insert into observer.mutex (name) values (try_lock.mutex) on conflict do nothing;
    exception when lock_not_available then
        -- Somebody else is the first to have it.
        return false;
    end;
    perform from observer.mutex m where m.name = try_lock.mutex for update skip locked;
    return found;
end
$$;
revoke all on function observer.lock, observer.try_lock from public;
comment on table observer.mutex is 'Its rows are locked by whoever does what only one may do at a time.';

-- A bound below the ids of all that a snapshot taken after this call has not seen begin. A
-- snapshot's xmax is the newest xid that has ended, plus one, so a transaction from xmax on may
-- have drawn ids long before. Once this call's own transaction has ended, though, xmax lies above
-- its xid: whatever is at xmax or above then drew its xid, and so its ids, after this call.
-- Call it as a transaction of its own. Writes nothing but a commit record, which nobody waits for.
--
-- A sequence changes its one row in place: each time it logs its next 32 values, the row holds the
-- last of these for a moment, and a plain select reads it without the lock that keeps others from
-- seeing that. A floor read then lies above ids that are yet to be written, which no window would
-- hold; a ceiling read then lies ahead of the next one. pg_sequence_last_value takes the lock.
create function observer.floor() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    floor bigint;
begin
    select case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    into floor from observer.change_log_id;
    perform pg_current_xact_id();
    return floor;
end
$$;

-- The snapshot of this moment, and the largest id that any event may have which it sees. Volatile,
-- and a statement each, so that the id is read after the snapshot is taken.
create function observer.mark(out snapshot pg_snapshot, out ceiling bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    snapshot := pg_current_snapshot();
    select case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    into ceiling from observer.change_log_id;
end
$$;
revoke all on function observer.floor, observer.mark from public;

comment on table observer.change_log is 'Committed changes and custom events, written by observer.track''s triggers and observer.emit.';
comment on table observer.log_head is 'The slot of the log that is being written to.';
comment on table observer.incarnation is 'The log''s name for ever; event ids begin with it.';
comment on table observer.checkpoint is 'How far each shard of each listener is. Holds back the removal of what is not yet behind.';
comment on table observer.dead_letter is 'Actions given up on, until redriven or dropped.';
comment on function observer.mark is 'The present moment as a place in the log.';
comment on function observer.floor is 'A bound below the ids of whatever a later mark has not seen begin.';
