-- A listener that is gone for good is forgotten by a program, which wants to say what it removed.

drop function observer.forget(text);

create function observer.forget(listener text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    checkpoints bigint;
    letters bigint;
begin
    delete from observer.checkpoint c where c.listener = forget.listener;
    get diagnostics checkpoints = row_count;
    delete from observer.dead_letter d where d.listener = forget.listener;
    get diagnostics letters = row_count;
    return checkpoints + letters;
end
$$;

revoke all on function observer.forget from public;

comment on function observer.forget is
'Removes the checkpoints and dead letters of a listener that is gone for good, so that it no longer
holds back the removal of old events. Returns how many rows that were.';
