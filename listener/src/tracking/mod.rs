//! Checks whether the database captures what observers watch: an observer of a table that is not tracked,
//! or that does not exist, would never do anything, and a missing column fails each event.

mod finding;
pub mod prepare;
pub mod step;
pub(crate) mod summary;
mod tables;
pub(crate) mod templates;

use crds::config::{ObserverConfig, Operation, SourceTableConfig, WalSourceConfig};
use sqlx::PgPool;

pub use finding::Finding;
pub(crate) use tables::NAMED;
use tables::Tables;

use crate::matching::Condition;
use step::Step;

/// What an observer needs of the database.
#[derive(Clone, Debug)]
pub struct Needs {
    observer: String,
    entity: String,
    /// Where the entity stands in the resource.
    entity_path: String,
    operations: Vec<Operation>,
    has_tenant: bool,
    /// Columns, each with the place in the resource where it is used.
    columns: Vec<(String, String)>,
}

impl Needs {
    /// Returns what an observer with this condition needs, first for its events and then for its caches.
    #[must_use]
    pub fn all_of(config: &ObserverConfig, condition: Option<&Condition>) -> Vec<Self> {
        let mut all = vec![Self::of(config, condition)];
        let lookups = config.enrich.iter().enumerate();
        let lookups =
            lookups.filter_map(|(n, one)| Some((format!("spec.enrich[{n}]"), one.cache.as_ref()?)));
        let actions = config.actions.iter().enumerate();
        let actions = actions
            .filter_map(|(n, one)| Some((format!("spec.actions[{n}]"), one.cache.as_ref()?)));
        for (place, cache) in lookups.chain(actions) {
            for (n, change) in cache.invalidate_on.iter().enumerate() {
                all.push(Self {
                    observer: config.identity(),
                    entity: change.entity.clone(),
                    entity_path: format!("{place}.cache.invalidateOn[{n}].entity"),
                    operations: Operation::ALL.to_vec(),
                    has_tenant: false,
                    columns: Vec::new(),
                });
            }
        }
        all
    }

    fn of(config: &ObserverConfig, condition: Option<&Condition>) -> Self {
        let by_condition = condition.map(Condition::columns).unwrap_or_default();
        let mut columns: Vec<(String, String)> = by_condition
            .into_iter()
            .map(|column| ("spec.when".to_owned(), column.to_owned()))
            .collect();
        for (n, action) in config.actions.iter().enumerate() {
            for (place, found) in templates::columns(action) {
                let place = format!("spec.actions[{n}].{place}");
                columns.extend(found.into_iter().map(|column| (place.clone(), column)));
            }
        }
        Self {
            observer: config.identity(),
            entity: config.entity.clone(),
            entity_path: "spec.events.entity".to_owned(),
            operations: config.operations.clone(),
            has_tenant: config.tenant.is_some(),
            columns,
        }
    }

    /// Returns whether it watches events of `observer.emit`, which have no table.
    fn is_custom(&self) -> bool {
        self.operations.contains(&Operation::Custom)
    }

    /// Returns whether it watches a table.
    fn has_table(&self) -> bool {
        self.operations.iter().any(|one| *one != Operation::Custom)
    }
}

/// Queries a database for what keeps observers from working: that of a source, or else that of the change log,
/// where triggers capture changes. Of the tables that are listed to be tracked, with their steps, those without a
/// failure are taken to be tracked so; a failure is a finding of the listener where no observer needs the table.
pub async fn findings<'n>(
    pool: &PgPool,
    source: Option<&WalSourceConfig>,
    listed: (&[SourceTableConfig], &[Step]),
    needs: impl IntoIterator<Item = &'n Needs>,
) -> Result<Vec<Finding>, sqlx::Error> {
    let needs: Vec<&Needs> = needs.into_iter().filter(|one| one.has_table()).collect();
    let of_listener = finding::of_listener(listed.1, &needs);
    if needs.is_empty() {
        return Ok(of_listener);
    }
    let entities = needs.iter().map(|one| one.entity.as_str());
    let tables = match source {
        Some(source) => Tables::find_published(pool, source, entities).await?,
        None => Tables::find(pool, entities).await?.with_listed(listed),
    };
    let found = needs.into_iter();
    let of_observers = found.flat_map(|one| finding::of(one, &tables));
    Ok(of_observers.chain(of_listener).collect())
}
