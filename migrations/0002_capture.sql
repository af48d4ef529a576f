-- Capture: triggers that write a tracked table's changes to the log, and custom events.
--
-- The triggers are statement-level: one insert into the log for each statement, however many
-- rows it changed, and none where it changed no row. They never refuse what the table accepts:
-- images are json (jsonb refuses some values), and options that no longer fit an altered table
-- are passed over.
--
-- They run with the rights of the schema's owner, so that writers need none. A type may bring a
-- cast to json of its own, which then runs with these rights too: where the owners of tracked
-- tables are not trusted with them, let a role without other rights own the schema.

-- Schema and name, as they are and unquoted; of the root for a partition.
create function observer.entity_of(tbl oid) returns text
language plpgsql stable
as $$
begin
    return (
        select n.nspname || '.' || c.relname
        from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.oid = coalesce(pg_catalog.pg_partition_root(tbl::pg_catalog.regclass), tbl)
    );
end
$$;

create function observer.hash_of(tenant text, entity text, key text) returns integer
language sql immutable parallel safe
return (
    hashtextextended(coalesce(tenant, '') || E'\x1f' || entity || E'\x1f' || coalesce(key, ''), 0)
    & 2147483647
)::integer;

-- Values of type json may hold escapes that Postgres stores but refuses to read (\u0000, half of
-- a surrogate pair), and reading any field reads them all. Here each \u becomes \u0075, the
-- letter itself, which reads always; taking 0075 away again gives back the very same text.
create function observer.readable(image json) returns json
language sql immutable parallel safe
return case
    when strpos(image::text, E'\\u') = 0 then image
    else replace(image::text, E'\\u', E'\\u0075')::json
end;

-- In plpgsql, since that keeps the plan from one statement to the next.
create function observer.composite_key(image json, columns text[]) returns text
language plpgsql immutable parallel safe
as $$
begin
    return (
        select json_agg(image -> name order by n)
        from unnest(columns) with ordinality as c (name, n)
    );
end
$$;

-- The key as text: the same text as in the image, or a JSON array for several columns.
create function observer.key_of(image json, columns text[]) returns text
language sql immutable parallel safe
return case
    when cardinality(columns) = 1 then image ->> columns[1]
    else observer.composite_key(image, columns)
end;

create function observer.without(image json, hidden text[]) returns json
language plpgsql immutable parallel safe
as $$
declare
    kept text;
begin
    select coalesce(json_object_agg(key, value), '{}') into kept
    from json_each(observer.readable(image)) where key <> all (hidden);
    return case when strpos(image::text, E'\\u') = 0 then kept else replace(kept, E'\\u0075', E'\\u') end;
end
$$;

-- The image without what is to stay hidden; nothing is hidden where `hidden` is null.
create function observer.shown(image json, hidden text[]) returns json
language sql immutable parallel safe
return case when hidden is null then image else observer.without(image, hidden) end;

-- Names of the columns to hide: those named to `track`, and those that had these numbers then,
-- so that a renamed column stays hidden.
create function observer.hidden(tbl oid, options json) returns text[]
language plpgsql stable
as $$
begin
    return (options ->> 'exclude')::text[] || array(
        select attname::text from pg_attribute
        where attrelid = tbl and attnum = any ((options ->> 'numbers')::smallint[])
    );
end
$$;

-- The settings pinned on the functions below are those that a value's text depends on, so that
-- the same value has the same text, and a key its lane, whatever the writer's session has set.
-- The plan is made once a session, for the first statement's number of rows: hence no plan that
-- suits few rows only (nested loops), and no compiling on account of what was expensive once.
-- Each `offset 0` keeps the expression in it from being evaluated once per use.

-- For inserts and deletes, whose one transition table is called `changed_rows` either way.
create function observer.log_rows() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    options json := tg_argv[0];
    key_columns text[] := options ->> 'key';
    tenant_column text := options ->> 'tenant';
    entity text := tg_table_schema || '.' || tg_table_name;
    hidden text[];
