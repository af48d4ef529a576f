-- Events of the application's own.

-- Logs an event. The transaction draws its xid before the id: the readers' bounds on ids rest on that
-- order, and an event may be the first thing that a transaction writes.
--
-- Restrictions are the login's, and of all roles that it may become: what `set role` has made of it does
-- not show here. Whoever may change them is not bound by them.
create or replace function observer.log_event(entity text, payload json, key text, tenant text) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    log_id bigint;
begin
    if coalesce(log_event.entity, '') = '' then
        raise exception 'an event needs the name of an entity' using errcode = 'invalid_parameter_value';
    end if;
    if octet_length(log_event.entity) > 255
        or octet_length(log_event.key) > 8192 or octet_length(log_event.tenant) > 8192
    then
        raise exception 'the event''s %', case
                when octet_length(log_event.entity) > 255 then 'entity is longer than 255 bytes'
                when octet_length(log_event.key) > 8192 then 'key is longer than 8192 bytes'
                else 'tenant is longer than 8192 bytes'
            end
            using errcode = 'string_data_right_truncation', hint = 'What is long belongs into the payload.';
    end if;
    if exists (select from observer.emit_restriction) and not observer.may_emit(log_event.entity, log_event.tenant) then
        raise exception 'role % may not log events of entity % and %', session_user, log_event.entity,
                coalesce('tenant ' || log_event.tenant, 'no tenant')
            using errcode = 'insufficient_privilege',
                hint = 'The owner of the schema may allow it by observer.restrict_emit(role, entity_prefix, tenant).';
    end if;
    perform pg_current_xact_id();
    insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, new, traceparent)
    select
        partition_no, observer.hash_of(log_event.tenant, log_event.entity, log_event.key),
        coalesce(octet_length(payload::text), 0), 'c', log_event.entity, log_event.key, log_event.tenant, payload,
        observer.current_traceparent()
    from observer.log_partition_state
    returning id into log_id;
    return log_id;
end
$$;

-- Whether the login may log events of this entity and tenant.
create or replace function observer.may_emit(entity text, tenant text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select
        coalesce(bool_or(starts_with(may_emit.entity, r.entity_prefix)
            and (r.tenant is null or r.tenant is not distinct from may_emit.tenant)), true)
        or pg_has_role(session_user, (
            select c.relowner from pg_class c where c.oid = 'observer.emit_restriction'::regclass), 'member')
    from observer.emit_restriction r
    join pg_roles known on known.oid = r.role
    where pg_has_role(session_user, known.oid, 'member')
$$;

revoke all on function observer.log_event, observer.may_emit from public;

comment on function observer.log_event is
'Logs a custom event. observer.emit calls it, and so a role that may emit needs: grant usage on schema
observer, grant execute on function observer.log_event.';

-- One for each type of payload, so that literals, nulls and values of any of them do. A key is its text:
-- it is made with the rights of whoever calls, since a type's cast may be anybody's function. They may be
-- called by all, and do nothing for those who may not call log_event.
create or replace function observer.emit(
    entity text, payload json default null, key anycompatible default null::text, tenant text default null
) returns bigint
language sql volatile
as $$ select observer.log_event(entity, payload, key::pg_catalog.text, tenant) $$;

create or replace function observer.emit(
    entity text, payload jsonb, key anycompatible default null::text, tenant text default null
) returns bigint
language sql volatile
as $$ select observer.log_event(entity, payload::pg_catalog.json, key::pg_catalog.text, tenant) $$;

create or replace function observer.emit(
    entity text, payload text, key anycompatible default null::text, tenant text default null
) returns bigint
language sql volatile
as $$ select observer.log_event(entity, payload::pg_catalog.json, key::pg_catalog.text, tenant) $$;

do $$
declare
    payload text;
begin
    foreach payload in array array['json', 'jsonb', 'text'] loop
        execute format(
            'comment on function observer.emit(text, %s, anycompatible, text) is
             ''Logs a custom event, which is delivered if the transaction commits. Returns its id in the log. A role
that may only emit needs: grant usage on schema observer, grant execute on function observer.log_event.''', payload);
    end loop;
end
$$;

-- Lets a role log events of entities that begin with a prefix, and of one tenant where one is given, and of
-- none but those: several restrictions of a role add to each other.
create or replace function observer.restrict_emit(role regrole, entity_prefix text,
    tenant text default null) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into observer.emit_restriction (role, entity_prefix, tenant)
    values (restrict_emit.role, restrict_emit.entity_prefix, restrict_emit.tenant)
    on conflict do nothing
$$;

-- Ends all restrictions of a role; returns how many there were.
create or replace function observer.unrestrict_emit(role regrole) returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    with ended as (delete from observer.emit_restriction r where r.role = unrestrict_emit.role returning 1)
    select count(*) from ended
$$;

revoke all on function observer.restrict_emit, observer.unrestrict_emit from public;

comment on function observer.restrict_emit is
'Restricts the custom events that a role and its members may log: the entity must begin with the prefix,
and the tenant must be the given one, if any. Each further call allows more. A restriction follows the role
when it is renamed.';

comment on function observer.unrestrict_emit is
'Removes all restrictions that observer.restrict_emit put on a role. Returns how many there were.';
