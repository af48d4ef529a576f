-- Capture: triggers that write a tracked table's changes to the log.
--
-- The triggers are statement-level: one insert into the log for each statement, however many
-- rows it changed, and none where it changed no row. They never refuse what the table accepts:
-- images are json (jsonb refuses some values), and options that no longer fit an altered table
-- are passed over.
--
-- They run with the rights of their owner, so that writers need none. What they run is Postgres' own
-- and this schema's: where a column's type has a cast to json of its own, which row_to_json would
-- call, its text is logged.

-- Schema and name, as they are and unquoted; of the root for a partition. A name that holds a dot or a
-- quotation mark is quoted, so that no two tables are one entity.
create or replace function observer.entity_of(tbl oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select concat_ws('.',
            case when n.nspname ~ '[."]' then quote_ident(n.nspname) else n.nspname end,
            case when c.relname ~ '[."]' then quote_ident(c.relname) else c.relname end)
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = coalesce(pg_partition_root(tbl::regclass), tbl)
    );
end
$$;

create or replace function observer.hash_of(tenant text, entity text, key text) returns integer
language sql immutable parallel safe
return (
    pg_catalog.hashtextextended(
        coalesce(tenant, ''::text) || E'\x1f'::text || entity || E'\x1f'::text || coalesce(key, ''::text), 0::bigint
    ) & 2147483647::bigint
)::integer;

-- A field of an image as it stands there. Values of type json may hold escapes that Postgres stores
-- but refuses to read (\u0000, half of a surrogate pair), and reading any field reads them all. So for
-- the reading each \u becomes \\u and each \\ becomes \\b, which read always and can be told apart;
-- the field's own text is then turned back.
create or replace function observer.raw_field(image json, name text) returns json
language plpgsql immutable parallel safe
as $$
declare
    escaped text := pg_catalog.replace(pg_catalog.replace(image::text, E'\\\\', E'\\\\b'), E'\\u', E'\\\\u');
    field text := escaped::json operator(pg_catalog.->) name;
begin
    return pg_catalog.replace(pg_catalog.replace(field, E'\\\\u', E'\\u'), E'\\\\b', E'\\\\')::json;
end
$$;

-- A field that stands beside escapes, as text; as it stands there where it holds one that cannot be read.
create or replace function observer.escaped_field(image json, name text) returns text
language plpgsql immutable
as $$
declare
    field json := observer.raw_field(image, name);
