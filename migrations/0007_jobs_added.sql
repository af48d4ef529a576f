-- Adding jobs, and letting the next ones of lanes come.

-- Makes the first of each lane ready where it is behind. Others may hold the one that is seen to
-- be first, and take it away: then the next one is looked for, once they are done.
create function observer.job_promote(of_queue integer, lanes bigint[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    passes constant integer := 1000;
    left_over bigint[] := lanes;
    first record;
    promoted integer;
begin
    -- Most are empty, which one look tells of all.
    if not exists (select from observer.job j where j.lane = any (lanes)) then
        return;
    end if;
    for pass in 1..passes loop
        select array_agg(f.slot) as slots, array_agg(f.lane) as lanes, array_agg(f.id) as ids into first
        from (select distinct l as lane from unnest(left_over) l) l
        cross join lateral (
            select j.slot, j.lane, j.id, j.state from observer.job j
            where j.lane = l.lane order by j.id limit 1
        ) f
        where f.state = 'b';
        if first.ids is null then
            return;
        end if;
        update observer.job j
        set state = case when j.due > clock_timestamp() then 'd' else 'r' end::"char",
            due = greatest(j.due, clock_timestamp())
        from unnest(first.slots, first.lanes, first.ids) f(slot, lane, id)
        where j.slot = f.slot and j.lane = f.lane and j.id = f.id and j.state = 'b';
        get diagnostics promoted = row_count;
        if promoted = cardinality(first.ids) then
            return;
        end if;
        left_over := first.lanes;
    end loop;
    raise exception 'the lanes of jobs keep changing' using errcode = 'serialization_failure';
end
$$;

-- Adds jobs in the order given, each at the end of its lane. Only one at a time may add to a lane.
--
-- A lane's first is held until the transaction ends, so it cannot go before these are seen. Where
-- it went just now, all that is held is let go, since the next one may lie anywhere in the order
-- in which everybody waits for rows.
create function observer.job_enqueue(
    of_listener text, names text[], lanes bigint[], acts bigint[], turns integer[], priorities smallint[],
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
        exit when not exists (select from observer.job j where j.lane = any (lanes));
        select array_agg(f.slot) as slots, array_agg(f.lane) as lanes, array_agg(f.id) as ids into first
        from (select distinct l as lane from unnest(lanes) l) l
        cross join lateral (
            select j.slot, j.lane, j.id from observer.job j
            where j.lane = l.lane order by j.id limit 1
        ) f;
        exit when first.ids is null;
        begin
            select count(*) into held
            from (
                select
                from unnest(first.slots, first.lanes, first.ids) f(slot, lane, id)
                join observer.job j on j.slot = f.slot and j.lane = f.lane and j.id = f.id
                order by j.slot, j.id for share of j
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

    -- No slot has been truncated since the first look, which locked them all: so what the head names
    -- here is not, either. An array's elements are cheaper to take one by one than all at once.
    present := clock_timestamp();
    insert into observer.job (
        slot, id, queue, lane, act, turn, priority, state, hash, attempts, due, enqueued_at, log_id, name,
        event_id, observer, action, entity, key, tenant, history, event
    )
    select
        (select slot from observer.job_head), nextval('observer.job_id'), of_queue, lanes[n], acts[n], turns[n],
        priorities[n],
        case
            when repeats[n] or held > 0 and (
                select true from observer.job f where f.lane = lanes[n] limit 1
            ) then 'b'
            when waits[n] > 0 then 'd'
            else 'r'
        end::"char",
        hashes[n], attempts[n], present + make_interval(secs => waits[n]), present, log_ids[n], names[n],
        event_ids[n], observers[n], actions[n], entities[n], keys[n], tenants[n], histories[n]::json,
        events[n]::json
    from generate_series(1, cardinality(names)) n;
end
$$;
