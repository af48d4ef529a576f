-- Locks that only roles of this schema can take.

-- Waits for it, and holds it until the transaction ends.
create or replace function observer.lock(mutex text) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    loop
        perform from observer.mutex m where m.name = lock.mutex for update;
        exit when found;
        insert into observer.mutex (name) values (lock.mutex) on conflict do nothing;
    end loop;
end
$$;

-- Whether nobody else had it; it is held until the transaction ends then.
create or replace function observer.try_lock(mutex text) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    perform from observer.mutex m where m.name = try_lock.mutex for update skip locked;
    if found then return true; end if;
    if exists (select from observer.mutex m where m.name = try_lock.mutex) then return false; end if;
    begin
        insert into observer.mutex (name) values (try_lock.mutex) on conflict do nothing;
    exception when lock_not_available then
        -- Somebody else is the first to have it.
        return false;
    end;
    perform from observer.mutex m where m.name = try_lock.mutex for update skip locked;
    return found;
end
$$;

revoke all on function observer.lock, observer.try_lock from public;
