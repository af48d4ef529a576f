-- The log of entities that a FraiseQL application keeps, as events.
--
-- Each row of it is one event: of the entity `<schema of the log>.<object_type>`, with the images that the row
-- holds, or that an envelope as Debezium writes it holds in `object_data`. What else the row says is the member
-- `_change` of both images. A verb that is no change of a row, and one that is not known, is a custom event.
-- The listener does the same with rows of a write-ahead log (`ingest::entity_change`), text for text.

create or replace function observer.with_change(image json, change text) returns json
language sql immutable
return case
    when coalesce(pg_catalog.json_typeof(image), 'null'::text) = 'null'::text
        then ('{"_change":'::text || change || '}'::text)::json
    when pg_catalog.json_typeof(image) <> 'object'::text
        then ('{"value":'::text || image::text || ',"_change":'::text || change || '}'::text)::json
    when image::text ~ '^\s*\{\s*\}\s*$'::text then ('{"_change":'::text || change || '}'::text)::json
    else (pg_catalog.regexp_replace(image::text, '\s*\}\s*$'::text, ''::text)
        || ',"_change":'::text || change || '}'::text)::json
end;

create or replace function observer.entity_change(
    schema_name text, logged json,
    out operation "char", out entity text, out key text, out tenant text, out before json, out after json
)
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    verb text := logged ->> 'modification_type';
    change text;
    field record;
begin
    after := logged -> 'object_data';
    before := logged -> 'object_data_before';
    if json_typeof(after) = 'object' and json_typeof(after -> 'op') = 'string'
        and (after -> 'before' is not null or after -> 'after' is not null)
    then
        verb := after ->> 'op';
        before := after -> 'before';
        after := after -> 'after';
    end if;
    operation := case upper(verb)
        when 'INSERT' then 'i' when 'C' then 'i'
        when 'UPDATE' then 'u' when 'U' then 'u'
        when 'DELETE' then 'd' when 'D' then 'd'
        else 'c'
    end;
    entity := case when strpos(logged ->> 'object_type', '.') > 0 then logged ->> 'object_type'
        else concat_ws('.', case when schema_name ~ '[."]' then quote_ident(schema_name) else schema_name end,
            case when logged ->> 'object_type' ~ '"' then quote_ident(logged ->> 'object_type')
                else logged ->> 'object_type' end)
    end;
    key := logged ->> 'object_id';
    tenant := coalesce(logged ->> 'tenant_id', logged ->> 'fk_customer_org');
    change := concat('{"verb":', coalesce(to_json(verb)::text, 'null'));
    for field in
        select * from (values
            ('id', 'id'), ('actor', 'fk_contact'), ('actorType', 'actor_type'), ('actingFor', 'acting_for'),
            ('changedFields', 'updated_fields'), ('cascade', 'cascade'), ('status', 'change_status'),
            ('traceId', 'trace_id'), ('metadata', 'extra_metadata')
        ) as f (member, source)
    loop
        change := concat(change, ',"', field.member, '":', coalesce((logged -> field.source)::text, 'null'));
    end loop;
    change := change || '}';
    if operation = 'd' then
        if coalesce(json_typeof(before), 'null') = 'null' then before := after; end if;
        before := observer.with_change(before, change);
        after := null;
        return;
    end if;
    after := observer.with_change(after, change);
    before := case when operation <> 'i' and coalesce(json_typeof(before), 'null') <> 'null'
        then observer.with_change(before, change) end;
end
$$;

create or replace function observer.log_entity_changes() returns trigger
language plpgsql security definer
set search_path = pg_catalog, observer, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set quote_all_identifiers = off
as $$
declare
    -- Where a column's type has a cast to json of its own, row_to_json would call it: such a column is left out.
    columns text := (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a
        where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped
            and not (a.atttypid >= 16384 and observer.has_own_json(a.atttypid))
    );
begin
    execute format('
        insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, old, new, traceparent)
        select
            (select partition_no from observer.log_partition_state), observer.hash_of(c.tenant, c.entity, c.key),
            coalesce(octet_length(c.before::text), 0) + coalesce(octet_length(c.after::text), 0),
            c.operation, c.entity, c.key, c.tenant, c.before, c.after, $2
        from (
            select row_number() over () as n, observer.entity_change($1, row_to_json(logged.*)) as change
            from (select %s from changed_rows offset 0) logged offset 0
        ) logged
        cross join lateral (select (logged.change).*) c
        order by logged.n', columns)
    using tg_table_schema, observer.current_traceparent();
    return null;
end
$$;

create or replace function observer.track_entity_changes(tbl regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
begin
    perform observer.check_trackable(tbl);
    select string_agg(name, ', ') into missing
    from unnest(array['object_type', 'modification_type', 'object_id', 'object_data']) as name
    where not exists (
        select from pg_attribute a
        where a.attrelid = tbl and a.attname = name and a.attnum > 0 and not a.attisdropped
    );
    if missing is not null then
        raise exception '% is no log of entities: it has no column %', tbl, missing
            using errcode = 'undefined_column', hint = 'Track a table of rows with observer.track.';
    end if;
    execute format(
        'create or replace trigger observer_entity_changes after insert on %s
            referencing new table as changed_rows
            for each statement execute function observer.log_entity_changes()', tbl);
    raise notice '% is tracked as a log of entities', observer.entity_of(tbl);
end
$$;

-- The rest only computes.
revoke all on function observer.log_entity_changes, observer.track_entity_changes from public;

comment on function observer.track_entity_changes is
'Takes each row that is inserted into a FraiseQL application''s log of entities, core.tb_entity_change_log, as one
event from now on: of the entity core.<object_type>, with object_id as key and tenant_id as tenant. The member
_change of its images has the verb, the actor, the changed fields and the trace. Verbs other than INSERT, UPDATE and
DELETE are custom events. observer.untrack ends it.';
