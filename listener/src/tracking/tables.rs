//! The tables of a database, as observers name them.

use std::collections::BTreeMap;

use crds::config::{SourceTableConfig, TableContents, WalSourceConfig};
use sqlx::PgPool;

use super::step::{Step, StepFailure};
use crate::delivery::entity;

/// A table, or a relation with a name like one.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub(super) struct Table {
    /// `schema.table`, as in events.
    pub(super) entity: String,
    /// What it is, as the catalog has it: `r` and `p` are tables.
    pub(super) kind: String,
    /// The partitioned table under whose name its changes are logged, for a partition.
    pub(super) root: Option<String>,
    pub(super) is_tracked: bool,
    pub(super) tenant: Option<String>,
    pub(super) exclude: Vec<String>,
    pub(super) trouble: Option<String>,
    pub(super) columns: Vec<String>,
    /// The publication that its changes are read by, where they are not logged by triggers.
    #[sqlx(default)]
    pub(super) publication: Option<String>,
}

/// Tables of a database.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Those that were asked for, by name.
    pub(super) known: BTreeMap<String, Table>,
    /// The names of all tables, where one that is asked for does not exist; those that are tracked
    /// come first.
    pub(super) names: Vec<String>,
    /// Schemas with a log of entities, whose entities are no tables.
    pub(super) entity_logs: Vec<String>,
    /// Why tables that are listed are not tracked so, by name.
    pub(super) failures: BTreeMap<String, StepFailure>,
}

/// Tables and relations with names like theirs, by entity. Of a partition `entity_of` gives the root, so the own name is put together here.
pub(crate) const NAMED: &str = "
    select c.oid, c.relkind, c.relispartition,
        concat_ws('.',
            case when n.nspname ~ '[.\"]' then quote_ident(n.nspname) else n.nspname end,
            case when c.relname ~ '[.\"]' then quote_ident(c.relname) else c.relname end) as entity
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f')
        and n.nspname not in ('pg_catalog', 'information_schema', 'observer')
        and n.nspname !~ '^pg_(toast|temp)'";

impl Tables {
    /// Looks for the tables of these names.
    pub(super) async fn find<'n>(
        pool: &PgPool,
        entities: impl Iterator<Item = &'n str>,
    ) -> Result<Self, sqlx::Error> {
        let entities: Vec<&str> = entities.collect();
        let sql = format!(
            "with named as ({NAMED})
             select n.entity, n.relkind::text as kind,
                 case when n.relispartition then observer.entity_of(n.oid) end as root,
                 t.tbl is not null as is_tracked, t.tenant, coalesce(t.exclude, '{{}}') as exclude, t.trouble,
                 array(
                     select a.attname::text from pg_attribute a
                     where a.attrelid = n.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
                 ) as columns
             from named n left join observer.tracked t on t.tbl = n.oid
             where n.entity = any ($1)"
        );
        let found: Vec<Table> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&entities)
            .fetch_all(pool)
            .await?;
        let known: BTreeMap<String, Table> = found
            .into_iter()
            .map(|table| (table.entity.clone(), table))
            .collect();
        let names = if entities.iter().all(|entity| known.contains_key(*entity)) {
            Vec::new()
        } else {
            let sql = format!(
                "with named as ({NAMED})
                 select n.entity from named n
                 left join (select tgrelid from pg_trigger where tgfoid = 'observer.log_update()'::regprocedure) t
                     on t.tgrelid = n.oid
                 where n.relkind in ('r', 'p') and not n.relispartition
                 group by n.entity order by bool_and(t.tgrelid is null), n.entity"
            );
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_all(pool)
                .await?
        };
        let entity_logs = sqlx::query_scalar(
            "select distinct n.nspname::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
             join pg_namespace n on n.oid = c.relnamespace
             where t.tgfoid = 'observer.log_entity_changes()'::regprocedure",
        )
        .fetch_all(pool)
        .await?;
        Ok(Self {
            known,
            names,
            entity_logs,
            failures: BTreeMap::new(),
        })
    }

    /// Takes tables that are listed to be tracked so, but for those whose steps failed.
    pub(super) fn with_listed(mut self, (listed, steps): (&[SourceTableConfig], &[Step])) -> Self {
        for (config, step) in listed.iter().zip(steps) {
            if let Some(failure) = step.failure() {
                self.failures.insert(config.table.clone(), failure.clone());
            } else if config.contents == TableContents::EntityChanges {
                let schema = entity::split(&config.table).map(|(schema, _)| schema.into_owned());
                self.entity_logs.extend(schema);
            } else if let Some(table) = self.known.get_mut(&config.table) {
                table.is_tracked = true;
                table.tenant.clone_from(&config.tenant);
                table.exclude.clone_from(&config.exclude);
            }
        }
        self
    }

    /// Looks for the tables of these names in the database of a source, which need not have the schema `observer`.
    pub(super) async fn find_published<'n>(
        pool: &PgPool,
        source: &WalSourceConfig,
        entities: impl Iterator<Item = &'n str>,
    ) -> Result<Self, sqlx::Error> {
        let entities: Vec<&str> = entities.collect();
        let sql = format!(
            "with named as ({NAMED}), published as (
                 select c.oid from pg_publication_tables p
                 join pg_namespace n on n.nspname = p.schemaname
                 join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
                 where p.pubname = $2
             )
             select n.entity, n.relkind::text as kind,
                 case when n.relispartition then pg_partition_root(n.oid)::regclass::text end as root,
                 p.oid is not null as is_tracked, null as tenant, '{{}}'::text[] as exclude,
                 case when exists (
                     select from pg_class m where m.relreplident <> 'f' and m.relkind = 'r'
                     and m.oid in (select n.oid union select relid from pg_partition_tree(n.oid))
                 ) then 'it keeps no whole image of a row before its change: run alter table ' || n.oid::regclass
                     || ' replica identity full' end as trouble,
                 array(
                     select a.attname::text from pg_attribute a
                     where a.attrelid = n.oid and a.attnum > 0 and not a.attisdropped order by a.attnum
                 ) as columns, $2 as publication
             from named n left join published p on p.oid = n.oid
             where n.entity = any ($1)"
        );
        let found: Vec<Table> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(&entities)
            .bind(&source.publication)
            .fetch_all(pool)
            .await?;
        let mut known = BTreeMap::new();
        for mut table in found {
            if let Some(config) = source.tables.iter().find(|one| one.table == table.entity) {
                table.tenant.clone_from(&config.tenant);
                table.exclude.clone_from(&config.exclude);
            }
            known.insert(table.entity.clone(), table);
        }
        let names = if entities.iter().all(|entity| known.contains_key(*entity)) {
            Vec::new()
        } else {
            let sql = format!(
                "with named as ({NAMED}) select n.entity from named n
                 where n.relkind in ('r', 'p') and not n.relispartition order by 1"
            );
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_all(pool)
                .await?
        };
        let logs = source.tables.iter();
        let logs = logs.filter(|table| table.contents == TableContents::EntityChanges);
        let schemas = logs.filter_map(|table| Some(entity::split(&table.table)?.0.into_owned()));
        Ok(Self {
            known,
            names,
            entity_logs: schemas.collect(),
            failures: BTreeMap::new(),
        })
    }
}
