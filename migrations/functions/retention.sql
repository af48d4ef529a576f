-- What keeps the log bounded.

-- Moves the writers on to an empty partition, and empties partitions that every listener has behind it.
--
-- A partition is emptied only while no transaction that wrote to it is open (they hold its lock) and
-- all its rows lie behind every checkpoint, looked at again once the lock is held: hence only
-- under read committed, where each statement sees the present. A straggler that still writes to
-- a partition that the head has left makes it non-empty again, and no more.
-- `blocked` says that something was kept from being done: the mutex or the lock of a partition was
-- somebody else's.
create or replace function observer.apply_retention(retain interval, out truncated integer, out rotated boolean,
    out blocked boolean)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
-- Readers queue behind a waiting lock; better to try again at the next call.
set lock_timeout = '200ms'
as $$
declare
    partitions constant integer := 8;
    partition_bytes constant bigint := 256 * 1024 * 1024;
    head record;
    candidate integer;
begin
    truncated := 0;
    rotated := false;
    blocked := false;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'observer.apply_retention needs the isolation level read committed'
            using errcode = 'invalid_transaction_state';
    end if;
    if retain is null or retain < interval '0' then
        raise exception 'the time to retain events must not be negative' using errcode = 'invalid_parameter_value';
    end if;
    -- One caller at a time, and the others need not wait.
    if not observer.try_lock('apply-retention') then
        blocked := true;
        return;
    end if;

    select partition_no, since into head from observer.log_partition_state;
    if not observer.partition_is_empty(head.partition_no) and (
        head.since < clock_timestamp() - retain / 4
        or pg_table_size(format('observer.change_log_%s', head.partition_no)::regclass) >= partition_bytes
    ) then
        for step in 1..partitions - 1 loop
            candidate := (head.partition_no + step) % partitions;
            if observer.partition_is_empty(candidate) then
                update observer.log_partition_state set partition_no = candidate, since = clock_timestamp();
                rotated := true;
                exit;
            end if;
        end loop;
    end if;

    for candidate in
        select n from generate_series(0, partitions - 1) n where n <> (select partition_no
            from observer.log_partition_state)
    loop
        continue when not observer.partition_is_behind(candidate, retain);
        begin
            execute format('lock table observer.change_log_%s in access exclusive mode', candidate);
        exception when lock_not_available then
            blocked := true;
            continue;
        end;
        if observer.partition_is_behind(candidate, retain) then
            perform observer.record_search_gaps(candidate);
            execute format('truncate observer.change_log_%s', candidate);
            truncated := truncated + 1;
        end if;
    end loop;
    if truncated > 0 then
        delete from observer.backfill_page p
        where p.xid < (select xid from observer.change_log order by xid limit 1)
            or not exists (select from observer.change_log);
    end if;
end
$$;

create or replace function observer.partition_is_empty(partition_no integer) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_row boolean;
begin
    execute format('select exists (select 1 from observer.change_log_%s)', partition_no) into found_row;
    return not found_row;
end
$$;

-- Whether the partition has rows, all of them old and seen by every checkpoint's snapshot, and by that
-- of every history that they are not too old for. Without a checkpoint nobody has seen anything.
create or replace function observer.partition_is_behind(partition_no integer, retain interval) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    newest_xid xid8;
    newest_at timestamptz;
    behind xid8;
begin
    execute format('select xid from observer.change_log_%s order by xid desc limit 1', partition_no) into newest_xid;
    if newest_xid is null then
        return false;
    end if;
    select pg_snapshot_xmin(base_snapshot) into behind from observer.checkpoint order by 1 limit 1;
    if behind is null or newest_xid >= behind then
        return false;
    end if;
    execute format('select occurred_at from observer.change_log_%s order by id desc limit 1', partition_no)
        into newest_at;
    if newest_at > clock_timestamp() - retain then
        return false;
    end if;
    -- Events of a backfill that are yet to be read are compared with what is here.
    if exists (
        select from observer.backfill_page p
        where p.xid >= behind and newest_xid >= pg_snapshot_xmin(p.snapshot)
    ) then
        return false;
    end if;
    return not exists (
        select from observer.search_position p
        where newest_xid >= pg_snapshot_xmin(p.base_snapshot) and newest_at > clock_timestamp() - p.max_lag);
end
$$;

-- Records which events of the partition histories do not have yet, when it is about to be emptied.
create or replace function observer.record_search_gaps(partition_no integer) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('
        insert into observer.search_gap (listener, shard, from_time, to_time, events)
        select p.listener, p.shard, min(l.occurred_at), max(l.occurred_at), count(*)
        from observer.search_position p
        join observer.change_log_%s l on l.xid >= pg_snapshot_xmin(p.base_snapshot) and l.hash %% p.shards = p.shard
            and not pg_visible_in_snapshot(l.xid, p.base_snapshot)
            and (p.window_snapshot is null or l.id > p.last_id or not pg_visible_in_snapshot(l.xid, p.window_snapshot))
        group by p.listener, p.shard', partition_no);
end
$$;

revoke all on function observer.apply_retention, observer.partition_is_empty, observer.partition_is_behind,
    observer.record_search_gaps from public;

comment on function observer.apply_retention is
'Keeps the log bounded; listeners call it every few seconds. Removes events older than `retain` that
lie behind every checkpoint: nothing while there is no checkpoint, and nothing that a listener has
still to read (observer.drop_listener ends a listener that is gone for good). Events that a history does
not have yet stay up to its spec.search.maxLag; what goes after that is recorded in observer.search_gap.
Returns how many partitions of
the log were emptied, and whether writers were moved to another.';
