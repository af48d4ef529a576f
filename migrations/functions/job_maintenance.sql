-- What keeps the tables of jobs small.

-- Moves jobs that nobody holds from a partition to the head's.
create or replace function observer.relocate_jobs(from_partition integer, most integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    moved integer;
begin
    -- Not an update of the partition: whoever waits for a row that goes to another table fails.
    execute format(
        'with gone as (
             delete from observer.job_%1$s j using (
                 select m.ctid from observer.job_%1$s m where m.state <> ''r'' limit %2$s for update skip locked
             ) m where j.ctid = m.ctid and j.state <> ''r''
             returning j.*
         )
         insert into observer.job (
             partition_no, id, queue, lane_id, action_hash, tenant_hash, priority, state, cancelled, hash, attempts,
                 claim_generation, worker, scheduled_at,
             enqueued_at, log_id, dedup_key, event_id, observer, action, entity, key, tenant, history, event
         )
         select (select partition_no from observer.job_partition_state), id, queue, lane_id, action_hash, tenant_hash,
             priority, state, cancelled, hash,
                attempts, claim_generation, worker, scheduled_at, enqueued_at, log_id, dedup_key, event_id, observer,
                    action, entity, key,
                tenant, history, event
         from gone', from_partition, most);
    get diagnostics moved = row_count;
    return moved;
end
$$;

-- Keeps the ring small: truncates a partition with no job left, moves what is left of one with few, and
-- moves the head on from a partition that has grown. Where every partition holds many jobs, the oldest one's
-- are moved bit by bit for as long as the head is too large and mostly dead.
create or replace function observer.rotate_job_partitions(partition_bytes bigint, out moved integer,
    out truncated boolean, out rotated boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- Others queue up behind a waiting lock; better to try again later.
set lock_timeout = '50ms'
as $$
declare
    patience constant interval := '5 seconds';
    partitions constant integer := 4;
    few constant integer := 2000;
    head record;
    candidate integer;
    size bigint;
    jobs integer;
    empty_partition integer;
    crowded boolean;
    filled smallint[];
begin
    moved := 0;
    truncated := false;
    rotated := false;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'observer.rotate_job_partitions needs the isolation level read committed'
            using errcode = 'invalid_transaction_state';
    end if;
    if not observer.try_lock('job-rotate') then
        return;
    end if;
    select h.partition_no, h.since, h.truncate_after > clock_timestamp() as patient into head
        from observer.job_partition_state h;
    size := pg_table_size(format('observer.job_%s', head.partition_no)::regclass);
    crowded := size >= partition_bytes
        or (size >= partition_bytes / 16 and head.since < clock_timestamp() - interval '1 minute');
    for step in 1..partitions - 1 loop
        candidate := (head.partition_no + step) % partitions;
        if pg_relation_size(format('observer.job_%s', candidate)::regclass) = 0 then
            empty_partition := coalesce(empty_partition, candidate);
            continue;
        end if;
        execute format('select count(*) from (select from observer.job_%s limit %s) found', candidate, few + 1)
            into jobs;
        if jobs between 1 and few and moved = 0 then
            moved := observer.relocate_jobs(candidate, few);
        end if;
        continue when truncated or head.patient or jobs - moved > 0;
        begin
            execute format('lock table observer.job_%s in access exclusive mode', candidate);
            execute format('select count(*) from (select from observer.job_%s limit 1) found', candidate) into jobs;
            if jobs = 0 then
                execute format('truncate observer.job_%s', candidate);
                truncated := true;
                empty_partition := coalesce(empty_partition, candidate);
            end if;
        exception when lock_not_available then
            head.patient := true;
            update observer.job_partition_state h set truncate_after = clock_timestamp() + patience;
        end;
    end loop;
    if crowded and empty_partition is not null then
        update observer.job_partition_state h set partition_no = empty_partition, since = clock_timestamp();
        head.partition_no := empty_partition;
        rotated := true;
    elsif crowded and moved = 0 and pg_stat_get_dead_tuples(format('observer.job_%s', head.partition_no)::regclass)
        > pg_stat_get_live_tuples(format('observer.job_%s', head.partition_no)::regclass) then
        moved := observer.relocate_jobs((head.partition_no + 1) % partitions, few);
    end if;
    filled := array(
        select s.partition_no::smallint from generate_series(0, partitions - 1) s(partition_no)
        where s.partition_no = head.partition_no or pg_relation_size(format('observer.job_%s',
            s.partition_no)::regclass) > 0
    );
    update observer.job_partition_state h set partitions_in_use = filled where h.partitions_in_use <> filled;
end
$$;

-- Removes jobs that have been over for longer than they are kept. Answers with how many.
create or replace function observer.purge_finished_jobs(of_listener text, retention double precision,
    most bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    until timestamptz := clock_timestamp() - make_interval(secs => retention);
    removed bigint;
begin
    delete from observer.finished_job d using (
        select o.ctid from observer.finished_job o
        where o.queue = observer.job_queue_of(of_listener)
            and o.finished_at < until
        order by o.finished_at limit most for update skip locked
    ) o where d.ctid = o.ctid;
    get diagnostics removed = row_count;
    return removed;
end
$$;

revoke all on function observer.relocate_jobs, observer.rotate_job_partitions, observer.purge_finished_jobs from public;
