-- What an operator runs: after a restore, and after the end of a listener.

create or replace function observer.drop_listener(listener text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer := observer.job_queue_of(listener);
    checkpoints bigint;
    letters bigint;
    jobs bigint;
begin
    delete from observer.lease l where l.listener = drop_listener.listener;
    delete from observer.member m where m.listener = drop_listener.listener;
    delete from observer.config c where c.listener = drop_listener.listener;
    delete from observer.checkpoint c where c.listener = drop_listener.listener;
    get diagnostics checkpoints = row_count;
    delete from observer.search_position p where p.listener = drop_listener.listener;
    delete from observer.search_gap g where g.listener = drop_listener.listener;
    delete from observer.dead_letter d where d.listener = drop_listener.listener;
    get diagnostics letters = row_count;
    delete from observer.processed_delivery e where e.listener = drop_listener.listener;
    delete from observer.cache_invalidation i where i.listener = drop_listener.listener;
    delete from observer.process_command p where p.listener = drop_listener.listener;
    delete from observer.console_session s where s.listener = drop_listener.listener;
    delete from observer.audit a where a.listener = drop_listener.listener;
    delete from observer.search_document s where s.listener = drop_listener.listener;
    delete from observer.backfill b where b.listener = drop_listener.listener;
    update observer.source s set listeners = array_remove(s.listeners, drop_listener.listener)
    where drop_listener.listener = any (s.listeners);
    delete from observer.job_worker w where w.queue = of_queue;
    delete from observer.finished_job d where d.queue = of_queue;
    delete from observer.job j where j.queue = of_queue;
    get diagnostics jobs = row_count;
    delete from observer.job_queue q where q.id = of_queue;
    return checkpoints + letters + jobs;
end
$$;

-- After a restore into another cluster the xids in the log are of no meaning here. Those that
-- lie in this cluster's future would hide their rows until it gets there: they become 3, which
-- every snapshot sees but the one that a reader begins with. What a statement sees although its
-- snapshot's xmax is not above the xid was never written by this cluster.
create or replace function observer.reset_position(listener text, target text default 'earliest') returns void
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
    if target is null or target not in ('earliest', 'stored', 'latest') then
        raise exception 'a position is reset to ''earliest'', ''stored'' or ''latest'''
            using errcode = 'invalid_parameter_value';
    end if;
    perform observer.lock('reset-position');
    perform 1 from observer.checkpoint c where c.listener = reset_position.listener for update;
    if not found then
        raise exception 'no listener % has a position in this database', quote_literal(listener)
            using errcode = 'no_data_found', hint = 'It begins at the present by itself.';
    end if;
    select * into present from observer.current_bound();
    select
        bool_or(c.system_identifier <> identity or c.database_oid <> database),
        bool_or(greatest(
            pg_snapshot_xmax(c.base_snapshot)::text::numeric, pg_snapshot_xmax(c.window_snapshot)::text::numeric
        ) > pg_snapshot_xmax(present.snapshot)::text::numeric)
    into elsewhere, ahead
    from observer.checkpoint c where c.listener = reset_position.listener;
    if ahead and target = 'stored' then
        raise exception 'the position of listener % lies ahead of this database', quote_literal(listener)
            using errcode = 'object_not_in_prerequisite_state',
                hint = 'Reset it to ''earliest'' to deliver all that the log holds, or to ''latest'' to skip it.';
    end if;

    update observer.change_log set xid = '3' where xid >= pg_snapshot_xmax(pg_current_snapshot());
    perform setval('observer.change_log_id', last.id)
    from (select id from observer.change_log order by id desc limit 1) last, observer.change_log_id s
    where last.id > s.last_value;
    -- What backfills have read is told apart, and compared, by transactions.
    delete from observer.backfill_page p where elsewhere or p.xid >= pg_snapshot_xmax(pg_current_snapshot());
    -- Once for all listeners: the log's name stays with the database that it was given in.
    update observer.log_identity i
    set id = gen_random_uuid(), since = clock_timestamp(), system_identifier = identity, database_oid = database
    where ahead
        or elsewhere and (i.system_identifier, i.database_oid) is distinct from (identity, database);

    update observer.checkpoint c
    set epoch = epoch + 1, system_identifier = identity, database_oid = database, saved_at = clock_timestamp()
    where c.listener = reset_position.listener;
    if target <> 'stored' then
        if target = 'earliest' then
            -- The history begins anew with what the log holds; what it has already it keeps.
            delete from observer.search_position p where p.listener = reset_position.listener;
        else
            -- What is skipped was not delivered, and a history that read it would say that it was.
            update observer.search_position p
            set base_low_id = 0, base_snapshot = present.snapshot, base_high_id = present.high_id,
                window_low_id = null, window_snapshot = null, window_high_id = null, last_id = 0
            where p.listener = reset_position.listener;
        end if;
        update observer.checkpoint c
        set base_low_id = 0, -- true of any snapshot; the reader's next bound has a better one
            base_snapshot = case when target = 'latest' then present.snapshot else '3:3:' end,
            base_high_id = case when target = 'latest' then present.high_id else 0 end,
            window_low_id = null, window_snapshot = null, window_high_id = null, last_id = 0, completed_ids = '{}',
                partially_completed = '[]',
            pre_reshard_progress = '[]'
        where c.listener = reset_position.listener;
    end if;
end
$$;

revoke all on function observer.drop_listener, observer.reset_position from public;

comment on function observer.drop_listener is
'Deletes the checkpoints, dead letters, jobs and history of a listener that is gone for good, so that it no longer
holds back the removal of old events. Returns the number of deleted rows.';

comment on function observer.reset_position is
'Resets the position of a listener in a database that was restored, copied or upgraded, where its stored
position is rejected. target ''earliest'' (the default) delivers everything that the log still holds, also
what was delivered before. ''stored'' resumes at the stored position, for a database that kept its
transaction ids (pg_upgrade, a physical copy); it is rejected for a position ahead of the database.
''latest'' skips what the log holds. In another database than before, the log gets a new name, so that
reused ids are not taken for old events. Running processes of the listener lose their shards and claim
them again.';
