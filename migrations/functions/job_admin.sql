-- What people do to jobs.

-- Makes scheduled jobs of a selection available. Answers with how many, at most so many at once.
create or replace function observer.job_run_now(
    of_listener text, dedup_keys text[], of_observer text, of_action text, states text[],
    of_tenant text, most bigint
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer := observer.job_queue_of(of_listener);
    made_available bigint;
begin
    update observer.job j
    set state = 'a', scheduled_at = clock_timestamp()
    from (
        select d.partition_no, d.lane_id, d.id from observer.job d
        where d.queue = of_queue and d.state = 's' and (dedup_keys is null or d.dedup_key = any (dedup_keys))
            and (of_observer is null or d.observer = of_observer) and (of_action is null or d.action = of_action)
            and (states is null or d.state::text = any (states)) and (of_tenant is null or d.tenant = of_tenant)
        limit most for update skip locked
    ) d
    where j.partition_no = d.partition_no and j.lane_id = d.lane_id and j.id = d.id;
    get diagnostics made_available = row_count;
    return made_available;
end
$$;

-- Drops jobs of a selection that nobody works on, and marks those under way. Answers with how
-- many, at most so many at once. One at a time, and waiting for no row that others hold: so it
-- never holds one for which somebody waits for whom it waits.
create or replace function observer.job_cancel(
    of_listener text, dedup_keys text[], of_observer text, of_action text, states text[],
    of_tenant text, most bigint
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer := observer.job_queue_of(of_listener);
    lane_ids bigint[];
    marked bigint;
begin
    perform observer.lock('job-cancel/' || of_queue);
    with gone as (
        delete from observer.job j using (
            select p.partition_no, p.lane_id, p.id from observer.job p
            where p.queue = of_queue and p.state <> 'r' and (dedup_keys is null or p.dedup_key = any (dedup_keys))
                and (of_observer is null or p.observer = of_observer) and (of_action is null or p.action = of_action)
                and (states is null or p.state::text = any (states)) and (of_tenant is null or p.tenant = of_tenant)
            limit most for update skip locked
        ) p
        where j.partition_no = p.partition_no and j.lane_id = p.lane_id and j.id = p.id and j.state <> 'r'
        returning j.lane_id
    )
    select array_agg(g.lane_id) into lane_ids from gone g;
    update observer.job j
    set cancelled = j.ctid
    from (
        select p.partition_no, p.lane_id, p.id from observer.job p
        where p.queue = of_queue and p.state = 'r' and p.cancelled is null and (dedup_keys is null
            or p.dedup_key = any (dedup_keys))
            and (of_observer is null or p.observer = of_observer) and (of_action is null or p.action = of_action)
            and (states is null or p.state::text = any (states)) and (of_tenant is null or p.tenant = of_tenant)
        limit most for update skip locked
    ) p
    where j.partition_no = p.partition_no and j.lane_id = p.lane_id and j.id = p.id;
    get diagnostics marked = row_count;
    perform observer.job_promote(of_queue, lane_ids);
    return marked + coalesce(cardinality(lane_ids), 0);
end
$$;

revoke all on function observer.job_run_now, observer.job_cancel from public;
