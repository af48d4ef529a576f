//! The table of a backfill: a unique key to page by, and the statement that reads a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sqlx::postgres::types::Oid;
use sqlx::{PgConnection, Row};

use super::request::BackfillFilter;
use crate::tracking::NAMED;

/// Bytes of a page's rows in the table at most, about.
const MAX_PAGE_BYTES: i64 = 16 << 20;

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The database does not answer, or refuses.
    #[error("{}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// There is none of that name.
    #[error("there is no table {0}; name it with its schema, as public.orders")]
    Missing(String),
    /// It is something else.
    #[error("{0} is not a table")]
    NotTable(String),
    /// It is part of another one.
    #[error("{0} is a partition; its rows are those of {1}")]
    Partition(String, String),
    /// There is nothing to page by.
    #[error(
        "{0} has no primary key and no other unique index of columns that are not null, which pages are read by: add one"
    )]
    NoKey(String),
    /// A filter names no column.
    #[error("{table} has no column {column}; a filter names one as it is, without quotes")]
    NoColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A filter compares otherwise.
    #[error("a filter compares by {0:?}; write one of = != < <= > >=")]
    Operator(String),
}

/// A column, as SQL names it and its type.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SqlColumn {
    name: String,
    of_type: String,
    /// The schema of its comparisons, where that is an extension's; those of Postgres would compare as another type.
    operators: Option<String>,
}

impl SqlColumn {
    fn operator(&self, sign: &str) -> String {
        match &self.operators {
            Some(schema) => format!("operator({schema}.{sign})"),
            None => sign.to_owned(),
        }
    }
}

/// A table with a unique key.
#[derive(Clone, Debug)]
pub(crate) struct KeyedTable {
    /// Its number.
    pub(crate) oid: u32,
    /// Its name.
    entity: String,
    /// What the planner takes for the number of its rows.
    pub(crate) estimated_rows: i64,
    /// Bytes of a row on average, about; nothing where the table was never analyzed.
    row_bytes: Option<i64>,
    /// Changes with the definition of the table.
    version: String,
    /// As SQL selects from it, without the tables that inherit from it.
    from: String,
    key: Vec<SqlColumn>,
    /// Names of the columns of the key, as they are.
    pub(crate) key_columns: Vec<String>,
    columns: BTreeMap<String, SqlColumn>,
}

/// A page to read: `$1` is the key of the last row before it (text[]), `$2` the constants of filters (text[]), `$3` the
/// number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageSelect {
    /// What follows `select ...`, with the rows of the table as `t`.
    pub(crate) from: String,
    /// The key of a row, as text[].
    pub(crate) key: String,
}

/// Columns of a table, with the schema of their type's own comparisons if that is not `pg_catalog`.
const COLUMNS: &str = "
    with recursive base as (
        select a.attnum, a.attname, a.atttypid, a.atttypid as type
        from pg_attribute a where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
        union all
        select b.attnum, b.attname, b.atttypid, t.typbasetype
        from base b join pg_type t on t.oid = b.type where t.typtype = 'd'
    )
    select attname::text, quote_ident(attname), format_type(atttypid, -1), (
        select quote_ident(n.nspname)
        from base d
        join pg_opclass c on c.opcintype = d.type and c.opcdefault and c.opcmethod = 403
        join pg_amop o on o.amopfamily = c.opcfamily and o.amoplefttype = c.opcintype
            and o.amoprighttype = c.opcintype and o.amopstrategy = 5
        join pg_operator p on p.oid = o.amopopr
        join pg_namespace n on n.oid = p.oprnamespace
        where d.attnum = b.attnum and n.nspname <> 'pg_catalog'
        limit 1)
    from base b where type = atttypid";

