-- What keeps the log bounded, and what an operator runs after a restore.

-- Moves the writers on to an empty slot, and empties slots that every listener has behind it.
--
-- A slot is emptied only while no transaction that wrote to it is open (they hold its lock) and
-- all its rows lie behind every checkpoint, looked at again once the lock is held: hence only
-- under read committed, where each statement sees the present. A straggler that still writes to
-- a slot that the head has left makes it non-empty again, and no more.
-- `blocked` says that something was kept from being done: the mutex or the lock of a partition was
-- somebody else's.
create function observer.maintain(keep interval, out truncated integer, out rotated boolean, out blocked boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- Readers queue behind a waiting lock; better to try again at the next call.
set lock_timeout = '200ms'
as $$
declare
    slots constant integer := 8;
    slot_bytes constant bigint := 256 * 1024 * 1024;
    head record;
    candidate integer;
begin
    truncated := 0;
    rotated := false;
    blocked := false;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'observer.maintain needs the isolation level read committed'
            using errcode = 'invalid_transaction_state';
    end if;
    if keep is null or keep < interval '0' then
        raise exception 'the time to keep events must not be negative' using errcode = 'invalid_parameter_value';
    end if;
    -- One caller at a time, and the others need not wait.
    if not observer.try_lock('maintain') then
        blocked := true;
        return;
    end if;

    select slot, since into head from observer.log_head;
    if not observer.slot_is_empty(head.slot) and (
        head.since < clock_timestamp() - keep / 4
        or pg_table_size(format('observer.change_log_%s', head.slot)::regclass) >= slot_bytes
    ) then
        for step in 1..slots - 1 loop
            candidate := (head.slot + step) % slots;
            if observer.slot_is_empty(candidate) then
                update observer.log_head set slot = candidate, since = clock_timestamp();
                rotated := true;
                exit;
            end if;
        end loop;
    end if;

    for candidate in
        select n from generate_series(0, slots - 1) n where n <> (select slot from observer.log_head)
    loop
        continue when not observer.slot_is_behind(candidate, keep);
        begin
            execute format('lock table observer.change_log_%s in access exclusive mode', candidate);
        exception when lock_not_available then
            blocked := true;
            continue;
        end;
        if observer.slot_is_behind(candidate, keep) then
            execute format('truncate observer.change_log_%s', candidate);
            truncated := truncated + 1;
        end if;
    end loop;
end
$$;

create function observer.slot_is_empty(slot integer) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row boolean;
begin
    execute format('select exists (select 1 from observer.change_log_%s)', slot) into found_row;
    return not found_row;
end
$$;

-- Whether the slot has rows, all of them old and seen by every checkpoint's snapshot. Without a
-- checkpoint nobody has seen anything.
create function observer.slot_is_behind(slot integer, keep interval) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    newest_xid xid8;
    newest_at timestamptz;
    behind xid8;
begin
    execute format('select xid from observer.change_log_%s order by xid desc limit 1', slot) into newest_xid;
    if newest_xid is null then
        return false;
    end if;
    select pg_snapshot_xmin(from_snapshot) into behind from observer.checkpoint order by 1 limit 1;
    if behind is null or newest_xid >= behind then
        return false;
    end if;
    execute format('select occurred_at from observer.change_log_%s order by id desc limit 1', slot) into newest_at;
    return newest_at <= clock_timestamp() - keep;
end
$$;

create function observer.forget(listener text) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from observer.checkpoint c where c.listener = forget.listener;
    delete from observer.dead_letter d where d.listener = forget.listener;
end
$$;

-- After a restore into another cluster the xids in the log are of no meaning here. Those that
-- lie in this cluster's future would hide their rows until it gets there: they become 3, which
-- every snapshot sees but the one that a reader begins with. What a statement sees although its
-- snapshot's xmax is not above the xid was never written by this cluster.
create function observer.rebase(listener text, resume text default 'beginning') returns void
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
            to_floor = null, to_snapshot = null, to_ceiling = null, last_id = 0, finished = '{}', partly = '[]'
        where c.listener = rebase.listener;
    end if;
end
$$;

revoke all on function
    observer.maintain, observer.slot_is_empty, observer.slot_is_behind, observer.forget, observer.rebase
from public;

comment on function observer.maintain is
'Keeps the log bounded; listeners call it every few seconds. Removes events older than `keep` that
lie behind every checkpoint: nothing while there is no checkpoint, and nothing that a listener has
still to read (observer.forget ends a listener that is gone for good). Returns how many slots of
the log were emptied, and whether writers were moved to another.';
comment on function observer.forget is
'Removes the checkpoints and dead letters of a listener that is gone for good, so that it no longer
holds back the removal of old events.';
comment on function observer.rebase is
'Lets a listener go on in a database that was restored, copied or upgraded, where its position is
refused. resume: ''beginning'' (the default) delivers all that the log still holds, again if it was
delivered before; ''position'' goes on where it was, for a database that kept its transaction ids
(pg_upgrade, a physical copy), and is refused for a position ahead of the database; ''now'' skips
what the log holds. In another database than before the log gets a new name, so that ids given
again are not taken for old events. Running replicas of the listener lose their shards and claim
them anew.';