begin
    return field operator(pg_catalog.#>>) '{}'::text[];
exception when others then
    return field::text;
end
$$;

create or replace function observer.field(image json, name text) returns text
language sql immutable
return case
    when name is null then null
    when pg_catalog.strpos(image::text, E'\\u'::text) = 0 then image ->> name
    else observer.escaped_field(image, name)
end;

-- In plpgsql, since that keeps the plan from one statement to the next.
create or replace function observer.composite_key(image json, columns text[]) returns text
language plpgsql immutable parallel safe
as $$
begin
    if pg_catalog.strpos(image::text, E'\\u') operator(pg_catalog.=) 0 then
        return (
            select pg_catalog.json_agg(image operator(pg_catalog.->) name order by n)
            from pg_catalog.unnest(columns) with ordinality as c (name, n)
        );
    end if;
    return (
        select pg_catalog.json_agg(observer.raw_field(image, name) order by n)
        from pg_catalog.unnest(columns) with ordinality as c (name, n)
    );
end
$$;

-- The key as text: the same text as in the image, or a JSON array for several columns.
create or replace function observer.key_of(image json, columns text[]) returns text
language sql immutable
return case
    when pg_catalog.cardinality(columns) = 1 then observer.field(image, columns[1])
    else observer.composite_key(image, columns)
end;

-- Whether values of a type, or what they are made of, have a cast to json of their own.
create or replace function observer.has_own_json(type oid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Types with lower numbers are Postgres' own; few databases have any such cast.
    if not exists (select from pg_cast where castsource >= 16384 and casttarget = 'json'::regtype) then
        return false;
    end if;
    return exists (
        with recursive part as (
            select has_own_json.type as type
            union
            select made_of.type
            from part p join pg_type t on t.oid = p.type
            cross join lateral (
                select t.typbasetype union all select t.typelem union all
                select a.atttypid from pg_attribute a
                where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
            ) made_of (type)
            where made_of.type >= 16384
        )
        select from part p join pg_cast c on c.castsource = p.type and c.casttarget = 'json'::regtype
    );
end
$$;

-- Which table it is, unlike any other: a restored or copied one is another.
create or replace function observer.identity_of(tbl oid) returns text
language sql stable
set search_path = pg_catalog, pg_temp
return (
    select concat_ws('/', s.system_identifier, d.oid, tbl)
    from pg_control_system() s, pg_database d where d.datname = current_database()
);

-- Names of the excluded columns: those named to `track`, and those that had these numbers then, so that
-- a renamed column stays hidden. In a restored or copied table the numbers may be others: there all
-- are hidden that were not among the table's columns when it was tracked, until it is tracked again.
create or replace function observer.excluded_columns(tbl oid, options json) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    same_table boolean := options ->> 'identity' = observer.identity_of(tbl);
begin
    return (options ->> 'exclude')::text[] || array(
        select attname::text from pg_attribute
        where attrelid = tbl and attnum > 0 and not attisdropped and case
            when same_table then attnum = any ((options ->> 'numbers')::smallint[])
            else attname <> all ((options ->> 'known')::text[])
        end
    );
end
$$;

-- The columns to log as a select list, or null where the row as it is will do. Transition tables have
-- no values for virtual generated columns; their expressions are Postgres' own functions only.
create or replace function observer.visible_columns(tbl oid, options json) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    excluded text[] := '{}';
begin
    if options -> 'exclude' is not null then
        excluded := observer.excluded_columns(tbl, options);
    elsif not exists (
        select from pg_attribute
        where attrelid = tbl and attnum > 0
            and (attgenerated = 'v' or atttypid >= 16384 and observer.has_own_json(atttypid))
    ) then
        return null;
    end if;
    return coalesce((
        select string_agg(case
            when a.attgenerated = 'v' then format('%s as %I', pg_get_expr(d.adbin, d.adrelid), a.attname)
            when a.atttypid >= 16384 and observer.has_own_json(a.atttypid)
                then format('case when %1$I is distinct from null then concat(%1$I) end as %1$I', a.attname)
            else quote_ident(a.attname)
        end, ', ' order by a.attnum)
        from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = tbl and a.attnum > 0 and not a.attisdropped and a.attname <> all (excluded)
    ), '');
end
$$;

-- The settings pinned on the functions below are those that a value's text depends on, so that
-- the same value has the same text, and a key its lane, whatever the writer's session has set.
-- The plan is made once a session, for the first statement's number of rows: hence no plan that
-- suits few rows only (nested loops), and no compiling on account of what was expensive once.
-- Each `offset 0` keeps the expression in it from being evaluated once per use.
--
-- What a statement with one row pays is mostly what Postgres needs to begin the log's insert: its
-- plan's nodes and expressions are set up anew each time. So tables with one column as key have an
-- insert of their own with as few of them as it takes, which finds out by itself whether the row as it
-- is will do. The other insert is there twice: for the row as it is, and as text for a list of columns,
-- planned for each statement. Of the trigger's arguments the first are options (see `track`); then come,
-- where there is one column as key and nothing is excluded, that, `partitioned` or nothing, and the tenant's.
do $make$
declare
    settings constant text := $settings$
language plpgsql security definer
set search_path = pg_catalog, observer, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set quote_all_identifiers = off
set plan_cache_mode = force_generic_plan set jit = off$settings$;

    -- What every image must be seen for, before the row as it is may be logged.
    plain constant text := $plain$not exists (
                        select from pg_attribute
                        where attrelid = tg_relid and attnum > 0
                            and (attgenerated = 'v' or atttypid >= 16384 and observer.has_own_json(atttypid))
                    )$plain$;

    -- As observer.current_traceparent(), in place, as a call would cost more than it does.
    context constant text := $context$coalesce(
        case when current_setting('observer.traceparent', true) <> ''
            then observer.valid_traceparent(current_setting('observer.traceparent', true)) end,
        case
            -- Of a long text one copy for each message, and not for each time that a trigger fires.
            when current_setting('observer.long_message', true) <> '' then observer.long_message_traceparent()
            when octet_length(current_query()) > 8192 then observer.long_message_traceparent()
            when strpos(current_query(), 'traceparent=') > 0 then observer.comment_traceparent(current_query())
        end)$context$;

    rows constant text := $rows$
        insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, old, new, traceparent)
        select
            (select partition_no from observer.log_partition_state), observer.hash_of(tenant, <entity>, key),
                pg_column_size(image) - 4,
            <operation>, <entity>, key, tenant,
            case <operation> when 'd' then image end, case <operation> when 'i' then image end, <traceparent>
        from (
            select image, observer.key_of(image, <key>) as key, observer.field(image, <tenant>) as tenant
            from (select row_to_json(visible.*) as image from <changed_rows> visible offset 0) whole offset 0
        ) row$rows$;

    pairs constant text := $pairs$
        insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, old, new, traceparent)
        with olds as (
            select *, case when <by_key> then concat(tenant, E'\x1f', key) else n::text end as pair
            from (
                select n, image, observer.key_of(image, <key>) as key, observer.field(image, <tenant>) as tenant
                from (
                    select row_number() over () as n, row_to_json(visible.*) as image from <old_rows> visible offset 0
                ) whole offset 0
            ) row
        ), news as (
            select *, case when <by_key> then concat(tenant, E'\x1f', key) else n::text end as pair
            from (
                select n, image, observer.key_of(image, <key>) as key, observer.field(image, <tenant>) as tenant
                from (
                    select row_number() over () as n, row_to_json(visible.*) as image from <new_rows> visible offset 0
                ) whole offset 0
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
            (select partition_no from observer.log_partition_state), observer.hash_of(tenant, <entity>, key),
            coalesce(octet_length(before::text), 0) + coalesce(octet_length(after::text), 0),
            operation, <entity>, key, tenant, before, after, <traceparent>
        from events$pairs$;

    -- For inserts and deletes, whose one transition table is called `changed_rows` either way.
    log_rows constant text := $log_rows$
declare
    entity text := tg_table_schema || '.' || tg_table_name;
    operation "char" := case tg_op when 'INSERT' then 'i' else 'd' end;
    traceparent text := <context>;
    options json;
    visible text;
begin
    if tg_argv[2] = 'partitioned' or strpos(tg_table_name, '.') > 0 or strpos(tg_table_schema, '.') > 0
        or strpos(entity, '"') > 0
    then
        entity := observer.entity_of(tg_relid);
    end if;
    if tg_nargs > 1 then
        insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, old, new, traceparent)
        select
            (select partition_no from observer.log_partition_state), observer.hash_of(tenant, entity, key),
                pg_column_size(image) - 4,
            operation, entity, key, tenant,
            case operation when 'd' then image end, case operation when 'i' then image end, traceparent
        from (
            select
                image,
                case when escaped then observer.escaped_field(image, tg_argv[1]) else image ->> tg_argv[1] end as key,
                case when escaped then observer.escaped_field(image, tg_argv[3]) else image ->> tg_argv[3] end as tenant
            from (
                select image, strpos(image::text, E'\\u') > 0 as escaped
                from (
                    select row_to_json(changed_rows.*) as image from changed_rows
                    where <plain> offset 0
                ) whole offset 0
            ) look offset 0
        ) row;
        if found then return null; end if;
    end if;
    if not exists (select from changed_rows) then return null; end if;
    options := tg_argv[0];
    if options -> 'partitioned' is not null then entity := observer.entity_of(tg_relid); end if;
    visible := observer.visible_columns(tg_relid, options);
    if visible is null then<static>;
    else
        execute format(<dynamic>, visible) using entity, (options ->> 'key')::text[], options ->> 'tenant', operation,
            traceparent;
    end if;
    return null;
end
$log_rows$;

    -- Both transition tables are filled row by row together, so a row's place pairs its images.
    -- The one exception is a row that an update moves to another partition and whose insertion
    -- there a trigger suppresses: then the numbers of rows differ, and the key pairs them.
    --
    -- An update of key or tenant is a delete of the old and an insert of the new. All deletes come
    -- first: one row may take the key that another gives up.
    log_update constant text := $log_update$
declare
    entity text := tg_table_schema || '.' || tg_table_name;
    by_key boolean := false;
    traceparent text := <context>;
    options json;
    visible text;
begin
    if tg_argv[2] = 'partitioned' or strpos(tg_table_name, '.') > 0 or strpos(tg_table_schema, '.') > 0
        or strpos(entity, '"') > 0
    then
        entity := observer.entity_of(tg_relid);
    end if;
    -- One row that stays who it is.
    if tg_nargs > 1 then
        insert into observer.change_log (partition_no, hash, size, operation, entity, key, tenant, old, new, traceparent)
        select
            (select partition_no from observer.log_partition_state), observer.hash_of(tenant, entity, key),
            pg_column_size(before) + pg_column_size(after) - 8, 'u', entity, key, tenant, before, after,
            traceparent
        from (
            select
                before, after,
                case when escaped then observer.escaped_field(after, tg_argv[1]) else after ->> tg_argv[1] end as key,
                case when escaped then observer.escaped_field(after,
                    tg_argv[3]) else after ->> tg_argv[3] end as tenant,
                case when escaped then observer.escaped_field(before,
                    tg_argv[1]) else before ->> tg_argv[1] end as old_key,
                case when escaped then observer.escaped_field(before,
                    tg_argv[3]) else before ->> tg_argv[3] end as old_tenant
            from (
                select
                    before, after, strpos(before::text, E'\\u') > 0 or strpos(after::text, E'\\u') > 0 as escaped
                from (
                    select row_to_json(old_rows.*) as before, row_to_json(new_rows.*) as after
                    from old_rows cross join new_rows
                    where (select count(*) from (select from old_rows limit 2) two) = 1
                        and <plain> offset 0
                ) whole offset 0
            ) look offset 0
        ) row
        where key is not distinct from old_key and tenant is not distinct from old_tenant;
        if found then return null; end if;
    end if;
    if not exists (select from old_rows) then return null; end if;
    options := tg_argv[0];
    if options -> 'partitioned' is not null then
        entity := observer.entity_of(tg_relid);
        by_key := (select count(*) from old_rows) <> (select count(*) from new_rows);
    end if;
    visible := observer.visible_columns(tg_relid, options);
    if visible is null then<static>;
    else
        execute format(<dynamic>, visible) using entity, (options ->> 'key')::text[], options ->> 'tenant', by_key,
            traceparent;
    end if;
    return null;
end
$log_update$;

    made record;
begin
    for made in
        select * from (values
            ('log_rows', log_rows, rows, ''), ('log_update', log_update, pairs, ' set enable_nestloop = off')
        ) as f (name, body, insertion, setting)
    loop
        execute format(
            'create or replace function observer.%s() returns trigger %s as %L', made.name, settings || made.setting,
            replace(replace(replace(replace(made.body,
                '<plain>', plain), '<context>', context),
                '<static>', regexp_replace(replace(replace(replace(replace(replace(made.insertion,
                    '<entity>', 'entity'), '<key>', '(options ->> ''key'')::text[]'),
                    '<tenant>', 'options ->> ''tenant'''), '<operation>', 'operation'), '<by_key>', 'by_key'),
                    '<(\w+)>', '\1', 'g')),
                '<dynamic>', quote_literal(regexp_replace(replace(replace(replace(replace(replace(replace(made.insertion,
                    '<entity>', '$1'), '<key>', '$2'), '<tenant>', '$3'), '<operation>', '$4'), '<by_key>', '$4'),
                    '<traceparent>', '$5'), '<(\w+)>', '(select %1$s from \1 offset 0)', 'g')))
        );
    end loop;
end
$make$;

-- A TRUNCATE that reaches several tables of a partition tree is one event: nothing has
-- happened to the entity since the transaction's last one.
create or replace function observer.log_truncate() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    options json := tg_argv[0];
    truncated text := observer.entity_of(tg_relid);
begin
    if options -> 'partitioned' is not null and 't' = (
        select operation from observer.change_log
        where xid = pg_current_xact_id() and entity = truncated
        order by id desc limit 1
    ) then
        return null;
    end if;
    insert into observer.change_log (partition_no, hash, size, operation, entity, traceparent)
    select partition_no, observer.hash_of(null, truncated, null), 0, 't', truncated, observer.current_traceparent()
    from observer.log_partition_state;
    return null;
end
$$;

revoke all on function observer.log_rows, observer.log_update, observer.log_truncate from public;