/// The unique indexes of a table over columns that are never null, the primary key first.
const KEY: &str = "
    select array_agg(a.attname::text order by k.n)
    from (
        select i.indexrelid, i.indrelid, i.indkey::smallint[] as columns, i.indnkeyatts
        from pg_index i
        where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
          and not exists (
              select from unnest(i.indkey::smallint[]) with ordinality as k (number, n)
              join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
              where k.n <= i.indnkeyatts and not a.attnotnull)
        order by not i.indisprimary, not i.indisreplident, i.indnkeyatts, i.indexrelid limit 1
    ) chosen
    cross join unnest(chosen.columns) with ordinality as k (number, n)
    join pg_attribute a on a.attrelid = chosen.indrelid and a.attnum = k.number
    where k.n <= chosen.indnkeyatts";

/// What changes with the definition of a table, its columns and its indexes.
const VERSION: &str = "
    select concat_ws('/', c.xmin,
        (select string_agg(concat(a.attnum, '.', a.xmin), ',' order by a.attnum) from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0),
        (select string_agg(concat(i.indexrelid, '.', i.xmin), ',' order by i.indexrelid) from pg_index i
         where i.indrelid = c.oid))
    from pg_class c where c.oid = $1";

impl KeyedTable {
    /// Whether the table is still defined as it was when it was looked for.
    pub(crate) async fn is_current(&self, by: &mut PgConnection) -> Result<bool, TableError> {
        let version = sqlx::query_scalar(VERSION).bind(Oid(self.oid));
        let version: Option<String> = version.fetch_optional(by).await?;
        Ok(version.as_ref() == Some(&self.version))
    }

    /// Looks for a table by its name.
    pub(crate) async fn find(by: &mut PgConnection, entity: &str) -> Result<Self, TableError> {
        let sql = format!(
            "with named as ({NAMED})
             select n.oid, n.relkind::text, n.relispartition, pg_partition_root(n.oid)::regclass::text,
                 quote_ident(s.nspname) || '.' || quote_ident(c.relname),
                 (select sum(greatest(m.reltuples, 0))::bigint from pg_class m
                  where m.oid in (select n.oid union select relid from pg_partition_tree(n.oid)) and m.relkind = 'r'),
                 (select (sum(pg_table_size(m.oid)) / nullif(sum(greatest(m.reltuples, 0)), 0))::bigint from pg_class m
                  where m.oid in (select n.oid union select relid from pg_partition_tree(n.oid)) and m.relkind = 'r')
             from named n join pg_class c on c.oid = n.oid join pg_namespace s on s.oid = c.relnamespace
             where n.entity = $1"
        );
        let found = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(entity)
            .fetch_optional(&mut *by)
            .await?;
        let row = found.ok_or_else(|| TableError::Missing(entity.to_owned()))?;
        let (oid, kind): (Oid, String) = (row.try_get(0)?, row.try_get(1)?);
        if kind != "r" && kind != "p" {
            return Err(TableError::NotTable(entity.to_owned()));
        }
        if row.try_get(2)? {
            return Err(TableError::Partition(entity.to_owned(), row.try_get(3)?));
        }
        let name: String = row.try_get(4)?;
        let version = sqlx::query_scalar(VERSION).bind(oid);
        let version = version.fetch_one(&mut *by).await?;
        let columns: Vec<(String, String, String, Option<String>)> = sqlx::query_as(COLUMNS)
            .bind(oid)
            .fetch_all(&mut *by)
            .await?;
        let columns: BTreeMap<String, SqlColumn> = columns
            .into_iter()
            .map(|(plain, name, of_type, operators)| {
                let column = SqlColumn {
                    name,
                    of_type,
                    operators,
                };
                (plain, column)
            })
            .collect();
        let key: Option<Vec<String>> = sqlx::query_scalar(KEY)
            .bind(oid)
            .fetch_one(&mut *by)
            .await?;
        let key = key.ok_or_else(|| TableError::NoKey(entity.to_owned()))?;
        Ok(Self {
            oid: oid.0,
            entity: entity.to_owned(),
            version,
            row_bytes: row.try_get(6)?,
            estimated_rows: row.try_get::<Option<i64>, _>(5)?.unwrap_or(0),
            from: if kind == "r" {
                format!("only {name}")
            } else {
                name
            },
            key: key
                .iter()
                .filter_map(|name| columns.get(name).cloned())
                .collect(),
            key_columns: key,
            columns,
        })
    }

