-- The trace that a change was made in: a W3C trace context (`traceparent`), kept with each event of a statement.
--
-- It comes from the setting observer.traceparent, or else from a comment of the form of sqlcommenter at the end of
-- the statement. Whatever cannot be read is no context: a write never fails because of it.

-- The text, where it has the form of a trace context. Without regular expressions, which cost several times as much.
create or replace function observer.valid_traceparent(traceparent text) returns text
language sql immutable
return case
    when pg_catalog.octet_length(traceparent) = 55
        and traceparent like '__-________________________________-________________-__'::text
        and pg_catalog.translate(traceparent, '0123456789abcdef'::text, ''::text) = '---'::text then traceparent
end;

-- That of the last comment of a statement which ends with it, as /*key='value',traceparent='00-...'*/. Only the
-- last 2048 characters are looked at.
create or replace function observer.comment_traceparent(query text) returns text
language plpgsql immutable
as $$
declare
    tail text := pg_catalog.rtrim(pg_catalog."right"(query, 2048), E' \t\r\n\f;');
    place int;
begin
    if pg_catalog."right"(tail, 2) operator(pg_catalog.<>) '*/' then return null; end if;
    tail := pg_catalog.replace(pg_catalog.split_part(tail, '/*', -1), ' ', '');
    place := pg_catalog.strpos(pg_catalog.concat(',', tail), ',traceparent=''');
    if place operator(pg_catalog.=) 0
        or pg_catalog.substr(tail, place operator(pg_catalog.+) 68, 1) operator(pg_catalog.<>) ''''
    then
        return null;
    end if;
    return observer.valid_traceparent(pg_catalog.substr(tail, place operator(pg_catalog.+) 13, 55));
end
$$;

-- That of a long message of the client, which may have many statements and let triggers fire for each of its rows.
-- It is looked for once and kept with the time of the message. Who sets this by hand misleads nobody but himself.
create or replace function observer.long_message_traceparent() returns text
language plpgsql volatile
as $$
declare
    kept text := pg_catalog.current_setting('observer.long_message', true);
    message text := pg_catalog.concat(pg_catalog.statement_timestamp(), ' ');
    found text;
begin
    if pg_catalog.starts_with(kept, message) then
        return observer.valid_traceparent(pg_catalog.substr(kept, pg_catalog.length(message) operator(pg_catalog.+) 1));
    end if;
    if pg_catalog.strpos(pg_catalog.current_query(), 'traceparent=') operator(pg_catalog.>) 0 then
        found := observer.comment_traceparent(pg_catalog.current_query());
    end if;
    perform pg_catalog.set_config('observer.long_message', pg_catalog.concat(message, found), true);
    return found;
end
$$;

-- The context of the statement that runs.
create or replace function observer.current_traceparent() returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        observer.valid_traceparent(current_setting('observer.traceparent', true)),
        case
            when current_setting('observer.long_message', true) <> '' then observer.long_message_traceparent()
            when octet_length(current_query()) > 8192 then observer.long_message_traceparent()
            when strpos(current_query(), 'traceparent=') > 0 then observer.comment_traceparent(current_query())
        end);
end
$$;

-- A reader of the write-ahead log does not see settings, so it is told by a message, if there may be one and the
-- server takes it.
create or replace function observer.trace(traceparent text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    context text := observer.valid_traceparent(trace.traceparent);
    before text := coalesce(current_setting('observer.traceparent', true), '');
begin
    perform set_config('observer.traceparent', coalesce(context, ''), true);
    -- A message makes the transaction one that writes.
    if before <> coalesce(context, '') and current_setting('wal_level') = 'logical' and not pg_is_in_recovery()
        and current_setting('transaction_read_only') = 'off'
        and exists (
            select from pg_replication_slots where plugin = 'pgoutput' and database = current_database()
        )
        and not exists (
            select from pg_proc
            where proname = 'pg_logical_emit_message' and pronamespace = 'pg_catalog'::regnamespace
                and not has_function_privilege(oid, 'execute')
        )
    then
        -- Not in a subtransaction of its own, as of a block with an exception: it could be decoded after the next change.
        perform pg_logical_emit_message(true, 'observer.trace', coalesce(context, ''));
    end if;
    return context is not null;
end
$$;

comment on function observer.trace is
'Takes a W3C trace context, as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01, as that of all further
events of the transaction: their deliveries continue that trace. Returns whether the text is one; any other text, and
null, ends what was given before. It never fails, so that no write fails because of tracing.';
