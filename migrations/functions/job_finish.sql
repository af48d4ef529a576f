-- Finishing what workers hold.

-- Whether the worker holds all of these claims, and their rows are where they were when it took
-- them (ats). Claims come in the order of partitions and ids, in which everybody waits for rows. Those
-- it holds stay its own until the transaction ends.
create or replace function observer.verify_claims_by_ctid(of_worker uuid, partitions smallint[], ats tid[],
    ids bigint[], claim_generations bigint[])
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
    -- the other's part in the lane still, and neither make the next job available.
    perform observer.lock('job-worker/' || (hashtext(of_worker::text) & 255));
    while start <= last loop
        -- Mostly all are in one partition.
        stop := last;
        while partitions[stop] <> partitions[start] loop
            stop := stop - 1;
        end loop;
        select array_agg(h.at) as ats, array_agg(h.id) as ids, array_agg(h.claim_generation) as claim_generations
            into found
        from (
            select j.ctid as at, j.id, j.claim_generation from observer.job j
            where j.partition_no = partitions[start] and j.ctid = any (ats[start:stop])
                and j.state::text = 'r' and j.worker = of_worker
            order by j.id for update
        ) h;
        if found.ids is distinct from ids[start:stop] or found.claim_generations is distinct
            from claim_generations[start:stop]
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
create or replace function observer.verify_claims(
    of_worker uuid, partitions smallint[], ats tid[], lane_ids bigint[], ids bigint[], claim_generations bigint[]
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
    if observer.verify_claims_by_ctid(of_worker, partitions, ats, ids, claim_generations) then
        return array_fill(true, array[cardinality(ids)]);
    end if;
    for place in
        select e.n
        from unnest(partitions, lane_ids, ids, claim_generations) with ordinality e(partition_no, lane_id, id,
            claim_generation, n)
        join observer.job j on j.partition_no = e.partition_no and j.lane_id = e.lane_id and j.id = e.id
        where j.state::text = 'r' and j.worker = of_worker and j.claim_generation = e.claim_generation
        order by j.partition_no, j.id for update of j
    loop
        held[place] := true;
    end loop;
    return held;
end
$$;

-- Ends these claims as done, and lets the next of their lanes come, if the worker holds all of
-- them; otherwise does nothing, and answers so.
create or replace function observer.job_finish_completed(
    of_listener text, of_worker uuid, partitions smallint[], ats tid[], lane_ids bigint[], ids bigint[],
        claim_generations bigint[],
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
    if not observer.verify_claims_by_ctid(of_worker, partitions, ats, ids, claim_generations) then
        return false;
    end if;
    while start <= last loop
        stop := last;
        while partitions[stop] <> partitions[start] loop
            stop := stop - 1;
        end loop;
        if keep then
            insert into observer.finished_job
            select j.id, j.queue, 'c', j.priority, j.attempts + 1, j.enqueued_at, clock_timestamp(), j.dedup_key,
                   j.event_id, j.observer, j.action, j.entity, j.key, j.tenant, j.history, j.event
            from observer.job j where j.partition_no = partitions[start] and j.ctid = any (ats[start:stop]);
        end if;
        delete from observer.job j where j.partition_no = partitions[start] and j.ctid = any (ats[start:stop]);
        start := stop + 1;
    end loop;
    perform observer.job_promote(observer.job_queue_of(of_listener), lane_ids);
    return true;
end
$$;

-- Ends those of the claims that the worker still holds, and lets the next of their lanes come.
-- Answers with which those are, each in its place.
create or replace function observer.job_finish(
    of_listener text, of_worker uuid, partitions smallint[], ats tid[], lane_ids bigint[], ids bigint[],
        claim_generations bigint[],
    outcomes text[], waits double precision[], attempts_made integer[], histories text[], keep boolean
) returns boolean[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
#variable_conflict use_column
declare
    of_queue integer := observer.job_queue_of(of_listener);
    held boolean[] := observer.verify_claims(of_worker, partitions, ats, lane_ids, ids, claim_generations);
    held_lane_ids bigint[];
    back record;
begin
    select array_agg(e.lane_id) into held_lane_ids
    from unnest(held, lane_ids) e(held, lane_id) where e.held;

    if keep then
        insert into observer.finished_job
        select j.id, j.queue, case e.outcome when 'completed' then 'c' else 'd' end::"char", j.priority,
               coalesce(e.attempts, j.attempts + 1), j.enqueued_at, clock_timestamp(), j.dedup_key, j.event_id,
                   j.observer,
               j.action, j.entity, j.key, j.tenant, coalesce(e.history::json, j.history), j.event
        from unnest(held, partitions, lane_ids, ids, outcomes, attempts_made, histories)
            e(held, partition_no, lane_id, id, outcome, attempts, history)
        join observer.job j on j.partition_no = e.partition_no and j.lane_id = e.lane_id and j.id = e.id
        where e.held and e.outcome in ('completed', 'discarded');
    end if;

    delete from observer.job j
    using unnest(held, partitions, lane_ids, ids, outcomes) e(held, partition_no, lane_id, id, outcome)
    where e.held and j.partition_no = e.partition_no and j.lane_id = e.lane_id and j.id = e.id
        and (e.outcome in ('completed', 'discarded') or j.cancelled is not null);

    -- What is left of a lane goes back from the first on that is not over.
    select array_agg(b.lane_id) as lane_ids, array_agg(b.id) as ids into back
    from (
        select e.lane_id, min(e.id) as id
        from unnest(held, lane_ids, ids, outcomes) e(held, lane_id, id, outcome)
        where e.held and e.outcome in ('retry', 'released') group by 1
    ) b;
    if back.ids is not null then
        with retried as (
            delete from observer.job j
            using unnest(held, partitions, lane_ids, ids, outcomes, waits, attempts_made, histories)
                e(held, partition_no, lane_id, id, outcome, wait, attempts, history)
            where e.held and e.outcome = 'retry'
                and j.partition_no = e.partition_no and j.lane_id = e.lane_id and j.id = e.id
            returning j.*, e.wait, e.attempts as made, e.history as told
        )
        insert into observer.job (
            partition_no, id, queue, lane_id, action_hash, tenant_hash, priority, state, hash, attempts,
                claim_generation, scheduled_at, enqueued_at, log_id,
            dedup_key, event_id, observer, action, entity, key, tenant, history, event
        )
        select
            (select partition_no from observer.job_partition_state), a.id, a.queue, a.lane_id, a.action_hash,
                a.tenant_hash, a.priority,
            case
                when exists (
                    select from observer.job f where f.lane_id = a.lane_id and f.id < a.id
                ) then 'b'
                when a.wait > 0 then 's'
                else 'a'
            end::"char",
            a.hash, a.made, a.claim_generation, clock_timestamp() + make_interval(secs => a.wait), a.enqueued_at,
                a.log_id,
            a.dedup_key, a.event_id, a.observer, a.action, a.entity, a.key, a.tenant, a.told::json, a.event
        from retried a;

        delete from observer.job j using unnest(back.lane_ids, back.ids) b(lane_id, id)
        where j.lane_id = b.lane_id and j.id >= b.id and j.state::text = 'r' and j.worker = of_worker
            and j.cancelled is not null;
        update observer.job j
        set worker = null, state = case
            when exists (
                select from observer.job f where f.lane_id = j.lane_id and f.id < j.id
            ) then 'b' else 'a' end::"char"
        from unnest(back.lane_ids, back.ids) b(lane_id, id)
        where j.lane_id = b.lane_id and j.id >= b.id and j.state::text = 'r' and j.worker = of_worker;
    end if;

    perform observer.job_promote(of_queue, held_lane_ids);
    return held;
end
$$;

revoke all on function
    observer.verify_claims, observer.verify_claims_by_ctid, observer.job_finish_completed, observer.job_finish
from public;
