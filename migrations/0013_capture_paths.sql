-- Capture at less cost for most tables.
--
-- What a statement with one row pays is mostly what Postgres needs to begin the log's insert: its
-- plan's nodes and expressions are set up anew each time. So a table with one column as key and
-- nothing to hide or to unite has an insert of its own, with as few of them as it takes, and so has an
-- update of one row that leaves key and tenant as they are. `track` says by further arguments of the
-- trigger that a table is such a one; tables that were tracked before go on as they did.

create or replace function observer.log_rows() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    entity text := tg_table_schema || '.' || tg_table_name;
begin
    if tg_nargs = 1 then
        declare
            options json := tg_argv[0];
            key_columns text[] := options ->> 'key';
            tenant_column text := options ->> 'tenant';
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
        end;
    elsif tg_op = 'INSERT' then
        insert into observer.change_log (slot, hash, size, operation, entity, key, tenant, new)
        select
            (select slot from observer.log_head), observer.hash_of(tenant, entity, key),
            octet_length(image::text), 'i', entity, key, tenant, image
        from (
            select image, fields ->> tg_argv[1] as key, fields ->> tg_argv[2] as tenant
            from (
                select image, observer.readable(image) as fields
                from (select row_to_json(changed_rows.*) as image from changed_rows offset 0) whole offset 0
            ) readable offset 0
        ) row;
    else
        insert into observer.change_log (slot, hash, size, operation, entity, key, tenant, old)
        select
            (select slot from observer.log_head), observer.hash_of(tenant, entity, key),
            octet_length(image::text), 'd', entity, key, tenant, image
        from (
            select image, fields ->> tg_argv[1] as key, fields ->> tg_argv[2] as tenant
            from (
                select image, observer.readable(image) as fields
                from (select row_to_json(changed_rows.*) as image from changed_rows offset 0) whole offset 0
            ) readable offset 0
        ) row;
    end if;
    return null;
end
$$;

create or replace function observer.log_update() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1
set plan_cache_mode = force_generic_plan set jit = off set enable_nestloop = off
as $$
declare
    entity text := tg_table_schema || '.' || tg_table_name;
begin
    -- One row that stays who it is, which is found out as it is logged.
    if tg_nargs > 1 then
        insert into observer.change_log (slot, hash, size, operation, entity, key, tenant, old, new)
        select
            (select slot from observer.log_head), observer.hash_of(tenant, entity, key),
            octet_length(before::text) + octet_length(after::text), 'u', entity, key, tenant, before, after
        from (
            select
                before, after, fields ->> tg_argv[1] as key, fields ->> tg_argv[2] as tenant,
                old_fields ->> tg_argv[1] as old_key, old_fields ->> tg_argv[2] as old_tenant
            from (
                select
                    before, after, observer.readable(before) as old_fields, observer.readable(after) as fields
                from (
                    select row_to_json(old_rows.*) as before, row_to_json(new_rows.*) as after
                    from old_rows cross join new_rows
                    where (select count(*) from (select from old_rows limit 2) two) = 1
                    offset 0
                ) whole offset 0
            ) readable offset 0
        ) row
        where key is not distinct from old_key and tenant is not distinct from old_tenant;
        if found then return null; end if;
    end if;
    declare
        options json := tg_argv[0];
        key_columns text[] := options ->> 'key';
        tenant_column text := options ->> 'tenant';
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
    end;
    return null;
end
$$;

create or replace function observer.track(
    tbl regclass, key text[] default null, tenant text default null, exclude text[] default '{}'
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    member regclass;
    options text;
    arguments text;
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
        arguments := quote_literal(options);
        if cardinality(key) = 1 and exclude = '{}' and not exists (select 1 from pg_partition_tree(tbl)) then
            arguments := concat_ws(', ', arguments, quote_literal(key[1]), quote_literal(tenant));
        end if;
        execute format(
            'create or replace trigger observer_insert after insert on %s
                referencing new table as changed_rows
                for each statement execute function observer.log_rows(%s)', member, arguments);
        execute format(
            'create or replace trigger observer_update after update on %s
                referencing old table as old_rows new table as new_rows
                for each statement execute function observer.log_update(%s)', member, arguments);
        execute format(
            'create or replace trigger observer_delete after delete on %s
                referencing old table as changed_rows
                for each statement execute function observer.log_rows(%s)', member, arguments);
        execute format(
            'create or replace trigger observer_truncate after truncate on %s
                for each statement execute function observer.log_truncate(%L)', member, options);
    end loop;
end
$$;

create or replace view observer.tracked as
select
    observer.entity_of(tbl) as entity,
    tbl::regclass as tbl,
    (options ->> 'key')::text[] as key,
    options ->> 'tenant' as tenant,
    coalesce((options ->> 'exclude')::text[], '{}') as exclude
from (
    select
        t.tgrelid as tbl,
        -- the first argument, without the zero byte that ends it
        convert_from(substring(t.tgargs for position('\x00'::bytea in t.tgargs) - 1), getdatabaseencoding())::json
            as options
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_class c on c.oid = t.tgrelid
    where t.tgfoid = 'observer.log_update()'::regprocedure and not c.relispartition
) triggers;
