-- The log's end, read under its lock.
--
-- A sequence changes its one row in place: each time it logs its next 32 values, the row holds the
-- last of these for a moment, and a plain select reads it without the lock that keeps others from
-- seeing that. A floor read then lies above ids that are yet to be written, which no window would
-- hold; a ceiling read then lies ahead of the next one. pg_sequence_last_value takes the lock.

create or replace function observer.floor() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    floor bigint;
begin
    select case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    into floor from observer.change_log_id;
    perform pg_current_xact_id();
    return floor;
end
$$;

create or replace function observer.mark(out snapshot pg_snapshot, out ceiling bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    snapshot := pg_current_snapshot();
    select case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    into ceiling from observer.change_log_id;
end
$$;
