-- Bounds of what a snapshot of the log has seen.

-- A bound below the ids of all that a snapshot taken after this call has not seen begin. A
-- snapshot's xmax is the newest xid that has ended, plus one, so a transaction from xmax on may
-- have drawn ids long before. Once this call's own transaction has ended, though, xmax lies above
-- its xid: whatever is at xmax or above then drew its xid, and so its ids, after this call.
-- Call it as a transaction of its own. Writes nothing but a commit record, which nobody waits for.
--
-- A sequence changes its one row in place: each time it logs its next 32 values, the row holds the
-- last of these for a moment, and a plain select reads it without the lock that keeps others from
-- seeing that. A low id read then lies above ids that are yet to be written, which no window would
-- hold; a high id read then lies ahead of the next one. pg_sequence_last_value takes the lock.
create or replace function observer.low_watermark() returns bigint
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    low_id bigint;
begin
    select case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    into low_id from observer.change_log_id;
    perform pg_current_xact_id();
    return low_id;
end
$$;

-- The snapshot of this moment, and the largest id that any event may have which it sees. Volatile,
-- and a statement each, so that the id is read after the snapshot is taken.
create or replace function observer.current_bound(out snapshot pg_snapshot, out high_id bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    snapshot := pg_current_snapshot();
    select case when is_called then pg_sequence_last_value('observer.change_log_id') else 0 end
    into high_id from observer.change_log_id;
end
$$;

revoke all on function observer.low_watermark, observer.current_bound from public;

comment on function observer.current_bound is 'The present moment as a place in the log.';

comment on function observer.low_watermark is 'A bound below the ids of whatever a later bound has not seen begin.';
