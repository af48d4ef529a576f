-- Workers, and what becomes of their jobs when they go.

-- Takes back all that a worker holds. Where it is lost, the first job of each lane has had one
-- more attempt, which the history says.
create or replace function observer.release_worker_jobs(of_queue integer, of_worker uuid, lost text,
    most_history integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    held record;
begin
    perform observer.lock('job-worker/' || (hashtext(of_worker::text) & 255));
    select array_agg(h.partition_no) as partitions, array_agg(h.lane_id) as lane_ids, array_agg(h.id) as ids into held
    from (
        select j.partition_no, j.lane_id, j.id from observer.job j
        where j.queue = of_queue and j.state = 'r' and j.worker = of_worker
        order by j.partition_no, j.id for update
    ) h;
    if held.ids is null then
        return 0;
    end if;
    delete from observer.job j using unnest(held.partitions, held.lane_ids, held.ids) h(partition_no, lane_id, id)
    where j.partition_no = h.partition_no and j.lane_id = h.lane_id and j.id = h.id and j.cancelled is not null;

    with freed as (
        delete from observer.job j using unnest(held.partitions, held.lane_ids, held.ids) h(partition_no, lane_id, id)
        where j.partition_no = h.partition_no and j.lane_id = h.lane_id and j.id = h.id
        returning j.*
    ), placed as (
        select f.*, not exists (
            select from observer.job e where e.lane_id = f.lane_id and e.id < f.id
        ) as first
        from freed f
    )
    insert into observer.job (
        partition_no, id, queue, lane_id, action_hash, tenant_hash, priority, state, hash, attempts, claim_generation,
            scheduled_at, enqueued_at, log_id,
        dedup_key, event_id, observer, action, entity, key, tenant, history, event
    )
    select
        (select partition_no from observer.job_partition_state), p.id, p.queue, p.lane_id, p.action_hash,
            p.tenant_hash, p.priority,
        case when p.first then 'a' else 'b' end::"char", p.hash,
        case when p.first and lost is not null then p.attempts + 1 else p.attempts end, p.claim_generation,
        clock_timestamp(), p.enqueued_at, p.log_id, p.dedup_key, p.event_id, p.observer, p.action, p.entity, p.key,
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
    perform observer.job_promote(of_queue, held.lane_ids);
    return cardinality(held.ids);
end
$$;

-- Makes a worker known. What it held before, under the same id, it knows nothing of any more.
create or replace function observer.worker_register(of_listener text, of_worker uuid, name text,
    lease double precision) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer;
begin
    insert into observer.job_queue (listener) values (of_listener) on conflict do nothing;
    of_queue := observer.job_queue_of(of_listener);
    insert into observer.job_worker (id, queue, name, expires_at)
    values (of_worker, of_queue, worker_register.name, clock_timestamp() + make_interval(secs => lease))
    on conflict (id) do update
    set queue = excluded.queue, name = excluded.name, expires_at = excluded.expires_at;
    perform observer.release_worker_jobs(of_queue, of_worker, null, 0);
end
$$;

create or replace function observer.worker_deregister(of_listener text, of_worker uuid) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from observer.job_worker w where w.id = of_worker;
    perform observer.release_worker_jobs(observer.job_queue_of(of_listener), of_worker, null, 0);
end
$$;

-- Takes back what workers hold that were not heard of for too long. Answers with how many claims.
create or replace function observer.reap_expired_workers(of_listener text, most_history integer) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    most_workers constant integer := 16;
    of_queue integer := observer.job_queue_of(of_listener);
    gone record;
    released bigint := 0;
begin
    if not observer.try_lock('job-reap/' || of_queue) then
        return 0;
    end if;
    for gone in
        select w.id, w.name from observer.job_worker w
        where w.queue = of_queue and w.expires_at <= clock_timestamp()
        order by w.expires_at limit most_workers for update skip locked
    loop
        released := released + observer.release_worker_jobs(
            of_queue, gone.id, format('the worker %s was not heard of for longer than its lease', gone.name),
            most_history
        );
        delete from observer.job_worker w where w.id = gone.id;
    end loop;
    return released;
end
$$;

revoke all on function
    observer.release_worker_jobs, observer.worker_register, observer.worker_deregister, observer.reap_expired_workers
from public;
