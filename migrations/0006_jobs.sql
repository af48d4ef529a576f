-- Jobs: actions taken off the fast path, worked on in the order of their lanes.
--
-- Of a lane only the first job is ready, delayed or claimed; with it, those that came along under
-- its claim are claimed too, and all others are behind. Whoever adds to a lane holds its first
-- job, and whoever takes the first away makes the next one ready, having waited for whoever holds
-- it. So a lane that holds jobs is never without one that can be claimed.
--
-- Jobs lie in a ring of slots. Written anew, a job goes to the slot that the head names; a slot
-- with no job left is truncated, and with it whatever dead rows it holds, however old the
-- snapshots that are still open.

create table observer.job_queue (
    id integer generated always as identity primary key,
    listener text not null unique
);

create sequence observer.job_id as bigint cache 1;

create table observer.job (
    slot smallint not null,
    -- the place in its lane; the same for as long as the job is there
    id bigint not null,
    queue integer not null,
    -- of listener, observer, action and the hash of the key
    lane bigint not null,
    -- of observer and action
    act bigint not null,
    -- of the tenant: jobs are taken from each act and turn in rotation
    turn integer not null,
    -- 0 high, 1 normal, 2 low
    priority smallint not null,
    -- r ready and due, d delayed, c claimed, b behind
    state "char" not null,
    cancelled boolean not null default false,
    hash integer not null,
    attempts integer not null,
    -- grows with each claim; a result that carries an older one is refused
    claim bigint not null default 0,
    worker uuid,
    -- never before the moment at which it was written, unless the job is behind
    due timestamptz not null,
    enqueued_at timestamptz not null,
    log_id bigint not null,
    name text not null,
    event_id text not null,
    observer text not null,
    action text not null,
    entity text not null,
    key text,
    tenant text,
    -- [{at, kind, error, status}], the latest last
    history json not null,
    event json not null
) partition by list (slot);