begin
    if options -> 'partitioned' is not null then entity := observer.entity_of(tg_relid); end if;
    if options -> 'exclude' is not null then hidden := observer.hidden(tg_relid, options); end if;
    insert into observer.change_log (slot, hash, size, operation, entity, key, tenant, old, new)
    select
        (select slot from observer.log_head), observer.hash_of(row.tenant, entity, row.key),
        octet_length(image::text), case tg_op when 'INSERT' then 'i' else 'd' end::"char", entity, row.key, row.tenant,
        case tg_op when 'DELETE' then image end, case tg_op when 'INSERT' then image end
    from (
        select image, observer.key_of(fields, key_columns) as key, fields ->> tenant_column as tenant
        from (
            select image, observer.readable(image) as fields
            from (
                select observer.shown(image, hidden) as image
                from (select row_to_json(changed_rows.*) as image from changed_rows offset 0) whole offset 0
            ) visible offset 0
        ) readable offset 0
    ) row;
    return null;
end
$$;

-- Both transition tables are filled row by row together, so a row's place pairs its images.
-- The one exception is a row that an update moves to another partition and whose insertion
-- there a trigger suppresses: then the numbers of rows differ, and the key pairs them.
--
-- An update of key or tenant is a delete of the old and an insert of the new. All deletes come
-- first: one row may take the key that another gives up.
create function observer.log_update() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1
set plan_cache_mode = force_generic_plan set jit = off set enable_nestloop = off
as $$
declare
    options json := tg_argv[0];
    key_columns text[] := options ->> 'key';
    tenant_column text := options ->> 'tenant';
    entity text := tg_table_schema || '.' || tg_table_name;
    by_key boolean := false;
    hidden text[];
begin
    if options -> 'exclude' is not null then hidden := observer.hidden(tg_relid, options); end if;
    if options -> 'partitioned' is not null then
        entity := observer.entity_of(tg_relid);
        by_key := (select count(*) from old_rows) <> (select count(*) from new_rows);
    end if;
    insert into observer.change_log (slot, hash, size, operation, entity, key, tenant, old, new)
    with olds as (
        select *, case when by_key then concat(tenant, E'\x1f', key) else n::text end as pair
        from (
            select n, image, observer.key_of(fields, key_columns) as key, fields ->> tenant_column as tenant
            from (
                select n, image, observer.readable(image) as fields
                from (
                    select n, observer.shown(image, hidden) as image
                    from (
                        select row_number() over () as n, row_to_json(old_rows.*) as image
                        from old_rows offset 0
                    ) whole offset 0
                ) visible offset 0
            ) readable offset 0
        ) row
    ), news as (
        select *, case when by_key then concat(tenant, E'\x1f', key) else n::text end as pair
        from (
            select n, image, observer.key_of(fields, key_columns) as key, fields ->> tenant_column as tenant
            from (
                select n, image, observer.readable(image) as fields
                from (
                    select n, observer.shown(image, hidden) as image
                    from (
                        select row_number() over () as n, row_to_json(new_rows.*) as image
                        from new_rows offset 0
                    ) whole offset 0
                ) visible offset 0
            ) readable offset 0
        ) row
    ), pairs as materialized (
        select
            o.image as before, o.key as old_key, o.tenant as old_tenant,
            n.image as after, n.key as new_key, n.tenant as new_tenant,
            o.image is not null and n.image is not null
                and o.key is not distinct from n.key
                and o.tenant is not distinct from n.tenant as same
        from olds o full join news n on o.pair = n.pair
    ), events as (
        select 'd'::"char" as operation, old_key as key, old_tenant as tenant, before, null::json as after
        from pairs where not same and before is not null
        union all
        select
            case when same then 'u'::"char" else 'i' end, new_key, new_tenant, case when same then before end, after
        from pairs where after is not null
    )
    select
        (select slot from observer.log_head), observer.hash_of(tenant, entity, key),
        coalesce(octet_length(before::text), 0) + coalesce(octet_length(after::text), 0),
        operation, entity, key, tenant, before, after
    from events;
    return null;
end
$$;

-- A TRUNCATE that reaches several tables of a partition tree is one event: nothing has
-- happened to the entity since the transaction's last one.
create function observer.log_truncate() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    options json := tg_argv[0];
    truncated text := tg_table_schema || '.' || tg_table_name;
