//! The catalog of the source's database: types, and the keys of the tables that are published.

use std::collections::BTreeMap;

use pgoutput::{TypeCatalog, TypeEntry};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;
use sqlx::{PgConnection, PgPool, Row};

use super::error::IngestError;
use crate::delivery::entity;

/// What is known of the source's tables.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Its types.
    pub(crate) types: TypeCatalog,
    /// Its published tables, by their number.
    pub(crate) tables: BTreeMap<u32, PublishedTable>,
    /// Number of the publication.
    pub(crate) publication: u32,
}

/// A table of the publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishedTable {
    /// Schema and name of it, or of its root.
    pub(crate) entity: String,
    /// Columns of its primary key.
    pub(crate) primary_key: Vec<String>,
    /// Names and types of its columns.
    pub(crate) columns: Vec<(String, u32)>,
}

/// Fields of composite types, and of rows of tables only where a column is of one.
const FIELDS: &str = "
    select t.oid, a.attname, a.atttypid
    from pg_type t
    join pg_class c on c.oid = t.typrelid
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind = 'c'
       or exists (select from pg_attribute u join pg_type ut on ut.oid = u.atttypid
                  where u.attnum > 0 and (u.atttypid = t.oid or ut.typelem = t.oid or ut.typbasetype = t.oid))
    order by t.oid, a.attnum";

const TYPES: &str = "
    select t.oid, t.typbasetype,
           case when t.typsubscript = 'pg_catalog.array_subscript_handler'::regproc then t.typelem else 0::oid end
               as element,
           t.typdelim::text as delimiter,
           t.oid >= 16384 and exists (
               select from pg_cast c where c.castsource = t.oid and c.casttarget = 'pg_catalog.json'::regtype
           ) as casts
    from pg_type t";

const TABLES: &str = "
    select c.oid,
           array(select a.attname::text
                 from pg_index i
                 cross join unnest(i.indkey::smallint[]) with ordinality as k (number, n)
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                 where i.indrelid = c.oid and i.indisprimary and k.n <= i.indnkeyatts
                 order by k.n) as key,
           array(select a.attname::text from pg_attribute a
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns,
           array(select a.atttypid from pg_attribute a
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as types,
           rn.nspname::text as schema, r.relname::text as name
    from pg_publication_tables p
    join pg_namespace n on n.nspname = p.schemaname
    join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
    join pg_class r on r.oid = coalesce(pg_partition_root(c.oid), c.oid)
    join pg_namespace rn on rn.oid = r.relnamespace
    where p.pubname = $1";

impl Catalog {
    /// Reads the catalog.
    pub(crate) async fn read(pool: &PgPool, publication: &str) -> Result<Self, IngestError> {
        let mut connection = pool.acquire().await.map_err(IngestError::Catalog)?;
        let read = Self::read_by(&mut connection, publication).await;
        read.map_err(IngestError::Catalog)
    }

    /// Reads the catalog in a transaction of the caller's.
    pub(crate) async fn read_by(
        by: &mut PgConnection,
        publication: &str,
    ) -> Result<Self, sqlx::Error> {
        let id = sqlx::query_scalar("select oid from pg_publication where pubname = $1");
        let id: Oid = id.bind(publication).fetch_one(&mut *by).await?;
        Ok(Self {
            types: types(by).await?,
            tables: tables(by, publication).await?,
            publication: id.0,
        })
    }
}

async fn types(by: &mut PgConnection) -> Result<TypeCatalog, sqlx::Error> {
    let mut fields: BTreeMap<u32, Vec<(String, u32)>> = BTreeMap::new();
    for row in sqlx::query(FIELDS).fetch_all(&mut *by).await? {
        let of: Oid = row.try_get(0)?;
        let field: Oid = row.try_get(2)?;
        fields
            .entry(of.0)
            .or_default()
            .push((row.try_get(1)?, field.0));
    }
    let rows = sqlx::query(TYPES).fetch_all(&mut *by).await?;
    let entry = |row: &PgRow| -> Result<(u32, TypeEntry), sqlx::Error> {
        let oid = |column: usize| row.try_get::<Oid, _>(column).map(|oid| oid.0);
        let delimiter: String = row.try_get(3)?;
        let id = oid(0)?;
        Ok((
            id,
            TypeEntry {
                base: oid(1)?,
                element: oid(2)?,
                delimiter: delimiter.chars().next().unwrap_or(','),
                fields: fields.get(&id).cloned(),
                casts_to_json: row.try_get(4)?,
            },
        ))
    };
    rows.iter().map(entry).collect()
}

async fn tables(
    by: &mut PgConnection,
    publication: &str,
) -> Result<BTreeMap<u32, PublishedTable>, sqlx::Error> {
    let rows = sqlx::query(TABLES).bind(publication).fetch_all(by).await?;
    let table = |row: &PgRow| -> Result<(u32, PublishedTable), sqlx::Error> {
        let id: Oid = row.try_get(0)?;
        let names: Vec<String> = row.try_get(2)?;
        let types: Vec<Oid> = row.try_get(3)?;
        let (schema, name): (String, String) = (row.try_get(4)?, row.try_get(5)?);
        Ok((
            id.0,
            PublishedTable {
                entity: entity::join(&schema, &name),
                primary_key: row.try_get(1)?,
                columns: names
                    .into_iter()
                    .zip(types.iter().map(|one| one.0))
                    .collect(),
            },
        ))
    };
    rows.iter().map(table).collect()
}
