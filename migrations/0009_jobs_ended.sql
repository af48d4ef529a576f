-- Ending what workers hold, and the workers themselves.

-- Whether the worker holds all of these claims, and their rows are where they were when it took
-- them (ats). Claims come in the order of slots and ids, in which everybody waits for rows. Those
-- it holds stay its own until the transaction ends.
create function observer.job_held_as_taken(of_worker uuid, slots smallint[], ats tid[], ids bigint[], claims bigint[])
returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    last constant integer := cardinality(ids);
    start integer := 1;
    stop integer;
    found record;
begin
    -- One at a time for each worker: two that each take a part of one lane away would each see
    -- the other's part in the lane still, and neither make the next job ready.
    perform observer.lock('job-worker/' || (hashtext(of_worker::text) & 255));
    while start <= last loop
        -- Mostly all are in one slot.
        stop := last;
        while slots[stop] <> slots[start] loop
            stop := stop - 1;
        end loop;
        select array_agg(h.at) as ats, array_agg(h.id) as ids, array_agg(h.claim) as claims into found
        from (
            select j.ctid as at, j.id, j.claim from observer.job j
            where j.slot = slots[start] and j.ctid = any (ats[start:stop])
                and j.state::text = 'c' and j.worker = of_worker
            order by j.id for update
        ) h;
        if found.ids is distinct from ids[start:stop] or found.claims is distinct from claims[start:stop]
            or found.ats is distinct from ats[start:stop]
        then
            return false;
        end if;
        start := stop + 1;
    end loop;
    return true;
end
$$;

