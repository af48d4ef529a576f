//! What backfills have read, as the log is read: whom it is for, and whether it still comes before all that it has
//! not seen.
//!
//! A page of rows is written to the log a moment after it was read. A change that was committed in between may come
//! before the page in the order of the log, and then the row is older than what was delivered. So a page is kept with
//! its snapshot, and a row is passed over if there is a change of it that the snapshot has not seen. Where several rows
//! have one key, the columns that the page was read by tell them apart, in the images of row and change.
//!
//! Which of the two comes first depends on the windows that a reader divides the log into, and the process that takes
//! over a shard divides it in another way than the one before. So windows do not decide: a change that is committed now
//! stays committed, and later readers skip the row as well. Only changes that were logged before the page was visible
//! can precede it, up to an id that is stored once.

use std::collections::HashMap;

use crds::config::Operation;
use sqlx::{PgPool, Row};

use super::change_log::{ChangeRecord, LogError, intern};

/// Settles up to which id changes may come before a page: all that see it draw larger ones.
const SETTLE_SQL: &str = "
    with open as materialized (
        select xid from observer.backfill_page
        where xid = any ($1::text[]::xid8[]) and high_id is null and snapshot is not null
        order by xid for update
    )
    update observer.backfill_page p set high_id = present.high_id
    from open, observer.current_bound() present where p.xid = open.xid";

/// Rows of pages for a listener (for any where it is empty), or for all, that have not changed since in the log. The emptying of a
/// table is a change of all its keys.
const CURRENT_SQL: &str = "
    with page as materialized (
        select p.xid, p.observer, p.snapshot, p.low_id, p.high_id, p.row_columns
        from observer.backfill_page p
        where p.xid = any ($1::text[]::xid8[]) and ($2 = '' or p.listener in ($2, ''))
    ), row as materialized (
        select r.*, p.observer, (
                select observer.key_of(l.new, p.row_columns) from observer.change_log l
                where p.row_columns is not null and l.xid = r.xid and l.id = r.id
            ) as row
        from unnest($1::text[]::xid8[], $3::bigint[], $4::integer[], $5::text[], $6::text[], $7::text[])
            as r (xid, id, hash, entity, key, tenant)
        join page p on p.xid = r.xid
    ), compared as materialized (
        select distinct xid, entity from row
    ), unseen as materialized (
        select p.xid as page, c.operation, c.hash, c.entity, c.key, c.tenant, image.row
        from page p
        join compared on compared.xid = p.xid
        cross join lateral (
            select c.operation, c.hash, c.entity, c.key, c.tenant, c.old, c.new from observer.change_log c
            where c.id > p.low_id and c.id <= coalesce(p.high_id, 9223372036854775807)
              and c.xid >= pg_snapshot_xmax(p.snapshot)
            union all
            select c.* from pg_snapshot_xip(p.snapshot) as open (xid)
            cross join lateral (
                select c.operation, c.hash, c.entity, c.key, c.tenant, c.old, c.new from observer.change_log c
                where c.xid = open.xid and c.id <= coalesce(p.high_id, 9223372036854775807) offset 0
            ) c
        ) c
        cross join lateral (
            select null::text as row where p.row_columns is null or c.operation = 't'
            union all
            select observer.key_of(i.image, p.row_columns) from (values (c.old), (c.new)) as i (image)
            where p.row_columns is not null and c.operation <> 't' and i.image is not null
        ) image
        where c.operation not in ('r', 'c') and c.entity = compared.entity
    )
    select r.id, r.observer
    from row r
    where not exists (
        select from unseen c where c.page = r.xid and c.entity = r.entity and c.operation = 't'
    ) and not exists (
        select from unseen c
        where c.page = r.xid and c.entity = r.entity and c.operation <> 't' and c.hash = r.hash
          and c.key is not distinct from r.key and c.tenant is not distinct from r.tenant
          and c.row is not distinct from r.row
    )";

/// Settles up to which id changes are compared with pages, once they are committed.
pub(crate) async fn settle(pool: &PgPool, xids: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query(SETTLE_SQL)
        .bind(xids)
        .execute(pool)
        .await
        .map(drop)
}

/// Removes what other listeners have asked for, and what may be older than an event before it.
pub(super) async fn keep_current(
    pool: &PgPool,
    records: &mut Vec<ChangeRecord>,
    listener: &str,
) -> Result<(), LogError> {
    let is_read = |record: &ChangeRecord| record.event.operation == Operation::Read;
    let read = || records.iter().filter(|record| is_read(record));
    let xids: Vec<String> = read().map(|record| record.xid.to_string()).collect();
    if xids.is_empty() {
        return Ok(());
    }
    // Who only looks may have no right to.
    if !listener.is_empty() {
        settle(pool, &xids).await?;
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
