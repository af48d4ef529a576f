-- What people do to jobs, and what keeps their tables small.

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
    perform observer.lock('job-cancel/' || of_queue);
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
    set cancelled = j.ctid
    from (
        select p.slot, p.lane, p.id from observer.job p
        where p.queue = of_queue and p.state = 'c' and p.cancelled is null and (names is null or p.name = any (names))
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
    filled smallint[];
begin
    moved := 0;
    truncated := false;
    rotated := false;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'observer.job_rotate needs the isolation level read committed'
            using errcode = 'invalid_transaction_state';
    end if;
    if not observer.try_lock('job-rotate') then
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
    if crowded and empty_slot is not null then
        update observer.job_head h set slot = empty_slot, since = clock_timestamp();
        head.slot := empty_slot;
        rotated := true;
    elsif crowded and moved = 0 and pg_stat_get_dead_tuples(format('observer.job_%s', head.slot)::regclass)
        > pg_stat_get_live_tuples(format('observer.job_%s', head.slot)::regclass) then
        moved := observer.job_move((head.slot + 1) % slots, few);
    end if;
    filled := array(
        select s.slot::smallint from generate_series(0, slots - 1) s(slot)
        where s.slot = head.slot or pg_relation_size(format('observer.job_%s', s.slot)::regclass) > 0
    );
    update observer.job_head h set slots = filled where h.slots <> filled;
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

revoke all on function
    observer.job_queue_of, observer.job_promote, observer.job_enqueue, observer.job_claim, observer.job_held,
    observer.job_held_as_taken, observer.job_finish_done, observer.job_finish, observer.job_release,
    observer.job_register, observer.job_leave, observer.job_expire, observer.job_hurry, observer.job_cancel,
    observer.job_move, observer.job_rotate, observer.job_forget_done
from public;