-- Which of these claims the worker still holds, each in its place. They stay its own until the
-- transaction ends.
create function observer.job_held(
    of_worker uuid, slots smallint[], ats tid[], lanes bigint[], ids bigint[], claims bigint[]
) returns boolean[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    held boolean[] := array_fill(false, array[cardinality(ids)]);
    place integer;
begin
    if observer.job_held_as_taken(of_worker, slots, ats, ids, claims) then
        return array_fill(true, array[cardinality(ids)]);
    end if;
    for place in
        select e.n
        from unnest(slots, lanes, ids, claims) with ordinality e(slot, lane, id, claim, n)
        join observer.job j on j.slot = e.slot and j.lane = e.lane and j.id = e.id
        where j.state::text = 'c' and j.worker = of_worker and j.claim = e.claim
        order by j.slot, j.id for update of j
    loop
        held[place] := true;
    end loop;
    return held;
end
$$;

-- Ends these claims as done, and lets the next of their lanes come, if the worker holds all of
-- them; otherwise does nothing, and answers so.
create function observer.job_finish_done(
    of_listener text, of_worker uuid, slots smallint[], ats tid[], lanes bigint[], ids bigint[], claims bigint[],
    keep boolean
) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
#variable_conflict use_column
declare
    last constant integer := cardinality(ids);
    start integer := 1;
    stop integer;
begin
    if not observer.job_held_as_taken(of_worker, slots, ats, ids, claims) then
        return false;
    end if;
    while start <= last loop
        stop := last;
        while slots[stop] <> slots[start] loop
            stop := stop - 1;
        end loop;
        if keep then
            insert into observer.job_done
            select j.id, j.queue, 'd', j.priority, j.attempts + 1, j.enqueued_at, clock_timestamp(), j.name,
                   j.event_id, j.observer, j.action, j.entity, j.key, j.tenant, j.history, j.event
            from observer.job j where j.slot = slots[start] and j.ctid = any (ats[start:stop]);
        end if;
        delete from observer.job j where j.slot = slots[start] and j.ctid = any (ats[start:stop]);
        start := stop + 1;
    end loop;
    perform observer.job_promote(observer.job_queue_of(of_listener), lanes);
    return true;
end
$$;

-- Ends those of the claims that the worker still holds, and lets the next of their lanes come.
-- Answers with which those are, each in its place.
create function observer.job_finish(
    of_listener text, of_worker uuid, slots smallint[], ats tid[], lanes bigint[], ids bigint[], claims bigint[],
    endings text[], waits double precision[], attempts_made integer[], histories text[], keep boolean
) returns boolean[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
#variable_conflict use_column
declare
    of_queue integer := observer.job_queue_of(of_listener);
    held boolean[] := observer.job_held(of_worker, slots, ats, lanes, ids, claims);
    held_lanes bigint[];
    back record;
begin
    select array_agg(e.lane) into held_lanes
    from unnest(held, lanes) e(held, lane) where e.held;

    if keep then
        insert into observer.job_done
        select j.id, j.queue, case e.ending when 'done' then 'd' else 'x' end::"char", j.priority,
               coalesce(e.attempts, j.attempts + 1), j.enqueued_at, clock_timestamp(), j.name, j.event_id, j.observer,
               j.action, j.entity, j.key, j.tenant, coalesce(e.history::json, j.history), j.event
        from unnest(held, slots, lanes, ids, endings, attempts_made, histories)
            e(held, slot, lane, id, ending, attempts, history)
        join observer.job j on j.slot = e.slot and j.lane = e.lane and j.id = e.id
        where e.held and e.ending in ('done', 'dead');
    end if;

    delete from observer.job j
    using unnest(held, slots, lanes, ids, endings) e(held, slot, lane, id, ending)
    where e.held and j.slot = e.slot and j.lane = e.lane and j.id = e.id
        and (e.ending in ('done', 'dead') or j.cancelled is not null);

    -- What is left of a lane goes back from the first on that is not over.
    select array_agg(b.lane) as lanes, array_agg(b.id) as ids into back
    from (
        select e.lane, min(e.id) as id
        from unnest(held, lanes, ids, endings) e(held, lane, id, ending)
        where e.held and e.ending in ('again', 'untouched') group by 1
    ) b;
    if back.ids is not null then
        with again as (
            delete from observer.job j
            using unnest(held, slots, lanes, ids, endings, waits, attempts_made, histories)
                e(held, slot, lane, id, ending, wait, attempts, history)
            where e.held and e.ending = 'again'
                and j.slot = e.slot and j.lane = e.lane and j.id = e.id
            returning j.*, e.wait, e.attempts as made, e.history as told
        )
        insert into observer.job (
            slot, id, queue, lane, act, turn, priority, state, hash, attempts, claim, due, enqueued_at, log_id,
            name, event_id, observer, action, entity, key, tenant, history, event
        )
        select
            (select slot from observer.job_head), a.id, a.queue, a.lane, a.act, a.turn, a.priority,
            case
                when exists (
                    select from observer.job f where f.lane = a.lane and f.id < a.id
                ) then 'b'
                when a.wait > 0 then 'd'
                else 'r'
            end::"char",
            a.hash, a.made, a.claim, clock_timestamp() + make_interval(secs => a.wait), a.enqueued_at, a.log_id,
            a.name, a.event_id, a.observer, a.action, a.entity, a.key, a.tenant, a.told::json, a.event
        from again a;

        delete from observer.job j using unnest(back.lanes, back.ids) b(lane, id)
        where j.lane = b.lane and j.id >= b.id and j.state::text = 'c' and j.worker = of_worker
            and j.cancelled is not null;
        update observer.job j
        set worker = null, state = case
            when exists (
                select from observer.job f where f.lane = j.lane and f.id < j.id
            ) then 'b' else 'r' end::"char"
        from unnest(back.lanes, back.ids) b(lane, id)
        where j.lane = b.lane and j.id >= b.id and j.state::text = 'c' and j.worker = of_worker;
    end if;

    perform observer.job_promote(of_queue, held_lanes);
    return held;
end
$$;

-- Takes back all that a worker holds. Where it is lost, the first job of each lane has had one
-- more attempt, which the history says.
create function observer.job_release(of_queue integer, of_worker uuid, lost text, most_history integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    held record;
begin
    perform observer.lock('job-worker/' || (hashtext(of_worker::text) & 255));
    select array_agg(h.slot) as slots, array_agg(h.lane) as lanes, array_agg(h.id) as ids into held
    from (
        select j.slot, j.lane, j.id from observer.job j
        where j.queue = of_queue and j.state = 'c' and j.worker = of_worker
        order by j.slot, j.id for update
    ) h;
    if held.ids is null then
        return 0;
    end if;
    delete from observer.job j using unnest(held.slots, held.lanes, held.ids) h(slot, lane, id)
    where j.slot = h.slot and j.lane = h.lane and j.id = h.id and j.cancelled is not null;

    with freed as (
        delete from observer.job j using unnest(held.slots, held.lanes, held.ids) h(slot, lane, id)
        where j.slot = h.slot and j.lane = h.lane and j.id = h.id
        returning j.*
    ), placed as (
        select f.*, not exists (
            select from observer.job e where e.lane = f.lane and e.id < f.id
        ) as first
        from freed f
    )
    insert into observer.job (
        slot, id, queue, lane, act, turn, priority, state, hash, attempts, claim, due, enqueued_at, log_id,
        name, event_id, observer, action, entity, key, tenant, history, event
    )
    select
        (select slot from observer.job_head), p.id, p.queue, p.lane, p.act, p.turn, p.priority,
        case when p.first then 'r' else 'b' end::"char", p.hash,
        case when p.first and lost is not null then p.attempts + 1 else p.attempts end, p.claim,
        clock_timestamp(), p.enqueued_at, p.log_id, p.name, p.event_id, p.observer, p.action, p.entity, p.key,
        p.tenant,
        case
            when p.first and lost is not null then (
                select json_agg(a.attempt order by a.place)
                from (
                    select h.attempt, h.place
                    from json_array_elements(p.history) with ordinality h(attempt, place)
                    where h.place > json_array_length(p.history) + 1 - most_history
                    union all
                    select json_build_object('at', clock_timestamp(), 'kind', 'lost', 'error', lost, 'status', null),
                           9223372036854775807
                ) a
            )
            else p.history
        end,
        p.event
    from placed p;
    perform observer.job_promote(of_queue, held.lanes);
    return cardinality(held.ids);
end
$$;

-- Makes a worker known. What it held before, under the same id, it knows nothing of any more.
create function observer.job_register(of_listener text, of_worker uuid, name text, lease double precision) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer;
begin
    insert into observer.job_queue (listener) values (of_listener) on conflict do nothing;
    of_queue := observer.job_queue_of(of_listener);
    insert into observer.job_worker (id, queue, name, expires_at)
    values (of_worker, of_queue, job_register.name, clock_timestamp() + make_interval(secs => lease))
    on conflict (id) do update
    set queue = excluded.queue, name = excluded.name, expires_at = excluded.expires_at;
    perform observer.job_release(of_queue, of_worker, null, 0);
end
$$;

create function observer.job_leave(of_listener text, of_worker uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from observer.job_worker w where w.id = of_worker;
    perform observer.job_release(observer.job_queue_of(of_listener), of_worker, null, 0);
end
$$;

-- Takes back what workers hold that were not heard of for too long. Answers with how many claims.
create function observer.job_expire(of_listener text, most_history integer) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    most_workers constant integer := 16;
    of_queue integer := observer.job_queue_of(of_listener);
    gone record;
    released bigint := 0;
begin
    if not observer.try_lock('job-expire/' || of_queue) then
        return 0;
    end if;
    for gone in
        select w.id, w.name from observer.job_worker w
        where w.queue = of_queue and w.expires_at <= clock_timestamp()
        order by w.expires_at limit most_workers for update skip locked
    loop
        released := released + observer.job_release(
            of_queue, gone.id, format('the worker %s was not heard of for longer than its lease', gone.name),
            most_history
        );
        delete from observer.job_worker w where w.id = gone.id;
    end loop;
    return released;
end
$$;
