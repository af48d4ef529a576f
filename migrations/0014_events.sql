-- Events of the application's own.

-- The transaction draws its xid before the id: the readers' bounds on ids rest on that order,
-- and an event may be the first thing that a transaction writes.
create function observer.emit(
    entity text, payload json default null, key text default null, tenant text default null
) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    log_id bigint;
begin
    if coalesce(emit.entity, '') = '' then
        raise exception 'an event needs the name of an entity' using errcode = 'invalid_parameter_value';
    end if;
    if octet_length(emit.entity) > 255 or octet_length(emit.key) > 8192 or octet_length(emit.tenant) > 8192 then
        raise exception 'the event''s %', case
                when octet_length(emit.entity) > 255 then 'entity is longer than 255 bytes'
                when octet_length(emit.key) > 8192 then 'key is longer than 8192 bytes'
                else 'tenant is longer than 8192 bytes'
            end
            using errcode = 'string_data_right_truncation', hint = 'What is long belongs into the payload.';
    end if;
    perform pg_current_xact_id();
    insert into observer.change_log (slot, hash, size, operation, entity, key, tenant, new)
    select
        slot, observer.hash_of(emit.tenant, emit.entity, emit.key),
        coalesce(octet_length(payload::text), 0), 'c', emit.entity, emit.key, emit.tenant, payload
    from observer.log_head
    returning id into log_id;
    return log_id;
end
$$;

revoke all on function observer.emit from public;

comment on function observer.emit is
'Logs a custom event, delivered if the transaction commits; returns its id in the log. A role
that may only do this needs: grant usage on schema observer, grant execute on function observer.emit.';