begin
    if options -> 'partitioned' is not null then
        truncated := observer.entity_of(tg_relid);
        if 't' = (
            select operation from observer.change_log
            where xid = pg_current_xact_id() and entity = truncated
            order by id desc limit 1
        ) then
            return null;
        end if;
    end if;
    insert into observer.change_log (slot, hash, size, operation, entity)
    select slot, observer.hash_of(null, truncated, null), 0, 't', truncated from observer.log_head;
    return null;
end
$$;

create function observer.primary_key(tbl regclass) returns text[]
language sql stable
return (
    select array_agg(a.attname::text order by k.n)
    from pg_catalog.pg_index i
    cross join unnest(i.indkey::smallint[]) with ordinality as k (number, n)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = tbl and i.indisprimary and k.n <= i.indnkeyatts
);

-- Refuses what cannot be tracked, with what to do instead.
create function observer.check_trackable(tbl regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    c pg_class;
    schema name;
begin
    select * into c from pg_class where oid = tbl;
    select nspname into schema from pg_namespace where oid = c.relnamespace;
    if c.relkind in ('v', 'm') then
        raise exception '% is a view and cannot be tracked', tbl
            using errcode = 'wrong_object_type', hint = 'Track the tables that it reads.';
    elsif c.relkind = 'f' then
        raise exception '% is a foreign table and cannot be tracked', tbl
            using errcode = 'wrong_object_type', hint = 'Track the table in the database that holds it.';
    elsif c.relkind not in ('r', 'p') then
        raise exception '% is not a table', tbl using errcode = 'wrong_object_type';
    elsif c.relpersistence = 't' then
        raise exception '% is a temporary table and cannot be tracked', tbl using errcode = 'wrong_object_type';
    elsif schema = 'observer' then
        raise exception '% belongs to the log itself and cannot be tracked', tbl using errcode = 'wrong_object_type';
    elsif schema in ('pg_catalog', 'information_schema', 'pg_toast') then
        raise exception '% is a system table and cannot be tracked', tbl using errcode = 'wrong_object_type';
    elsif c.relispartition then
        raise exception '% is a partition and is tracked with its root', tbl
            using errcode = 'wrong_object_type', hint = format('Track %s.', pg_partition_root(tbl));
    elsif exists (
        select 1 from pg_partition_tree(tbl) t join pg_class p on p.oid = t.relid where p.relkind = 'f'
    ) then
        raise exception '% has a foreign table as partition and cannot be tracked', tbl
            using errcode = 'wrong_object_type', hint = 'Detach the foreign table first.';
    end if;
end
$$;

create function observer.check_columns(tbl regclass, key text[], tenant text, exclude text[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
begin
    if coalesce(cardinality(key), 0) = 0 then
        raise exception '% has no primary key', tbl
            using errcode = 'invalid_parameter_value',
                hint = format('Name the columns that identify a row: select observer.track(%L, key => ''{...}'').', tbl);
    end if;
    select name into missing from unnest(key || exclude || array_remove(array[tenant], null)) as name
    where not exists (
        select 1 from pg_attribute
        where attrelid = tbl and attname = name and attnum > 0 and not attisdropped
    ) limit 1;
    if found then
        raise exception '% has no column %', tbl, coalesce(quote_ident(missing), 'NULL')
            using errcode = 'undefined_column',
                hint = 'Columns are named as they are, without quotes, upper and lower case as in the table.';
    end if;
    if key && exclude or tenant = any (exclude) then
        raise exception 'a column of the key or the tenant cannot be excluded'
            using errcode = 'invalid_parameter_value', hint = 'Every event carries both.';
    end if;
end
$$;

create function observer.track(
    tbl regclass, key text[] default null, tenant text default null, exclude text[] default '{}'
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    member regclass;
    options text;
begin
    if tbl is null then
        raise exception 'no table was named' using errcode = 'null_value_not_allowed';
    end if;
    exclude := coalesce(exclude, '{}');
    perform observer.check_trackable(tbl);
    key := coalesce(key, observer.primary_key(tbl));
    perform observer.check_columns(tbl, key, tenant, exclude);
    -- A statement fires the triggers of the table that it names only, so no event is doubled.
    for member in select tbl union select relid from pg_partition_tree(tbl) loop
        options := json_strip_nulls(json_build_object(
            'key', key::text,
            'tenant', tenant,
            'exclude', case when exclude <> '{}' then exclude::text end,
            'numbers', case when exclude <> '{}' then array(
                select attnum from pg_attribute where attrelid = member and attname = any (exclude)
            )::text end,
            'partitioned', case when exists (select 1 from pg_partition_tree(tbl)) then true end
        ))::text;
        execute format(
            'create or replace trigger observer_insert after insert on %s
                referencing new table as changed_rows
                for each statement execute function observer.log_rows(%L)', member, options);
        execute format(
            'create or replace trigger observer_update after update on %s
                referencing old table as old_rows new table as new_rows
                for each statement execute function observer.log_update(%L)', member, options);
        execute format(
            'create or replace trigger observer_delete after delete on %s
                referencing old table as changed_rows
                for each statement execute function observer.log_rows(%L)', member, options);
        execute format(
            'create or replace trigger observer_truncate after truncate on %s
                for each statement execute function observer.log_truncate(%L)', member, options);
    end loop;
end
$$;

create function observer.untrack(tbl regclass) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_trigger record;
begin
    for found_trigger in
        select t.tgname, t.tgrelid::regclass as member
        from pg_trigger t join pg_proc p on p.oid = t.tgfoid
        where t.tgrelid in (select tbl union select relid from pg_partition_tree(tbl))
            and p.pronamespace = 'observer'::regnamespace and not t.tgisinternal
    loop
        execute format('drop trigger %I on %s', found_trigger.tgname, found_trigger.member);
    end loop;
end
$$;

create view observer.tracked as
select
    observer.entity_of(tbl) as entity,
    tbl::regclass as tbl,
    (options ->> 'key')::text[] as key,
    options ->> 'tenant' as tenant,
    coalesce((options ->> 'exclude')::text[], '{}') as exclude
from (
    select
        t.tgrelid as tbl,
        -- the one argument, without the zero byte that ends it
        convert_from(substring(t.tgargs for octet_length(t.tgargs) - 1), getdatabaseencoding())::json as options
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_class c on c.oid = t.tgrelid
    where t.tgfoid = 'observer.log_update()'::regprocedure and not c.relispartition
) triggers;

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

-- The rest only computes or reads the catalog, on behalf of whoever may call these.
revoke all on function observer.track, observer.untrack, observer.emit from public;

comment on function observer.track is
'Logs each change of the table from now on; calling it again changes the options.
key: columns that identify a row, by default the primary key. tenant: column that names the
tenant. exclude: columns that never reach the log, also when renamed later.
Needs the TRIGGER privilege on the table, and waits for the writers that are under way.
A partitioned table is tracked with all its partitions under its own name; track it again after
attaching a partition that is written to by its own name. Truncating one partition is an event of
the whole. Rows of inheritance children are logged under the name of the table that the
statement names.
The table may be altered freely. A key column that was dropped or renamed counts as null (all
rows of the table are then kept in order among each other) and a tenant column as no tenant,
until the table is tracked again.
An update is logged even if it changed nothing; one that changes key or tenant is logged as a
delete and an insert. If a row trigger of the table changes its row by a further statement,
then that statement''s event comes before that of the statement that fired the trigger; and a
MERGE that deletes a row and inserts another with the same key logs the insert first.
Nothing is logged under session_replication_role = replica.';
comment on function observer.untrack is 'Stops logging changes of the table; what was logged is still delivered.';
comment on function observer.emit is
'Logs a custom event, delivered if the transaction commits; returns its id in the log. A role
that may only do this needs: grant usage on schema observer, grant execute on function observer.emit.';
comment on view observer.tracked is 'The tracked tables and their options.';
comment on table observer.change_log is 'Committed changes and custom events, written by observer.track''s triggers and observer.emit.';
comment on table observer.log_head is 'The slot of the log that is being written to.';
comment on table observer.incarnation is 'The log''s name for ever; event ids begin with it.';
comment on table observer.checkpoint is 'How far each shard of each listener is. Holds back the removal of what is not yet behind.';
comment on table observer.dead_letter is 'Actions given up on, until redriven or dropped.';
comment on function observer.mark is 'The present moment as a place in the log.';
comment on function observer.floor is 'A bound below the ids of whatever a later mark has not seen begin.';
