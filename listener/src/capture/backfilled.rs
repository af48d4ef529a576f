//! What backfills have read, as the log is read: whom it is for, and whether it still comes before all that it has
//! not seen.
//!
//! A page of rows is written to the log a moment after it was read. A change that was committed in between may come
//! before the page in the order of the log, and then the row is older than what was delivered. Whether it does is
//! known only here, as each reader divides the log into windows of its own. So a page is kept with its snapshot, and
//! a row is passed over if a change of its key that the snapshot has not seen comes before it.

use std::collections::HashMap;

use crds::config::Operation;
use sqlx::{PgPool, Row};

use super::change_log::{ChangeRecord, LogError, intern};
use super::position::Window;

/// Rows of pages for a listener (for all where it is empty) that no change comes before that their page has not
/// seen. The emptying of a table is a change of all its keys.
const CURRENT_SQL: &str = "
    with page as materialized (
        select p.xid, p.observer, p.snapshot, p.low_id
        from observer.backfill_page p
        where p.xid = any ($1::text[]::xid8[]) and ($2 = '' or p.listener = $2)
    ), row as materialized (
        select * from unnest($1::text[]::xid8[], $3::bigint[], $7::integer[], $8::text[], $9::text[], $10::text[])
            as r (xid, id, hash, entity, key, tenant)
    ), unseen as materialized (
        select p.xid as page, c.id, c.xid, c.operation, c.hash, c.entity, c.key, c.tenant
        from page p
        cross join lateral (
            select c.id, c.xid, c.operation, c.hash, c.entity, c.key, c.tenant from observer.change_log c
            where c.id > p.low_id
              and c.id <= greatest((select max(r.id) from row r where r.xid = p.xid), $4)
              and c.xid >= pg_snapshot_xmax(p.snapshot)
            union all
            select c.id, c.xid, c.operation, c.hash, c.entity, c.key, c.tenant
            from (select open.xid from pg_snapshot_xip(p.snapshot) as open (xid)
                  where pg_visible_in_snapshot(open.xid, $5::pg_snapshot) offset 0) open
            join observer.change_log c on c.xid = open.xid
        ) c
        where c.operation not in ('r', 'c') and pg_visible_in_snapshot(c.xid, $5::pg_snapshot)
    )
    select r.id, p.observer
    from row r
    join page p on p.xid = r.xid
    where not exists (
        select from unseen c
        where c.page = r.xid and c.entity = r.entity
          and (c.operation = 't'
              or c.hash = r.hash and c.key is not distinct from r.key and c.tenant is not distinct from r.tenant)
          and (c.id < r.id or pg_visible_in_snapshot(c.xid, $6::pg_snapshot)))";

/// Removes what other listeners have asked for, and what is older than an event before it.
pub(super) async fn keep_current(
    pool: &PgPool,
    records: &mut Vec<ChangeRecord>,
    window: &Window,
    listener: &str,
) -> Result<(), LogError> {
    let is_read = |record: &ChangeRecord| record.event.operation == Operation::Read;
    let read = || records.iter().filter(|record| is_read(record));
    let xids: Vec<String> = read().map(|record| record.xid.to_string()).collect();
    if xids.is_empty() {
        return Ok(());
    }
    let events = || read().map(|record| &record.event);
    let ids: Vec<i64> = events().map(|event| event.log_id).collect();
    let hashes: Vec<i32> = events().map(|event| event.hash.cast_signed()).collect();
    let entities: Vec<&str> = events().map(|event| &*event.entity).collect();
    let keys: Vec<Option<&str>> = events().map(|event| event.key.as_deref()).collect();
    let tenants: Vec<Option<&str>> = events().map(|event| event.tenant.as_deref()).collect();
    let rows = sqlx::query(CURRENT_SQL)
        .bind(xids)
        .bind(listener)
        .bind(ids)
        .bind(window.from.high_id)
        .bind(window.to.snapshot.to_string())
        .bind(window.from.snapshot.to_string())
        .bind(hashes)
        .bind(entities)
        .bind(keys)
        .bind(tenants)
        .fetch_all(pool)
        .await?;
    let mut current = HashMap::with_capacity(rows.len());
    let mut names = Vec::new();
    for row in &rows {
        let only_for: Option<&str> = row.try_get(1)?;
        let only_for = only_for.map(|name| intern(&mut names, name));
        current.insert(row.try_get::<i64, _>(0)?, only_for);
    }
    records.retain_mut(|record| {
        if !is_read(record) {
            return true;
        }
        let Some(only_for) = current.remove(&record.event.log_id) else {
            return false;
        };
        record.only_for = only_for;
        true
    });
    Ok(())
}
