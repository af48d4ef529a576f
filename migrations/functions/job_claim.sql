-- Giving jobs to workers.

-- Takes the first jobs of some lanes, with some of those behind them: by priority, and among one
-- priority from each action and tenant in rotation, beginning after the one given. Stops with the job whose
-- event reaches the most bytes, which is claimed too.
--
-- First jobs have the number of the batch with which they were taken, and belong in the order of
-- batch, scheduled_at and id. Those behind them have none, and belong behind their lane's first by id.
create or replace function observer.job_claim(
    of_listener text, of_worker uuid, runs integer, most_run integer, known bigint[], limits integer[],
    fleet integer, after_action_hash bigint, after_tenant_hash integer, most_bytes bigint
) returns table (
    batch integer, partition_no smallint, at text, id bigint, lane_id bigint, action_hash bigint,
    tenant_hash integer, priority smallint, hash integer, attempts integer, claim_generation bigint,
    scheduled_at timestamptz, enqueued_at timestamptz, late double precision, log_id bigint, dedup_key text,
    event_id text, observer text, action text, entity text, key text, tenant text, history text, event text
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
#variable_conflict use_column
declare
    most_pairs constant integer := 64;
    most_steps constant integer := 512;
    rounds constant integer := 4;
    most_due constant integer := 1000;
    -- A variable, since an index is of no use to what may differ from row to row.
    present timestamptz := clock_timestamp();
    of_queue integer;
    filled smallint[];
    -- Those that hold any job, the others null: one by one, so that others are left out of a plan.
    partition_1 smallint;
    partition_2 smallint;
    partition_3 smallint;
    partition_4 smallint;
    open_runs integer := runs;
    open_bytes bigint := most_bytes;
    kept integer;
    room integer[];
    place integer;
    batches integer := 0;
    held_lane_ids bigint[] := '{}';
    held_ids bigint[] := '{}';
    of_partition smallint;
    updated integer;
    written integer;
    seen record;
    last record;
    of_priority smallint;
    taken record;
    at_action_hash bigint;
    at_tenant_hash integer;
    wrapped boolean;
    pair_actions bigint[];
    pair_tenants integer[];
    left_actions bigint[];
    left_tenants integer[];
    share integer;
    take integer;
begin
    select q.id, h.partitions_in_use into of_queue, filled
    from observer.job_queue q cross join observer.job_partition_state h where q.listener = of_listener;
    if not found or runs < 1 or most_bytes < 1 then
        return;
    end if;
    partition_1 := filled[1];
    partition_2 := filled[2];
    partition_3 := filled[3];
    partition_4 := filled[4];

    select d.scheduled_at is not null as delayed, r.priority, r.action_hash, r.tenant_hash into seen
    from (select) one
    left join lateral (
        select j.scheduled_at from observer.job j
        where j.partition_no in (partition_1, partition_2, partition_3, partition_4) and j.queue = of_queue
            and j.state = 's'
            and j.scheduled_at <= present
        order by j.scheduled_at limit 1
    ) d on true
    left join lateral (
        select j.priority, j.action_hash, j.tenant_hash from observer.job j
        where j.partition_no in (partition_1, partition_2, partition_3, partition_4) and j.queue = of_queue
            and j.state = 'a'
        order by j.priority, j.action_hash, j.tenant_hash limit 1
    ) r on true;
    if not seen.delayed and seen.priority is null then
        return;
    end if;

    -- Held so that it is not taken for gone before these claims are seen to be its own.
    perform from observer.job_worker w
    where w.id = of_worker and w.queue = of_queue and w.expires_at > clock_timestamp() for key share;
    if not found then
        return;
    end if;

    if seen.delayed then
        update observer.job j set state = 'a'
        from (
            select d.partition_no, d.lane_id, d.id from observer.job d
            where d.partition_no in (partition_1, partition_2, partition_3, partition_4) and d.queue = of_queue
                and d.state = 's'
                and d.scheduled_at <= present
            order by d.scheduled_at limit most_due for update skip locked
        ) d
        where j.partition_no = d.partition_no and j.lane_id = d.lane_id and j.id = d.id;
        select j.priority, j.action_hash, j.tenant_hash into seen from observer.job j
        where j.partition_no in (partition_1, partition_2, partition_3, partition_4) and j.queue = of_queue
            and j.state = 'a'
        order by j.priority, j.action_hash, j.tenant_hash limit 1;
    end if;

    room := array_fill(null::integer, array[cardinality(known)]);
    if fleet is not null or exists (select from unnest(limits) l where l is not null) then
        perform observer.lock('job-claim/' || of_queue);
        -- Of a run one job is under way at a time.
        room := array(
            select case when k.most is not null then greatest(k.most - (
                select count(distinct c.lane_id)::integer from observer.job c
                where c.queue = of_queue and c.state = 'r' and c.action_hash = k.action_hash
            ), 0) end
            from unnest(known, limits) with ordinality k(action_hash, most, n) order by k.n
        );
        if fleet is not null then
            open_runs := least(runs, fleet - (
                select count(distinct c.lane_id)::integer from observer.job c where c.queue = of_queue and c.state = 'r'
            ));
        end if;
    end if;

    while seen.priority is not null and open_runs > 0 and open_bytes > 0 loop
        of_priority := seen.priority;
        -- Which actions and tenants have any: mostly there is but one.
        pair_actions := '{}';
        pair_tenants := '{}';
        select j.action_hash, j.tenant_hash into last from observer.job j
        where j.partition_no in (partition_1, partition_2, partition_3, partition_4) and j.queue = of_queue
            and j.state = 'a'
            and j.priority = of_priority
        order by j.action_hash desc, j.tenant_hash desc limit 1;
        at_action_hash := after_action_hash;
        at_tenant_hash := after_tenant_hash;
        wrapped := false;
        if (seen.action_hash, seen.tenant_hash) = (last.action_hash, last.tenant_hash) then
            at_action_hash := null;
            place := array_position(known, seen.action_hash);
            if place is not null and room[place] is distinct from 0 then
                pair_actions := array[seen.action_hash];
                pair_tenants := array[seen.tenant_hash];
            end if;
        end if;
        for step in 1..most_steps loop
            exit when at_action_hash is null or cardinality(pair_actions) >= least(most_pairs, open_runs);
            select j.action_hash, j.tenant_hash into seen from observer.job j
            where j.partition_no in (partition_1, partition_2, partition_3, partition_4) and j.queue = of_queue
                and j.state = 'a'
                and j.priority = of_priority and (j.action_hash, j.tenant_hash) > (at_action_hash, at_tenant_hash)
            order by j.action_hash, j.tenant_hash limit 1;
            if not found then
                exit when wrapped;
                wrapped := true;
                at_action_hash := -9223372036854775808;
                at_tenant_hash := -2147483648;
                continue;
            end if;
            exit when wrapped and (seen.action_hash, seen.tenant_hash) > (after_action_hash, after_tenant_hash);
            at_action_hash := seen.action_hash;
            place := array_position(known, seen.action_hash);
            if place is null or room[place] = 0 then
                at_tenant_hash := 2147483647;
                continue;
            end if;
            at_tenant_hash := seen.tenant_hash;
            pair_actions := pair_actions || seen.action_hash;
            pair_tenants := pair_tenants || seen.tenant_hash;
        end loop;

        for round in 1..rounds loop
            exit when open_runs < 1 or open_bytes < 1 or cardinality(pair_actions) = 0;
            share := ceil(open_runs::double precision / cardinality(pair_actions));
            left_actions := '{}';
            left_tenants := '{}';
            for pair_n in 1..cardinality(pair_actions) loop
                place := array_position(known, pair_actions[pair_n]);
                take := least(share, open_runs, room[place]);
                continue when take < 1 or open_bytes < 1;
                select array_agg(c.partition_no) as partitions, array_agg(c.at) as ats,
                    array_agg(c.lane_id) as lane_ids,
                       array_agg(c.id) as ids, array_agg(c.bytes) as sizes, sum(c.bytes) as bytes,
                       count(*)::integer as n
                into taken
                from (
                    select j.partition_no, j.ctid as at, j.lane_id, j.id, octet_length(j.event::text) as bytes
                    from observer.job j
                    where j.partition_no in (partition_1, partition_2, partition_3, partition_4)
                        and j.queue = of_queue and j.state = 'a'
                        and j.priority = of_priority and j.action_hash = pair_actions[pair_n]
                            and j.tenant_hash = pair_tenants[pair_n]
                    order by j.scheduled_at limit take for update skip locked
                ) c;
                continue when taken.n = 0;
                if taken.bytes > open_bytes then
                    taken.bytes := 0;
                    kept := 0;
                    while kept < taken.n and taken.bytes < open_bytes loop
                        kept := kept + 1;
                        taken.bytes := taken.bytes + taken.sizes[kept];
                    end loop;
                    taken.partitions := taken.partitions[:kept];
                    taken.ats := taken.ats[:kept];
                    taken.lane_ids := taken.lane_ids[:kept];
                    taken.ids := taken.ids[:kept];
                    taken.n := kept;
                end if;
                open_bytes := open_bytes - taken.bytes;
                batches := batches + 1;
                written := 0;
                for of_partition in select distinct s from unnest(taken.partitions) s loop
                    return query
                    update observer.job j set state = 'r', worker = of_worker, claim_generation = j.claim_generation + 1
                    where j.partition_no = of_partition and j.ctid = any (
                        array(select t.at from unnest(taken.partitions, taken.ats) t(partition_no, at)
                            where t.partition_no = of_partition)
                    )
                    returning
                        batches, j.partition_no, j.ctid::text, j.id, j.lane_id, j.action_hash, j.tenant_hash,
                            j.priority, j.hash, j.attempts,
                        j.claim_generation, j.scheduled_at, j.enqueued_at,
                        extract(epoch from present - j.scheduled_at)::double precision, j.log_id, j.dedup_key,
                            j.event_id,
                        j.observer, j.action, j.entity, j.key, j.tenant, j.history::text, j.event::text;
                    get diagnostics updated = row_count;
                    written := written + updated;
                end loop;
                if written <> taken.n then
                    raise exception 'a job that was locked is not where it was'
                        using errcode = 'serialization_failure';
                end if;
                held_lane_ids := held_lane_ids || taken.lane_ids;
                held_ids := held_ids || taken.ids;
                open_runs := open_runs - taken.n;
                if room[place] is not null then
                    room[place] := room[place] - taken.n;
                end if;
                if taken.n = take then
                    left_actions := left_actions || pair_actions[pair_n];
                    left_tenants := left_tenants || pair_tenants[pair_n];
                end if;
            end loop;
            pair_actions := left_actions;
            pair_tenants := left_tenants;
        end loop;
        exit when open_runs < 1 or open_bytes < 1;
        select j.priority, j.action_hash, j.tenant_hash into seen from observer.job j
        where j.partition_no in (partition_1, partition_2, partition_3, partition_4) and j.queue = of_queue
            and j.state = 'a'
            and j.priority > of_priority
        order by j.priority, j.action_hash, j.tenant_hash limit 1;
    end loop;

    -- Most have none behind them, which one look tells of all.
    if open_bytes < 1
        or not exists (select from observer.job j where j.lane_id = any (held_lane_ids) and j.state = 'b')
    then
        return;
    end if;
    -- As far as nobody holds one of them: none may be passed over.
    return query
    with follower as materialized (
        select h.lane_id, f.partition_no, f.id, f.place
        from unnest(held_lane_ids, held_ids) h(lane_id, id)
        cross join lateral (
            select j.partition_no, j.id, row_number() over (order by j.id) as place
            from (
                select b.partition_no, b.id from observer.job b
                where b.lane_id = h.lane_id and b.id > h.id
                order by b.id limit most_run - 1
            ) j
        ) f
    ), locked as materialized (
        select j.partition_no, j.lane_id, j.id, f.place, octet_length(j.event::text) as bytes
        from follower f
        join observer.job j on j.partition_no = f.partition_no and j.lane_id = f.lane_id and j.id = f.id
        where j.state = 'b' and j.scheduled_at <= clock_timestamp()
        order by j.id for update of j skip locked
    ), chosen as (
        select * from (
            select l.*, row_number() over (partition by l.lane_id order by l.place) as rank,
                sum(l.bytes) over (order by l.place, l.lane_id) - l.bytes as bytes_before
            from locked l
        ) l where l.place = l.rank and l.bytes_before < open_bytes
    )
    update observer.job j set state = 'r', worker = of_worker, claim_generation = j.claim_generation + 1
    from chosen c
    where j.partition_no = c.partition_no and j.lane_id = c.lane_id and j.id = c.id
    returning
        null::integer, j.partition_no, j.ctid::text, j.id, j.lane_id, j.action_hash, j.tenant_hash, j.priority, j.hash,
            j.attempts, j.claim_generation,
        j.scheduled_at, j.enqueued_at, extract(epoch from present - j.scheduled_at)::double precision, j.log_id,
            j.dedup_key, j.event_id,
        j.observer, j.action, j.entity, j.key, j.tenant, j.history::text, j.event::text;
end
$$;

revoke all on function observer.job_claim from public;
