-- Adding jobs, and letting the next ones of lanes come.

create or replace function observer.job_queue_of(listener text) returns integer
language sql stable
return (select q.id from observer.job_queue q where q.listener = job_queue_of.listener);

-- Makes the first of each lane available where it is blocked. Others may hold the one that is seen to
-- be first, and take it away: then the next one is looked for, once they are done.
create or replace function observer.job_promote(of_queue integer, lane_ids bigint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    passes constant integer := 1000;
    left_over bigint[] := lane_ids;
    first record;
    promoted integer;
begin
    -- Most are empty, which one look tells of all.
    if not exists (select from observer.job j where j.lane_id = any (lane_ids)) then
        return;
    end if;
    for pass in 1..passes loop
        select array_agg(f.partition_no) as partitions, array_agg(f.lane_id) as lane_ids, array_agg(f.id) as ids
            into first
        from (select distinct l as lane_id from unnest(left_over) l) l
        cross join lateral (
            select j.partition_no, j.lane_id, j.id, j.state from observer.job j
            where j.lane_id = l.lane_id order by j.id limit 1
        ) f
        where f.state = 'b';
        if first.ids is null then
            return;
        end if;
        update observer.job j
        set state = case when j.scheduled_at > clock_timestamp() then 's' else 'a' end::"char",
            scheduled_at = greatest(j.scheduled_at, clock_timestamp())
        from unnest(first.partitions, first.lane_ids, first.ids) f(partition_no, lane_id, id)
        where j.partition_no = f.partition_no and j.lane_id = f.lane_id and j.id = f.id and j.state = 'b';
        get diagnostics promoted = row_count;
        if promoted = cardinality(first.ids) then
            return;
        end if;
        left_over := first.lane_ids;
    end loop;
    raise exception 'the lanes of jobs keep changing' using errcode = 'serialization_failure';
end
$$;

-- Adds jobs in the order given, each at the end of its lane. Only one at a time may add to a lane.
--
-- A lane's first is held until the transaction ends, so it cannot go before these are seen. Where
-- it went just now, all that is held is let go, since the next one may lie anywhere in the order
-- in which everybody waits for rows.
create or replace function observer.job_enqueue(
    of_listener text, dedup_keys text[], lane_ids bigint[], action_hashes bigint[], tenant_hashes integer[],
        priorities smallint[],
    hashes integer[], log_ids bigint[], event_ids text[], observers text[], actions text[], entities text[],
    keys text[], tenants text[], events text[], waits double precision[], attempts integer[], histories text[],
    -- whether there is one of the same lane before it among these
    repeats boolean[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    passes constant integer := 100;
    of_queue integer;
    held integer := 0;
    first record;
    present timestamptz;
begin
    select q.id into of_queue from observer.job_queue q where q.listener = of_listener;
    if of_queue is null then
        insert into observer.job_queue (listener) values (of_listener) on conflict do nothing;
        of_queue := observer.job_queue_of(of_listener);
    end if;
    for pass in 1..passes loop
        -- Most are empty, which one look tells of all.
        exit when not exists (select from observer.job j where j.lane_id = any (lane_ids));
        select array_agg(f.partition_no) as partitions, array_agg(f.lane_id) as lane_ids, array_agg(f.id) as ids
            into first
        from (select distinct l as lane_id from unnest(lane_ids) l) l
        cross join lateral (
            select j.partition_no, j.lane_id, j.id from observer.job j
            where j.lane_id = l.lane_id order by j.id limit 1
        ) f;
        exit when first.ids is null;
        begin
            select count(*) into held
            from (
                select
                from unnest(first.partitions, first.lane_ids, first.ids) f(partition_no, lane_id, id)
                join observer.job j on j.partition_no = f.partition_no and j.lane_id = f.lane_id and j.id = f.id
                order by j.partition_no, j.id for share of j
            ) h;
            if held <> cardinality(first.ids) then
                raise exception 'a lane''s first job went' using errcode = 'OBJOB';
            end if;
            exit;
        exception when sqlstate 'OBJOB' then
            held := 0;
            if pass = passes then
                raise exception 'the lanes of jobs keep changing' using errcode = 'serialization_failure';
            end if;
        end;
    end loop;

    -- No partition has been truncated since the first look, which locked them all: so what the head names
    -- here is not, either. An array's elements are cheaper to take one by one than all at once.
    present := clock_timestamp();
    insert into observer.job (
        partition_no, id, queue, lane_id, action_hash, tenant_hash, priority, state, hash, attempts, scheduled_at,
            enqueued_at, log_id, dedup_key,
        event_id, observer, action, entity, key, tenant, history, event
    )
    select
        (select partition_no from observer.job_partition_state), nextval('observer.job_id'), of_queue, lane_ids[n],
            action_hashes[n], tenant_hashes[n],
        priorities[n],
        case
            when repeats[n] or held > 0 and (
                select true from observer.job f where f.lane_id = lane_ids[n] limit 1
            ) then 'b'
            when waits[n] > 0 then 's'
            else 'a'
        end::"char",
        hashes[n], attempts[n], present + make_interval(secs => waits[n]), present, log_ids[n], dedup_keys[n],
        event_ids[n], observers[n], actions[n], entities[n], keys[n], tenants[n], histories[n]::json,
        events[n]::json
    from generate_series(1, cardinality(dedup_keys)) n;
end
$$;

revoke all on function observer.job_queue_of, observer.job_promote, observer.job_enqueue from public;
