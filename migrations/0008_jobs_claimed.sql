-- Giving jobs to workers.

-- Takes the first jobs of some lanes, with some of those behind them: by priority, and among one
-- priority from each act and turn in rotation, beginning after the one given. Stops with the job whose
-- event reaches the most bytes, which is claimed too.
--
-- First jobs have the number of the batch with which they were taken, and belong in the order of
-- batch, due and id. Those behind them have none, and belong behind their lane's first by id.
create function observer.job_claim(
    of_listener text, of_worker uuid, runs integer, most_run integer, known bigint[], limits integer[],
    fleet integer, after_act bigint, after_turn integer, most_bytes bigint
) returns table (
    batch integer, slot smallint, at text, id bigint, lane bigint, act bigint, turn integer, priority smallint,
    hash integer, attempts integer, claim bigint, due timestamptz, enqueued_at timestamptz, late double precision,
    log_id bigint, name text, event_id text, observer text, action text, entity text, key text, tenant text,
    history text, event text
)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
#variable_conflict use_column
declare
    most_turns constant integer := 64;
    most_steps constant integer := 512;
    rounds constant integer := 4;
    most_due constant integer := 1000;
    -- A variable, since an index is of no use to what may differ from row to row.
    present timestamptz := clock_timestamp();
    of_queue integer;
    filled smallint[];
    -- Those that hold any job, the others null: one by one, so that others are left out of a plan.
    slot_1 smallint;
    slot_2 smallint;
    slot_3 smallint;
    slot_4 smallint;
    open_runs integer := runs;
    open_bytes bigint := most_bytes;
    kept integer;
    room integer[];
    place integer;
    batches integer := 0;
    held_lanes bigint[] := '{}';
    held_ids bigint[] := '{}';
    of_slot smallint;
    updated integer;
    written integer;
    seen record;
    last record;
    of_priority smallint;
    taken record;
    at_act bigint;
    at_turn integer;
    wrapped boolean;
    turn_acts bigint[];
    turn_turns integer[];
    still_acts bigint[];
    still_turns integer[];
    share integer;
    take integer;
