-- Deliveries that took effect in this database: a row each, written in the transaction of the effect,
-- so that none takes effect twice.

create table observer.effect (
    listener text not null,
    -- by a digest with the secret below
    delivery_id text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (listener, delivery_id)
);
create index on observer.effect (listener, at);

comment on table observer.effect is
'Deliveries that took effect in this database, for as long as they might be attempted again.';

-- Statements of observers run as a login that may claim deliveries and no more in this schema. What they
-- claim is named by a digest with this secret, which that login cannot read: a statement that calls the
-- function itself cannot name a delivery that is not its own.
create table observer.claim_secret (
    only_row boolean primary key default true check (only_row),
    secret uuid not null default gen_random_uuid()
);
insert into observer.claim_secret default values;
comment on table observer.claim_secret is 'What the names of deliveries in observer.effect are made with.';

-- Claims a delivery for the transaction; false where it took effect before. Where another transaction
-- has claimed it, this waits for what becomes of that.
create function observer.claim_delivery(listener text, delivery_id text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Rows of listeners that nobody runs would be kept for ever.
    if octet_length(claim_delivery.delivery_id) is distinct from 64
        or not exists (select from observer.checkpoint c where c.listener = claim_delivery.listener)
    then
        raise exception 'no such listener or delivery' using errcode = 'invalid_parameter_value';
    end if;
    insert into observer.effect (listener, delivery_id)
    values (claim_delivery.listener, claim_delivery.delivery_id) on conflict do nothing;
    return found;
end
$$;
revoke all on function observer.claim_delivery from public;
comment on function observer.claim_delivery is
'Claims a delivery whose statement runs in the same transaction; false where it took effect before. The
login of spec.egress.ownDatabase needs: grant usage on schema observer, grant execute on function
observer.claim_delivery.';

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
    delete from observer.member m where m.listener = forget.listener;
    delete from observer.config c where c.listener = forget.listener;
    delete from observer.checkpoint c where c.listener = forget.listener;
    get diagnostics checkpoints = row_count;
    delete from observer.dead_letter d where d.listener = forget.listener;
    get diagnostics letters = row_count;
    delete from observer.effect e where e.listener = forget.listener;
    delete from observer.job_worker w where w.queue = of_queue;
    delete from observer.job_done d where d.queue = of_queue;
    delete from observer.job j where j.queue = of_queue;
    get diagnostics jobs = row_count;
    delete from observer.job_queue q where q.id = of_queue;
    return checkpoints + letters + jobs;
end
$$;

comment on function observer.forget is
'Removes the checkpoints, dead letters and jobs of a listener that is gone for good, so that it no
longer holds back the removal of old events. Returns how many rows that were.';