-- The functions below keep their plans, which may have been made while there were no jobs: then
-- each way of finding a row looks as good as any other. Hence they may not choose. By its lane a
-- job is looked for by lane (and never by queue too, nor by a state that has an index), among those
-- of a state by that state's index, and no other index has a column that would do. One that this
-- transaction has just locked or written is where it is (ctid), and found there without an index.
do $$
begin
    for slot in 0..3 loop
        execute format(
            'create table observer.job_%1$s partition of observer.job for values in (%1$s)
                with (autovacuum_vacuum_scale_factor = 0.1)', slot);
        execute format('create index on observer.job_%s (lane, id)', slot);
        execute format('create index on observer.job_%s using hash (name)', slot);
        execute format('create index on observer.job_%s (queue, priority, act, turn, due) where state = ''r''', slot);
        execute format('create index on observer.job_%s (queue, due) where state = ''d''', slot);
        execute format('create index on observer.job_%s (queue, act, worker) where state = ''c''', slot);
    end loop;
end
$$;

create table observer.job_head (
    only_row boolean primary key default true check (only_row),
    slot smallint not null default 0 check (slot between 0 and 3),
    since timestamptz not null default clock_timestamp(),
    -- until when no slot is truncated, because somebody who takes long held one
    patience_until timestamptz not null default clock_timestamp()
);
insert into observer.job_head default values;

create table observer.job_worker (
    id uuid primary key,
    queue integer not null,
    name text not null,
    expires_at timestamptz not null
);
create index on observer.job_worker (queue, expires_at);

-- Jobs that are over, where a listener keeps them for a while.
create table observer.job_done (
    id bigint not null,
    queue integer not null,
    outcome "char" not null,
    priority smallint not null,
    attempts integer not null,
    enqueued_at timestamptz not null,
    ended_at timestamptz not null,
    name text not null,
    event_id text not null,
    observer text not null,
    action text not null,
    entity text not null,
    key text,
    tenant text,
    history json not null,
    event json not null
);
create index on observer.job_done (queue, ended_at);
create index on observer.job_done using hash (name);

create function observer.job_queue_of(listener text) returns integer
language sql stable
return (select q.id from observer.job_queue q where q.listener = job_queue_of.listener);

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
    keys text[], tenants text[], events text[], waits double precision[], attempts integer[], histories text[]
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    passes constant integer := 100;
    of_queue integer := observer.job_queue_of(of_listener);
    held integer := 0;
    first record;
begin
    if of_queue is null then
        insert into observer.job_queue (listener) values (of_listener) on conflict do nothing;
        of_queue := observer.job_queue_of(of_listener);
    end if;
    for pass in 1..passes loop
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
                order by j.id for share of j
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

    insert into observer.job (
        slot, id, queue, lane, act, turn, priority, state, hash, attempts, due, enqueued_at, log_id, name,
        event_id, observer, action, entity, key, tenant, history, event
    )
    select
        (select slot from observer.job_head), nextval('observer.job_id'), of_queue, n.lane, n.act, n.turn,
        n.priority, case when n.follows then 'b' when n.wait > 0 then 'd' else 'r' end::"char", n.hash,
        n.attempts, clock_timestamp() + make_interval(secs => n.wait), clock_timestamp(), n.log_id, n.name,
        n.event_id, n.observer, n.action, n.entity, n.key, n.tenant, n.history::json, n.event::json
    from (
        select e.*, row_number() over (partition by e.lane order by e.n) > 1 or (held > 0 and (
            select true from observer.job f where f.lane = e.lane limit 1
        )) is true as follows
        from unnest(
            names, lanes, acts, turns, priorities, hashes, log_ids, event_ids, observers, actions, entities,
            keys, tenants, events, waits, attempts, histories
        ) with ordinality e(
            name, lane, act, turn, priority, hash, log_id, event_id, observer, action, entity,
            key, tenant, event, wait, attempts, history, n
        )
        order by e.n offset 0
    ) n;
end
$$;

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

-- Which of these claims the worker still holds, each in its place. They stay its own until the
-- transaction ends.
create function observer.job_held(
    of_listener text, of_worker uuid, slots smallint[], lanes bigint[], ids bigint[], claims bigint[]
) returns boolean[]
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off
as $$
declare
    of_queue integer := observer.job_queue_of(of_listener);
    held boolean[] := array_fill(false, array[cardinality(ids)]);
    place integer;
begin
    -- One at a time for each worker: two that each take a part of one lane away would each see
    -- the other's part in the lane still, and neither make the next job ready.
    perform pg_advisory_xact_lock(x'6a6f6266'::integer, hashtext(of_worker::text));
    for place in
        select e.n
        from unnest(slots, lanes, ids, claims) with ordinality e(slot, lane, id, claim, n)
        join observer.job j on j.slot = e.slot and j.lane = e.lane and j.id = e.id
        where j.state::text = 'c' and j.worker = of_worker and j.claim = e.claim
        order by j.id for update of j
    loop
        held[place] := true;
    end loop;
    return held;
end
$$;

-- Ends those of the claims that the worker still holds, and lets the next of their lanes come.
-- Answers with which those are, each in its place.
create function observer.job_finish(
    of_listener text, of_worker uuid, slots smallint[], lanes bigint[], ids bigint[], claims bigint[],
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
    held boolean[] := observer.job_held(of_listener, of_worker, slots, lanes, ids, claims);
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
        and (e.ending in ('done', 'dead') or j.cancelled);

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
            and j.cancelled;
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
    perform pg_advisory_xact_lock(x'6a6f6266'::integer, hashtext(of_worker::text));
    select array_agg(h.slot) as slots, array_agg(h.lane) as lanes, array_agg(h.id) as ids into held
    from (
        select j.slot, j.lane, j.id from observer.job j
        where j.queue = of_queue and j.state = 'c' and j.worker = of_worker
        order by j.id for update
    ) h;
    if held.ids is null then
        return 0;
    end if;
    delete from observer.job j using unnest(held.slots, held.lanes, held.ids) h(slot, lane, id)
    where j.slot = h.slot and j.lane = h.lane and j.id = h.id and j.cancelled;

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
    if not pg_try_advisory_xact_lock(x'6a6f6265'::integer, of_queue) then
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

-- Makes delayed jobs of a selection ready. Answers with how many, at most so many at once.
create function observer.job_hurry(
    of_listener text, names text[], of_observer text, of_action text, states text[], most bigint
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer := observer.job_queue_of(of_listener);
    hurried bigint;
begin
    update observer.job j
    set state = 'r', due = clock_timestamp()
    from (
        select d.slot, d.lane, d.id from observer.job d
        where d.queue = of_queue and d.state = 'd' and (names is null or d.name = any (names))
            and (of_observer is null or d.observer = of_observer) and (of_action is null or d.action = of_action)
            and (states is null or d.state::text = any (states))
        limit most for update skip locked
    ) d
    where j.slot = d.slot and j.lane = d.lane and j.id = d.id;
    get diagnostics hurried = row_count;
    return hurried;
end
$$;

-- Drops jobs of a selection that nobody works on, and marks those under way. Answers with how
-- many, at most so many at once. One at a time, and waiting for no row that others hold: so it
-- never holds one for which somebody waits for whom it waits.
create function observer.job_cancel(
    of_listener text, names text[], of_observer text, of_action text, states text[], most bigint
) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer := observer.job_queue_of(of_listener);
    lanes bigint[];
    marked bigint;
begin
    perform pg_advisory_xact_lock(x'6a6f6263'::integer, of_queue);
    with gone as (
        delete from observer.job j using (
            select p.slot, p.lane, p.id from observer.job p
            where p.queue = of_queue and p.state <> 'c' and (names is null or p.name = any (names))
                and (of_observer is null or p.observer = of_observer) and (of_action is null or p.action = of_action)
                and (states is null or p.state::text = any (states))
            limit most for update skip locked
        ) p
        where j.slot = p.slot and j.lane = p.lane and j.id = p.id and j.state <> 'c'
        returning j.lane
    )
    select array_agg(g.lane) into lanes from gone g;
    update observer.job j
    set cancelled = true
    from (
        select p.slot, p.lane, p.id from observer.job p
        where p.queue = of_queue and p.state = 'c' and not p.cancelled and (names is null or p.name = any (names))
            and (of_observer is null or p.observer = of_observer) and (of_action is null or p.action = of_action)
            and (states is null or p.state::text = any (states))
        limit most for update skip locked
    ) p
    where j.slot = p.slot and j.lane = p.lane and j.id = p.id;
    get diagnostics marked = row_count;
    perform observer.job_promote(of_queue, lanes);
    return marked + coalesce(cardinality(lanes), 0);
end
$$;

-- Moves jobs that nobody holds from a slot to the head's.
create function observer.job_move(from_slot integer, most integer) returns integer
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    moved integer;
begin
    -- Not an update of the slot: whoever waits for a row that goes to another table fails.
    execute format(
        'with gone as (
             delete from observer.job_%1$s j using (
                 select m.ctid from observer.job_%1$s m where m.state <> ''c'' limit %2$s for update skip locked
             ) m where j.ctid = m.ctid and j.state <> ''c''
             returning j.*
         )
         insert into observer.job (
             slot, id, queue, lane, act, turn, priority, state, cancelled, hash, attempts, claim, worker, due,
             enqueued_at, log_id, name, event_id, observer, action, entity, key, tenant, history, event
         )
         select (select slot from observer.job_head), id, queue, lane, act, turn, priority, state, cancelled, hash,
                attempts, claim, worker, due, enqueued_at, log_id, name, event_id, observer, action, entity, key,
                tenant, history, event
         from gone', from_slot, most);
    get diagnostics moved = row_count;
    return moved;
end
$$;

-- Keeps the ring small: truncates a slot with no job left, moves what is left of one with few, and
-- moves the head on from a slot that has grown. Where every slot holds many jobs, the oldest one's
-- are moved bit by bit for as long as the head is too large and mostly dead.
create function observer.job_rotate(slot_bytes bigint, out moved integer, out truncated boolean, out rotated boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- Others queue up behind a waiting lock; better to try again later.
set lock_timeout = '50ms'
as $$
declare
    patience constant interval := '5 seconds';
    slots constant integer := 4;
    few constant integer := 2000;
    head record;
    candidate integer;
    size bigint;
    jobs integer;
    empty_slot integer;
    crowded boolean;
begin
    moved := 0;
    truncated := false;
    rotated := false;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'observer.job_rotate needs the isolation level read committed'
            using errcode = 'invalid_transaction_state';
    end if;
    if not pg_try_advisory_xact_lock(x'6a6f6272'::integer, 0) then
        return;
    end if;
    select h.slot, h.since, h.patience_until > clock_timestamp() as patient into head from observer.job_head h;
    size := pg_table_size(format('observer.job_%s', head.slot)::regclass);
    crowded := size >= slot_bytes
        or (size >= slot_bytes / 16 and head.since < clock_timestamp() - interval '1 minute');
    for step in 1..slots - 1 loop
        candidate := (head.slot + step) % slots;
        if pg_relation_size(format('observer.job_%s', candidate)::regclass) = 0 then
            empty_slot := coalesce(empty_slot, candidate);
            continue;
        end if;
        execute format('select count(*) from (select from observer.job_%s limit %s) found', candidate, few + 1) into jobs;
        if jobs between 1 and few and moved = 0 then
            moved := observer.job_move(candidate, few);
        end if;
        continue when truncated or head.patient or jobs - moved > 0;
        begin
            execute format('lock table observer.job_%s in access exclusive mode', candidate);
            execute format('select count(*) from (select from observer.job_%s limit 1) found', candidate) into jobs;
            if jobs = 0 then
                execute format('truncate observer.job_%s', candidate);
                truncated := true;
                empty_slot := coalesce(empty_slot, candidate);
            end if;
        exception when lock_not_available then
            head.patient := true;
            update observer.job_head h set patience_until = clock_timestamp() + patience;
        end;
    end loop;
    if not crowded then
        return;
    end if;
    if empty_slot is not null then
        update observer.job_head h set slot = empty_slot, since = clock_timestamp();
        rotated := true;
    elsif moved = 0 and pg_stat_get_dead_tuples(format('observer.job_%s', head.slot)::regclass)
        > pg_stat_get_live_tuples(format('observer.job_%s', head.slot)::regclass) then
        moved := observer.job_move((head.slot + 1) % slots, few);
    end if;
end
$$;

-- Removes jobs that have been over for longer than they are kept. Answers with how many.
create function observer.job_forget_done(of_listener text, retention double precision, most bigint) returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    until timestamptz := clock_timestamp() - make_interval(secs => retention);
    removed bigint;
begin
    delete from observer.job_done d using (
        select o.ctid from observer.job_done o
        where o.queue = observer.job_queue_of(of_listener)
            and o.ended_at < until
        order by o.ended_at limit most for update skip locked
    ) o where d.ctid = o.ctid;
    get diagnostics removed = row_count;
    return removed;
end
$$;

create or replace function observer.forget(listener text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    of_queue integer := observer.job_queue_of(listener);
    checkpoints bigint;
    letters bigint;
    jobs bigint;
begin
    delete from observer.lease l where l.listener = forget.listener;
    delete from observer.checkpoint c where c.listener = forget.listener;
    get diagnostics checkpoints = row_count;
    delete from observer.dead_letter d where d.listener = forget.listener;
    get diagnostics letters = row_count;
    delete from observer.job_worker w where w.queue = of_queue;
    delete from observer.job_done d where d.queue = of_queue;
    delete from observer.job j where j.queue = of_queue;
    get diagnostics jobs = row_count;
    delete from observer.job_queue q where q.id = of_queue;
    return checkpoints + letters + jobs;
end
$$;

revoke all on function
    observer.job_queue_of, observer.job_promote, observer.job_enqueue, observer.job_claim, observer.job_held,
    observer.job_finish, observer.job_release, observer.job_register, observer.job_leave, observer.job_expire,
    observer.job_hurry, observer.job_cancel, observer.job_move, observer.job_rotate, observer.job_forget_done
from public;

comment on function observer.forget is
'Removes the checkpoints, dead letters and jobs of a listener that is gone for good, so that it no
longer holds back the removal of old events. Returns how many rows that were.';
