-- Giving jobs to workers.

-- Takes the first jobs of some lanes, with some of those behind them: by priority, and among one
-- priority from each act and turn in rotation, beginning after the one given.
create function observer.job_claim(
    of_listener text, of_worker uuid, runs integer, most_run integer, known bigint[], limits integer[],
    fleet integer, after_act bigint, after_turn integer
) returns table (
    run integer, slot smallint, id bigint, lane bigint, act bigint, turn integer, priority smallint, hash integer,
    attempts integer, claim bigint, due timestamptz, enqueued_at timestamptz, late double precision, log_id bigint,
    name text, event_id text, observer text, action text, entity text, key text, tenant text, history text, event text
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
    of_queue integer := observer.job_queue_of(of_listener);
    -- Those with anything in them; a job that comes into another now is found by the next claim.
    slots smallint[] := array(
        select n::smallint from generate_series(0, 3) n
        where pg_relation_size(('observer.job_' || n)::regclass) > 0);
    open_runs integer := runs;
    of_priority smallint := -1;
    room integer[];
    place integer;
    held_slots smallint[] := '{}';
    held_rows tid[] := '{}';
    held_lanes bigint[] := '{}';
    held_ids bigint[] := '{}';
    held_runs integer[] := '{}';
    heads integer;
    seen record;
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
    -- Held so that it is not taken for gone before these claims are seen to be its own.
    perform from observer.job_worker w
    where w.id = of_worker and w.queue = of_queue and w.expires_at > clock_timestamp() for key share;
    if not found or runs < 1 then
        return;
    end if;

    update observer.job j set state = 'r'
    from (
        select d.slot, d.lane, d.id from observer.job d
        where d.slot = any(slots) and d.queue = of_queue and d.state = 'd' and d.due <= present
        order by d.due limit most_due for update skip locked
    ) d
    where j.slot = d.slot and j.lane = d.lane and j.id = d.id;

    room := array_fill(null::integer, array[cardinality(known)]);
    if fleet is not null or exists (select from unnest(limits) l where l is not null) then
        perform pg_advisory_xact_lock(x'6a6f6273'::integer, of_queue);
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

    loop
        exit when open_runs < 1;
        select j.priority into of_priority from observer.job j
        where j.slot = any(slots) and j.queue = of_queue and j.state = 'r' and j.priority > of_priority
        order by j.priority limit 1;
        exit when not found;
        -- Which acts and turns have any.
        turn_acts := '{}';
        turn_turns := '{}';
        at_act := after_act;
        at_turn := after_turn;
        wrapped := false;
        for step in 1..most_steps loop
            exit when cardinality(turn_acts) >= least(most_turns, open_runs);
            select j.act, j.turn into seen from observer.job j
            where j.slot = any(slots) and j.queue = of_queue and j.state = 'r' and j.priority = of_priority
                and (j.act, j.turn) > (at_act, at_turn)
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
            exit when open_runs < 1 or cardinality(turn_acts) = 0;
            share := ceil(open_runs::double precision / cardinality(turn_acts));
            still_acts := '{}';
            still_turns := '{}';
            for turn_n in 1..cardinality(turn_acts) loop
                place := array_position(known, turn_acts[turn_n]);
                take := least(share, open_runs, room[place]);
                continue when take < 1;
                -- One that changed just before it was locked is passed by, and comes next time.
                with chosen as (
                    select j.slot, j.ctid as at from observer.job j
                    where j.slot = any(slots) and j.queue = of_queue and j.state = 'r' and j.priority = of_priority
                        and j.act = turn_acts[turn_n] and j.turn = turn_turns[turn_n]
                    order by j.due limit take for update skip locked
                ), claimed as (
                    update observer.job j set state = 'c', worker = of_worker, claim = j.claim + 1
                    from chosen c
                    where j.slot = c.slot and j.ctid = c.at
                    returning j.slot, j.ctid as at, j.lane, j.id, j.due
                )
                select array_agg(c.slot) as slots, array_agg(c.at) as rows, array_agg(c.lane) as lanes,
                       array_agg(c.id) as ids, count(*)::integer as n
                into taken from (select * from claimed c order by c.due, c.id) c;
                continue when taken.n = 0;
                held_slots := held_slots || taken.slots;
                held_rows := held_rows || taken.rows;
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
    end loop;

    heads := cardinality(held_ids);
    if heads = 0 then
        return;
    end if;
    held_runs := array(select generate_series(1, heads));

    -- Those behind, as far as nobody holds one of them: none may be passed over.
    with follower as materialized (
        select h.run, f.slot, f.lane, f.id, f.place
        from unnest(held_lanes, held_ids) with ordinality h(lane, id, run)
        cross join lateral (
            select j.slot, j.lane, j.id, row_number() over (order by j.id) as place
            from (
                select b.slot, b.lane, b.id from observer.job b
                where b.lane = h.lane and b.id > h.id
                order by b.id limit most_run - 1
            ) j
        ) f
    ), locked as materialized (
        select f.run, j.slot, j.lane, j.id, f.place
        from follower f
        join observer.job j on j.slot = f.slot and j.lane = f.lane and j.id = f.id
        where j.state = 'b' and j.due <= clock_timestamp()
        order by j.id for update of j skip locked
    ), chosen as (
        select * from (
            select l.*, row_number() over (partition by l.run order by l.place) as rank from locked l
        ) l where l.place = l.rank
    ), claimed as (
        update observer.job j set state = 'c', worker = of_worker, claim = j.claim + 1
        from chosen c
        where j.slot = c.slot and j.lane = c.lane and j.id = c.id
        returning c.run, j.slot, j.ctid as at
    )
    select array_agg(c.slot) as slots, array_agg(c.at) as rows, array_agg(c.run::integer) as runs
    into taken from claimed c;
    if taken.rows is not null then
        held_slots := held_slots || taken.slots;
        held_rows := held_rows || taken.rows;
        held_runs := held_runs || taken.runs;
    end if;

    return query
    select
        h.run, j.slot, j.id, j.lane, j.act, j.turn, j.priority, j.hash, j.attempts, j.claim, j.due, j.enqueued_at,
        extract(epoch from clock_timestamp() - j.due)::double precision, j.log_id, j.name, j.event_id, j.observer,
        j.action, j.entity, j.key, j.tenant, j.history::text, j.event::text
    from unnest(held_slots, held_rows, held_runs) h(slot, at, run)
    join observer.job j on j.slot = h.slot and j.ctid = h.at
    order by h.run, j.id;
end
$$;
