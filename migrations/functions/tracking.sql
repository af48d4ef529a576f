-- Which tables are tracked, and how.
--
-- What `track` was told is kept in the arguments of a table's triggers, so that it goes with the table
-- wherever that is restored or copied: the first is a JSON object of
--   key          columns that identify a row, as an array literal
--   tenant       column that names the tenant, if any
--   partitioned  whether it is part of a partitioned table
--   exclude      columns never logged, as an array literal, if any; and then
--   numbers      their numbers, which stay when a column is renamed,
--   known        the other columns that there were, and
--   identity     the table in which the numbers mean that

create or replace function observer.primary_key(tbl regclass) returns text[]
language sql stable
return (
    select pg_catalog.array_agg(a.attname::text order by k.n)
    from pg_catalog.pg_index i
    cross join pg_catalog.unnest(i.indkey::smallint[]) with ordinality as k (number, n)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = tbl and i.indisprimary and k.n <= i.indnkeyatts
);

-- What a table's triggers were told, or null where it is not tracked.
create or replace function observer.options_of(tbl oid) returns json
language sql stable
return (
    -- the first argument, without the zero byte that ends it
    select pg_catalog.convert_from(
        substring(t.tgargs for position('\x00'::bytea in t.tgargs) - 1), pg_catalog.getdatabaseencoding()
    )::json
    from pg_catalog.pg_trigger t
    where t.tgrelid = tbl and t.tgfoid = 'observer.log_update()'::regprocedure
    limit 1
);

-- Refuses what cannot be tracked, with what to do instead.
create or replace function observer.check_trackable(tbl regclass) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    c pg_class;
    schema name;
    taken record;
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
    select t.tgname as name, t.tgrelid::regclass as tbl into taken
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where t.tgrelid in (select tbl union select relid from pg_partition_tree(tbl))
        and t.tgname in ('observer_insert', 'observer_update', 'observer_delete', 'observer_truncate')
        and p.pronamespace <> 'observer'::regnamespace
    limit 1;
    if found then
        raise exception '% has a trigger % of another origin, whose name is needed', taken.tbl, taken.name
            using errcode = 'duplicate_object',
                hint = format('Rename it: alter trigger %I on %s rename to ...', taken.name, taken.tbl);
    end if;
end
$$;

create or replace function observer.check_columns(tbl regclass, key text[], tenant text, exclude text[]) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    missing text;
begin
    if coalesce(cardinality(key), 0) = 0 then
        raise exception '% has no primary key', tbl
            using errcode = 'invalid_parameter_value',
                hint = format('Name the columns that identify a row: select observer.track(%L, key => ''{...}'').',
                    tbl);
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

-- The columns that are excluded so far, by the names that they have now. Refuses to guess.
create or replace function observer.kept_exclusions(tbl regclass, options json) returns text[]
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    names text[] := coalesce((options ->> 'exclude')::text[], '{}');
    present text[] := array(
        select attname::text from pg_attribute
        where attrelid = tbl and attnum > 0 and not attisdropped and attname = any (observer.excluded_columns(tbl,
            options))
        order by attnum
    );
begin
    if names <> '{}' and not names <@ present and options ->> 'identity' <> observer.identity_of(tbl) then
        raise exception '% was restored or copied, and has no column % any more, which was excluded', tbl,
                (select quote_ident(name) from unnest(names) as name where name <> all (present) limit 1)
            using errcode = 'invalid_parameter_value',
                hint = 'It may have another name now. Say what is to be excluded: exclude => ''{...}'', or ''{}'' for nothing.';
    end if;
    return present;
end
$$;

