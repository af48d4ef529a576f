-- Names that mean this schema's own and Postgres' own, whatever stands in others.
--
-- Expressions of SQL functions, views and defaults are bound to what their names stand for when they
-- are made. Steps up to this one were made with the search path of whoever migrated, so a function in a
-- schema that others may write to could be the better match for a call, or come first. This and later
-- steps are made with no other schema than pg_catalog in the path; what might be bound to anything else
-- is made anew.

create or replace function observer.hash_of(tenant text, entity text, key text) returns integer
language sql immutable parallel safe
return (
    pg_catalog.hashtextextended(
        coalesce(tenant, ''::text) || E'\x1f'::text || entity || E'\x1f'::text || coalesce(key, ''::text), 0::bigint
    ) & 2147483647::bigint
)::integer;

create or replace function observer.readable(image json) returns json
language sql immutable parallel safe
return case
    when pg_catalog.strpos(image::text, E'\\u'::text) = 0 then image
    else pg_catalog.replace(image::text, E'\\u'::text, E'\\u0075'::text)::json
end;

create or replace function observer.key_of(image json, columns text[]) returns text
language sql immutable parallel safe
return case
    when pg_catalog.cardinality(columns) = 1 then image ->> columns[1]
    else observer.composite_key(image, columns)
end;

create or replace function observer.shown(image json, hidden text[]) returns json
language sql immutable parallel safe
return case when hidden is null then image else observer.without(image, hidden) end;

create or replace function observer.primary_key(tbl regclass) returns text[]
language sql stable
return (
    select pg_catalog.array_agg(a.attname::text order by k.n)
    from pg_catalog.pg_index i
    cross join pg_catalog.unnest(i.indkey::smallint[]) with ordinality as k (number, n)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
    where i.indrelid = tbl and i.indisprimary and k.n <= i.indnkeyatts
);

create or replace function observer.job_queue_of(listener text) returns integer
language sql stable
return (select q.id from observer.job_queue q where q.listener = job_queue_of.listener);

-- These are bound whenever they run, in whosever session; the first two once for each row, where a
-- setting of their own would cost as much as they do.
create or replace function observer.composite_key(image json, columns text[]) returns text
language plpgsql immutable parallel safe
as $$
begin
    return (
        select pg_catalog.json_agg(image operator(pg_catalog.->) name order by n)
        from pg_catalog.unnest(columns) with ordinality as c (name, n)
    );
end
$$;

create or replace function observer.without(image json, hidden text[]) returns json
language plpgsql immutable parallel safe
as $$
declare
    kept text;
begin
    select coalesce(pg_catalog.json_object_agg(key, value), '{}'::json) into kept
    from pg_catalog.json_each(observer.readable(image)) where key operator(pg_catalog.<>) all (hidden);
    return case
        when pg_catalog.strpos(image::text, E'\\u'::text) operator(pg_catalog.=) 0 then kept
        else pg_catalog.replace(kept, E'\\u0075'::text, E'\\u'::text)
    end;
end
$$;

alter function observer.entity_of(oid) set search_path = pg_catalog, pg_temp;
alter function observer.hidden(oid, json) set search_path = pg_catalog, pg_temp;

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
        pg_catalog.convert_from(
            substring(t.tgargs for position('\x00'::bytea in t.tgargs) - 1), pg_catalog.getdatabaseencoding()
        )::json as options
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_class c on c.oid = t.tgrelid
    where t.tgfoid = 'observer.log_update()'::regprocedure and not c.relispartition
) triggers;

-- Only where there is anything to mend, as that waits for all who write to the table. What belongs to
-- Postgres itself is not among the dependencies.
do $$
declare
    bound record;
begin
    for bound in
        select distinct c.oid::regclass as tbl, a.attname as name, p.proname as function
        from pg_attrdef d
        join pg_depend r on r.classid = 'pg_attrdef'::regclass and r.objid = d.oid and r.refclassid = 'pg_proc'::regclass
        join pg_proc p on p.oid = r.refobjid
        join pg_class c on c.oid = d.adrelid
        join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
        where c.relnamespace = 'observer'::regnamespace
    loop
        execute format(
            'alter table %s alter column %I set default pg_catalog.%I(%s)', bound.tbl, bound.name, bound.function,
            case when bound.function = 'nextval' then quote_literal('observer.change_log_id') || '::regclass' end);
    end loop;
end
$$;