begin
    select q.id, h.slots into of_queue, filled
    from observer.job_queue q cross join observer.job_head h where q.listener = of_listener;
    if not found or runs < 1 or most_bytes < 1 then
        return;
    end if;
    slot_1 := filled[1];
    slot_2 := filled[2];
    slot_3 := filled[3];
    slot_4 := filled[4];

    select d.due is not null as delayed, r.priority, r.act, r.turn into seen
    from (select) one
    left join lateral (
        select j.due from observer.job j
        where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'd'
            and j.due <= present
        order by j.due limit 1
    ) d on true
    left join lateral (
        select j.priority, j.act, j.turn from observer.job j
        where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'r'
        order by j.priority, j.act, j.turn limit 1
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
        update observer.job j set state = 'r'
        from (
            select d.slot, d.lane, d.id from observer.job d
            where d.slot in (slot_1, slot_2, slot_3, slot_4) and d.queue = of_queue and d.state = 'd'
                and d.due <= present
            order by d.due limit most_due for update skip locked
        ) d
        where j.slot = d.slot and j.lane = d.lane and j.id = d.id;
        select j.priority, j.act, j.turn into seen from observer.job j
        where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'r'
        order by j.priority, j.act, j.turn limit 1;
    end if;

    room := array_fill(null::integer, array[cardinality(known)]);
    if fleet is not null or exists (select from unnest(limits) l where l is not null) then
        perform observer.lock('job-claim/' || of_queue);
        -- Of a run one job is under way at a time.
        room := array(
            select case when k.most is not null then greatest(k.most - (
                select count(distinct c.lane)::integer from observer.job c
                where c.queue = of_queue and c.state = 'c' and c.act = k.act
            ), 0) end
            from unnest(known, limits) with ordinality k(act, most, n) order by k.n
        );
        if fleet is not null then
            open_runs := least(runs, fleet - (
                select count(distinct c.lane)::integer from observer.job c where c.queue = of_queue and c.state = 'c'
            ));
        end if;
    end if;

    while seen.priority is not null and open_runs > 0 and open_bytes > 0 loop
        of_priority := seen.priority;
        -- Which acts and turns have any: mostly there is but one.
        turn_acts := '{}';
        turn_turns := '{}';
        select j.act, j.turn into last from observer.job j
        where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'r'
            and j.priority = of_priority
        order by j.act desc, j.turn desc limit 1;
        at_act := after_act;
        at_turn := after_turn;
        wrapped := false;
        if (seen.act, seen.turn) = (last.act, last.turn) then
            at_act := null;
            place := array_position(known, seen.act);
            if place is not null and room[place] is distinct from 0 then
                turn_acts := array[seen.act];
                turn_turns := array[seen.turn];
            end if;
        end if;
        for step in 1..most_steps loop
            exit when at_act is null or cardinality(turn_acts) >= least(most_turns, open_runs);
            select j.act, j.turn into seen from observer.job j
            where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'r'
                and j.priority = of_priority and (j.act, j.turn) > (at_act, at_turn)
            order by j.act, j.turn limit 1;
            if not found then
                exit when wrapped;
                wrapped := true;
                at_act := -9223372036854775808;
                at_turn := -2147483648;
                continue;
            end if;
            exit when wrapped and (seen.act, seen.turn) > (after_act, after_turn);
            at_act := seen.act;
            place := array_position(known, seen.act);
            if place is null or room[place] = 0 then
                at_turn := 2147483647;
                continue;
            end if;
            at_turn := seen.turn;
            turn_acts := turn_acts || seen.act;
            turn_turns := turn_turns || seen.turn;
        end loop;

        for round in 1..rounds loop
            exit when open_runs < 1 or open_bytes < 1 or cardinality(turn_acts) = 0;
            share := ceil(open_runs::double precision / cardinality(turn_acts));
            still_acts := '{}';
            still_turns := '{}';
            for turn_n in 1..cardinality(turn_acts) loop
                place := array_position(known, turn_acts[turn_n]);
                take := least(share, open_runs, room[place]);
                continue when take < 1 or open_bytes < 1;
                select array_agg(c.slot) as slots, array_agg(c.at) as ats, array_agg(c.lane) as lanes,
                       array_agg(c.id) as ids, array_agg(c.bytes) as sizes, sum(c.bytes) as bytes,
                       count(*)::integer as n
                into taken
                from (
                    select j.slot, j.ctid as at, j.lane, j.id, octet_length(j.event::text) as bytes
                    from observer.job j
                    where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'r'
                        and j.priority = of_priority and j.act = turn_acts[turn_n] and j.turn = turn_turns[turn_n]
                    order by j.due limit take for update skip locked
                ) c;
                continue when taken.n = 0;
                if taken.bytes > open_bytes then
                    taken.bytes := 0;
                    kept := 0;
                    while kept < taken.n and taken.bytes < open_bytes loop
                        kept := kept + 1;
                        taken.bytes := taken.bytes + taken.sizes[kept];
                    end loop;
                    taken.slots := taken.slots[:kept];
                    taken.ats := taken.ats[:kept];
                    taken.lanes := taken.lanes[:kept];
                    taken.ids := taken.ids[:kept];
                    taken.n := kept;
                end if;
                open_bytes := open_bytes - taken.bytes;
                batches := batches + 1;
                written := 0;
                for of_slot in select distinct s from unnest(taken.slots) s loop
                    return query
                    update observer.job j set state = 'c', worker = of_worker, claim = j.claim + 1
                    where j.slot = of_slot and j.ctid = any (
                        array(select t.at from unnest(taken.slots, taken.ats) t(slot, at) where t.slot = of_slot)
                    )
                    returning
                        batches, j.slot, j.ctid::text, j.id, j.lane, j.act, j.turn, j.priority, j.hash, j.attempts,
                        j.claim, j.due, j.enqueued_at,
                        extract(epoch from present - j.due)::double precision, j.log_id, j.name, j.event_id,
                        j.observer, j.action, j.entity, j.key, j.tenant, j.history::text, j.event::text;
                    get diagnostics updated = row_count;
                    written := written + updated;
                end loop;
                if written <> taken.n then
                    raise exception 'a job that was locked is not where it was'
                        using errcode = 'serialization_failure';
                end if;
                held_lanes := held_lanes || taken.lanes;
                held_ids := held_ids || taken.ids;
                open_runs := open_runs - taken.n;
                if room[place] is not null then
                    room[place] := room[place] - taken.n;
                end if;
                if taken.n = take then
                    still_acts := still_acts || turn_acts[turn_n];
                    still_turns := still_turns || turn_turns[turn_n];
                end if;
            end loop;
            turn_acts := still_acts;
            turn_turns := still_turns;
        end loop;
        exit when open_runs < 1 or open_bytes < 1;
        select j.priority, j.act, j.turn into seen from observer.job j
        where j.slot in (slot_1, slot_2, slot_3, slot_4) and j.queue = of_queue and j.state = 'r'
            and j.priority > of_priority
        order by j.priority, j.act, j.turn limit 1;
    end loop;

    -- Most have none behind them, which one look tells of all.
    if open_bytes < 1
        or not exists (select from observer.job j where j.lane = any (held_lanes) and j.state = 'b')
    then
        return;
    end if;
    -- As far as nobody holds one of them: none may be passed over.
    return query
    with follower as materialized (
        select h.lane, f.slot, f.id, f.place
        from unnest(held_lanes, held_ids) h(lane, id)
        cross join lateral (
            select j.slot, j.id, row_number() over (order by j.id) as place
            from (
                select b.slot, b.id from observer.job b
                where b.lane = h.lane and b.id > h.id
                order by b.id limit most_run - 1
            ) j
        ) f
    ), locked as materialized (
        select j.slot, j.lane, j.id, f.place, octet_length(j.event::text) as bytes
        from follower f
        join observer.job j on j.slot = f.slot and j.lane = f.lane and j.id = f.id
        where j.state = 'b' and j.due <= clock_timestamp()
        order by j.id for update of j skip locked
    ), chosen as (
        select * from (
            select l.*, row_number() over (partition by l.lane order by l.place) as rank,
                sum(l.bytes) over (order by l.place, l.lane) - l.bytes as bytes_before
            from locked l
        ) l where l.place = l.rank and l.bytes_before < open_bytes
    )
    update observer.job j set state = 'c', worker = of_worker, claim = j.claim + 1
    from chosen c
    where j.slot = c.slot and j.lane = c.lane and j.id = c.id
    returning
        null::integer, j.slot, j.ctid::text, j.id, j.lane, j.act, j.turn, j.priority, j.hash, j.attempts, j.claim,
        j.due, j.enqueued_at, extract(epoch from present - j.due)::double precision, j.log_id, j.name, j.event_id,
        j.observer, j.action, j.entity, j.key, j.tenant, j.history::text, j.event::text;
end
$$;
