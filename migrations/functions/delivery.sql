-- Deliveries that take effect in this database.

-- Claims a delivery for the transaction; false where it took effect before. Where another transaction
-- has claimed it, this waits for what becomes of that.
create or replace function observer.claim_delivery(listener text, delivery_id text) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Rows of listeners that nobody runs would be kept for ever.
    if octet_length(claim_delivery.delivery_id) is distinct from 64
        or not exists (select from observer.checkpoint c where c.listener = claim_delivery.listener)
    then
        raise exception 'no such listener or delivery' using errcode = 'invalid_parameter_value';
    end if;
    insert into observer.processed_delivery (listener, delivery_id)
    values (claim_delivery.listener, claim_delivery.delivery_id) on conflict do nothing;
    return found;
end
$$;

revoke all on function observer.claim_delivery from public;

comment on function observer.claim_delivery is
'Claims a delivery whose statement runs in the same transaction. Returns false if the delivery took effect
before. The login of spec.egress.ownDatabase needs: grant usage on schema observer, grant execute on
function observer.claim_delivery.';