    /// Whether rows are read by the columns that they were read by before, if they were.
    pub(crate) fn has_key(&self, before: Option<&Vec<String>>) -> bool {
        before.is_none_or(|before| *before == self.key_columns)
    }

    /// Returns the columns that tell rows of one key apart; nothing where the key of their events does.
    pub(crate) fn beyond(&self, key: &[String]) -> Option<Vec<String>> {
        let has_all = self.key_columns.iter().all(|column| key.contains(column));
        (!has_all).then(|| self.key_columns.clone())
    }

    /// Returns how many rows a page may have that is to have this many, so that it is not too large.
    pub(crate) fn bounded(&self, rows: u32) -> u32 {
        let most = self.row_bytes.map(|bytes| MAX_PAGE_BYTES / bytes.max(1));
        let most = most.and_then(|most| u32::try_from(most.max(1)).ok());
        rows.min(most.unwrap_or(rows))
    }

    /// Returns the statement of a page, after a row or from the beginning, with a condition of SQL if there is one.
    pub(crate) fn page(
        &self,
        filters: &[BackfillFilter],
        is_first: bool,
        condition: Option<&str>,
    ) -> Result<PageSelect, TableError> {
        let columns = self.listed(|_, column| format!("t.{}", column.name));
        let mut from = format!("from {} t where true", self.from);
        if !is_first {
            // A text can always be written.
            let _ = write!(from, " and {}", self.after());
        }
        for (n, filter) in filters.iter().enumerate() {
            let Some(column) = self.columns.get(&filter.column) else {
                return Err(TableError::NoColumn {
                    table: self.entity.clone(),
                    column: filter.column.clone(),
                });
            };
            let operator = filter.known_operator();
            let operator = operator.ok_or_else(|| TableError::Operator(filter.operator.clone()))?;
            let operator = column.operator(if operator == "!=" { "<>" } else { operator });
            let (name, of_type) = (&column.name, &column.of_type);
            let _ = write!(
                from,
                " and t.{name} {operator} ($2::text[])[{}]::{of_type}",
                n + 1
            );
        }
        if let Some(condition) = condition {
            let _ = write!(from, " and ({condition})");
        }
        let _ = write!(from, " order by {columns} limit $3");
        let key = self.listed(|_, column| format!("t.{}::text", column.name));
        Ok(PageSelect {
            from,
            key: format!("array[{key}]::text[]"),
        })
    }

    fn listed(&self, of: impl Fn(usize, &SqlColumn) -> String) -> String {
        let parts = self.key.iter().enumerate();
        let parts: Vec<String> = parts.map(|(n, column)| of(n, column)).collect();
        parts.join(", ")
    }