-- Makes the triggers of one table, and leaves what was said of when they fire.
create or replace function observer.make_triggers(tbl regclass, options json, arguments text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    fires json := (
        select json_object_agg(tgname, tgenabled) from pg_trigger where tgrelid = tbl and tgenabled in ('A', 'R')
    );
    kept record;
begin
    execute format(
        'create or replace trigger observer_insert after insert on %s
            referencing new table as changed_rows
            for each statement execute function observer.log_rows(%s)', tbl, arguments);
    execute format(
        'create or replace trigger observer_update after update on %s
            referencing old table as old_rows new table as new_rows
            for each statement execute function observer.log_update(%s)', tbl, arguments);
    execute format(
        'create or replace trigger observer_delete after delete on %s
            referencing old table as changed_rows
            for each statement execute function observer.log_rows(%s)', tbl, arguments);
    execute format(
        'create or replace trigger observer_truncate after truncate on %s
            for each statement execute function observer.log_truncate(%L)', tbl, options);
    for kept in
        select t.tgname, fires ->> t.tgname::text as at from pg_trigger t
        where t.tgrelid = tbl and t.tgenabled::text is distinct from fires ->> t.tgname::text
            and fires ->> t.tgname::text is not null
    loop
        execute format(
            'alter table %s enable %s trigger %I', tbl, case kept.at when 'A' then 'always' else 'replica' end,
                kept.tgname);
    end loop;
end
$$;

create or replace function observer.track(
    tbl regclass, key text[] default null, tenant text default null, exclude text[] default null
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    before json := observer.options_of(tbl);
    member regclass;
    options json;
    arguments text;
    partitioned boolean;
begin
    if tbl is null then
        raise exception 'no table was named' using errcode = 'null_value_not_allowed';
    end if;
    perform observer.check_trackable(tbl);
    key := coalesce(key, (before ->> 'key')::text[]);
    if coalesce(cardinality(key), 0) = 0 then key := observer.primary_key(tbl); end if;
    tenant := nullif(coalesce(tenant, before ->> 'tenant'), '');
    exclude := coalesce(exclude, observer.kept_exclusions(tbl, before));
    perform observer.check_columns(tbl, key, tenant, exclude);
    partitioned := exists (select 1 from pg_partition_tree(tbl));
    -- A statement fires the triggers of the table that it names only, so no event is doubled.
    for member in select tbl union select relid from pg_partition_tree(tbl) loop
        options := json_strip_nulls(json_build_object(
            'key', key::text, 'tenant', tenant, 'partitioned', case when partitioned then true end));
        arguments := quote_literal(options);
        if exclude = '{}' and cardinality(key) = 1 then
            arguments := concat_ws(', ', arguments, quote_literal(key[1]),
                quote_literal(case when partitioned then 'partitioned' else '' end), quote_literal(tenant));
        end if;
        if exclude <> '{}' then
            options := (options::jsonb || jsonb_build_object(
                'exclude', exclude::text,
                'numbers', array(
                    select attnum from pg_attribute where attrelid = member and attname = any (exclude)
                )::text,
                'known', array(
                    select attname from pg_attribute
                    where attrelid = member and attnum > 0 and not attisdropped and attname <> all (exclude)
                )::text,
                'identity', observer.identity_of(member)
            ))::json;
            arguments := quote_literal(options);
        end if;
        perform observer.make_triggers(member, options, arguments);
    end loop;
    raise notice '% is tracked: key %, %, %', observer.entity_of(tbl), array_to_string(key, ', '),
        coalesce('tenant ' || tenant, 'no tenant'),
        case exclude when '{}' then 'nothing excluded' else 'without ' || array_to_string(exclude, ', ') end;
end
$$;

create or replace function observer.untrack(tbl regclass) returns void
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

-- What keeps a tracked table's changes from being logged as they should, or null.
create or replace function observer.trouble_of(tbl oid) returns text
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    options json := observer.options_of(tbl);
    found text;
begin
    select string_agg(quote_ident(name), ', ') into found
    from unnest(array['observer_insert', 'observer_update', 'observer_delete', 'observer_truncate']) as name
    where not exists (
        select from pg_trigger t where t.tgrelid = tbl and t.tgname = name and t.tgenabled in ('O', 'A')
    );
    if found is not null then
        return format('not logged, since these triggers are missing or disabled: %s', found);
    end if;
    select string_agg(quote_ident(name), ', ') into found
    from unnest((options ->> 'key')::text[] || array_remove(array[options ->> 'tenant'], null)) as name
    where not exists (
        select from pg_attribute where attrelid = tbl and attname = name and attnum > 0 and not attisdropped
    );
    if found is not null then
        return format('columns of the key or the tenant are not there any more: %s', found);
    end if;
    select string_agg(quote_ident(attname), ', ' order by attnum) into found
    from pg_attribute
    where attrelid = tbl and attnum > 0 and not attisdropped
        and options ->> 'identity' <> observer.identity_of(tbl)
        and attname = any (observer.excluded_columns(tbl, options))
            and attname <> all ((options ->> 'exclude')::text[]);
    return 'hidden until it is tracked again, as it was restored or copied: ' || found;
end
$$;

create or replace view observer.tracked as
select
    observer.entity_of(tbl) as entity,
    tbl::regclass as tbl,
    (options ->> 'key')::text[] as key,
    options ->> 'tenant' as tenant,
    coalesce((options ->> 'exclude')::text[], '{}') as exclude,
    observer.trouble_of(tbl) as trouble
from (
    select c.oid as tbl, observer.options_of(c.oid) as options
    from pg_catalog.pg_class c
    where not c.relispartition and exists (
        select from pg_catalog.pg_trigger t
        where t.tgrelid = c.oid and t.tgfoid = 'observer.log_update()'::regprocedure
    )
) tables;

-- The rest only computes or reads the catalog, on behalf of whoever may call these.
revoke all on function observer.track, observer.untrack from public;

comment on function observer.track is
'Logs each change of the table from now on. Another call changes the given options and keeps the rest.
key: columns that identify a row, by default the primary key. tenant: column that names the
tenant; '''' for none. exclude: columns that never reach the log, also when renamed later; ''{}'' for none.
Needs the TRIGGER privilege on the table, and waits for open transactions that write to it.
A partitioned table is tracked with all its partitions under its own name; track it again after
attaching a partition that is written to by its own name. Truncating one partition is an event of
the whole. Rows of inheritance children are logged under the name of the table that the
statement names.
You may alter the table freely. A key column that was dropped or renamed counts as null (all
rows of the table are then kept in order among each other) and a tenant column as no tenant,
until the table is tracked again.
An update is logged even if it changed nothing; one that changes key or tenant is logged as a
delete and an insert. If a row trigger of the table changes its row by a further statement,
then that statement''s event comes before that of the statement that fired the trigger; and a
MERGE that deletes a row and inserts another with the same key logs the insert first.
Nothing is logged under session_replication_role = replica.';

comment on function observer.untrack is
'Stops logging changes of a table. Changes that are logged already are still delivered.';

comment on view observer.tracked is
'The tracked tables with their options. The column trouble says what is wrong with one, or is null.';
