-- Shards change hands singly, their number may change, and processes that have no cluster around
-- them keep their Leases here.

-- What others had done of a shard's keys while the listener had another number of shards:
-- [{"of", "shard", "from", "to", "lastId", "finished", "partly"}, ...], with the meaning of the
-- columns of those names. Dropped once the shard's own position is past it.
alter table observer.checkpoint add column inherited json not null default '[]';

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
    primary key (listener, name)
);

create or replace function observer.forget(listener text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    checkpoints bigint;
    letters bigint;
begin
    delete from observer.lease l where l.listener = forget.listener;
    delete from observer.member m where m.listener = forget.listener;
    delete from observer.config c where c.listener = forget.listener;
    delete from observer.checkpoint c where c.listener = forget.listener;
    get diagnostics checkpoints = row_count;
    delete from observer.dead_letter d where d.listener = forget.listener;
    get diagnostics letters = row_count;
    return checkpoints + letters;
end
$$;

create or replace function observer.rebase(listener text, resume text default 'beginning') returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    present record;
    identity bigint := (select system_identifier from pg_control_system());
    database oid := (select oid from pg_database where datname = current_database());
    elsewhere boolean;
    ahead boolean;
begin
    if resume is null or resume not in ('beginning', 'position', 'now') then
        raise exception 'a listener resumes at ''beginning'', ''position'' or ''now'''
            using errcode = 'invalid_parameter_value';
    end if;
    perform observer.lock('rebase');
    perform 1 from observer.checkpoint c where c.listener = rebase.listener for update;
    if not found then
        raise exception 'no listener % has a position in this database', quote_literal(listener)
            using errcode = 'no_data_found', hint = 'It begins at the present by itself.';
    end if;
    select * into present from observer.mark();
    select
        bool_or(c.system_identifier <> identity or c.database_oid <> database),
        bool_or(greatest(
            pg_snapshot_xmax(c.from_snapshot)::text::numeric, pg_snapshot_xmax(c.to_snapshot)::text::numeric
        ) > pg_snapshot_xmax(present.snapshot)::text::numeric)
    into elsewhere, ahead
    from observer.checkpoint c where c.listener = rebase.listener;
    if ahead and resume = 'position' then
        raise exception 'the position of listener % lies ahead of this database', quote_literal(listener)
            using errcode = 'object_not_in_prerequisite_state',
                hint = 'Resume at ''beginning'' to deliver all that the log holds, or at ''now'' to skip it.';
    end if;

    update observer.change_log set xid = '3' where xid >= pg_snapshot_xmax(pg_current_snapshot());
    perform setval('observer.change_log_id', last.id)
    from (select id from observer.change_log order by id desc limit 1) last, observer.change_log_id s
    where last.id > s.last_value;
    -- Once for all listeners: the log's name stays with the database that it was given in.
    update observer.incarnation i
    set id = gen_random_uuid(), since = clock_timestamp(), system_identifier = identity, database_oid = database
    where ahead
        or elsewhere and (i.system_identifier, i.database_oid) is distinct from (identity, database);

    update observer.checkpoint c
    set epoch = epoch + 1, system_identifier = identity, database_oid = database, saved_at = clock_timestamp()
    where c.listener = rebase.listener;
    if resume <> 'position' then
        update observer.checkpoint c
        set from_floor = 0, -- a true floor for any snapshot; the reader's next mark has a better one
            from_snapshot = case when resume = 'now' then present.snapshot else '3:3:' end,
            from_ceiling = case when resume = 'now' then present.ceiling else 0 end,
            to_floor = null, to_snapshot = null, to_ceiling = null, last_id = 0, finished = '{}', partly = '[]',
            inherited = '[]'
        where c.listener = rebase.listener;
    end if;
end
$$;

comment on table observer.config is 'Which observers the processes of each listener run, by a digest.';
comment on table observer.member is 'The processes of each listener, by their heartbeats.';
comment on table observer.lease is 'Who takes part in a listener, and whose a shard is, where no cluster keeps the Leases.';
