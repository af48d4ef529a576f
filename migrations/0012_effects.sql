-- Deliveries that took effect in this database: a row each, written in the transaction of the effect,
-- so that none takes effect twice.

create table observer.effect (
    listener text not null,
    delivery_id text not null,
    at timestamptz not null default clock_timestamp(),
    primary key (listener, delivery_id)
);
create index on observer.effect (listener, at);

comment on table observer.effect is
'Deliveries that took effect in this database, for as long as they might be attempted again.';

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