    /// Returns the condition of rows after the last key.
    fn after(&self) -> String {
        let last =
            |n: usize, column: &SqlColumn| format!("($1::text[])[{}]::{}", n + 1, column.of_type);
        if self.key.iter().all(|column| column.operators.is_none()) {
            let columns = self.listed(|_, column| format!("t.{}", column.name));
            return format!("({columns}) > ({})", self.listed(last));
        }
        // Operators of several schemas cannot compare a row at once. The first column alone is for its index.
        let mut condition = String::new();
        for (n, column) in self.key.iter().enumerate().rev() {
            let (name, last) = (&column.name, last(n, column));
            let (more, equal) = (column.operator(">"), column.operator("="));
            condition = if condition.is_empty() {
                format!("t.{name} {more} {last}")
            } else {
                let first = if n == 0 {
                    format!("t.{name} {} {last} and ", column.operator(">="))
                } else {
                    String::new()
                };
                format!(
                    "{first}(t.{name} {more} {last} or t.{name} {equal} {last} and {condition})"
                )
            };
        }
        condition
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn orders() -> KeyedTable {
        let column = |name: &str, of_type: &str| SqlColumn {
            name: name.to_owned(),
            of_type: of_type.to_owned(),
            operators: (of_type == "public.citext").then(|| "public".to_owned()),
        };
        KeyedTable {
            oid: 1,
            entity: "public.orders".to_owned(),
            estimated_rows: 0,
            version: String::new(),
            row_bytes: None,
            from: "only public.orders".to_owned(),
            key: vec![column("org", "text"), column("\"Id\"", "bigint")],
            key_columns: vec!["org".to_owned(), "Id".to_owned()],
            columns: BTreeMap::from([("Id".to_owned(), column("\"Id\"", "bigint"))]),
        }
    }

    #[test]
    fn pages_continue_after_the_last_key_and_bind_all_values() {
        let filters = ["Id>=5".parse().unwrap()];
        let page = orders().page(&filters, false, Some("a or b")).unwrap();
        assert_eq!(
            page.from,
            "from only public.orders t where true and (t.org, t.\"Id\") > (($1::text[])[1]::text, \
             ($1::text[])[2]::bigint) and t.\"Id\" >= ($2::text[])[1]::bigint and (a or b) \
             order by t.org, t.\"Id\" limit $3"
        );
        assert_eq!(page.key, "array[t.org::text, t.\"Id\"::text]::text[]");
        let first = orders().page(&[], true, None).unwrap();
        assert_eq!(
            first.from,
            "from only public.orders t where true order by t.org, t.\"Id\" limit $3"
        );
    }

    #[test]
    fn rows_are_told_apart_by_the_columns_that_their_key_lacks() {
        let beyond = |key: &[&str]| {
            let key: Vec<String> = key.iter().map(|&name| name.to_owned()).collect();
            orders().beyond(&key)
        };
        let all = Some(vec!["org".to_owned(), "Id".to_owned()]);
        assert_eq!(beyond(&["Id", "org"]), None);
        assert_eq!(beyond(&["day", "org", "Id"]), None);
        assert_eq!((beyond(&["org"]), beyond(&[])), (all.clone(), all));
    }

    #[test]
    fn pages_of_long_rows_have_few() {
        let of = |row_bytes, rows| {
            KeyedTable {
                row_bytes,
                ..orders()
            }
            .bounded(rows)
        };
        assert_eq!(
            (of(None, 500), of(Some(0), 500), of(Some(100), 500)),
            (500, 500, 500)
        );
        assert_eq!((of(Some(1 << 20), 500), of(Some(1 << 30), 500)), (16, 1));
    }

    #[test]
    fn types_of_extensions_are_compared_by_their_own_operators() {
        let mut table = orders();
        table.key[0].of_type = "public.citext".to_owned();
        table.key[0].operators = Some("public".to_owned());
        let (org, id) = ("($1::text[])[1]::public.citext", "($1::text[])[2]::bigint");
        assert_eq!(
            table.after(),
            format!(
                "t.org operator(public.>=) {org} and (t.org operator(public.>) {org} \
                 or t.org operator(public.=) {org} and t.\"Id\" > {id})"
            )
        );
        table.key.pop();
        assert_eq!(table.after(), format!("t.org operator(public.>) {org}"));
    }

    #[test]
    fn filters_of_no_column_or_another_operator_are_refused() {
        let refused = |column: &str, operator: &str| {
            let filter = BackfillFilter {
                column: column.to_owned(),
                operator: operator.to_owned(),
                value: "1".to_owned(),
            };
            orders()
                .page(&[filter], true, None)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("id", "=").contains("has no column id"));
        assert!(refused("Id", "= 1 or 1 =").contains("write one of"));
    }
}
