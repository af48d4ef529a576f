//! How the rows of one table become rows of the change log.

use std::sync::Arc;

use crds::config::{SourceTableConfig, TableContents};
use pgoutput::{Identity, JsonType, OldTuple, Relation, Tuple, Value, write_value};

use super::catalog::{Catalog, PublishedTable};
use crate::delivery::entity;

/// A column of a table.
#[derive(Debug)]
struct PlannedColumn {
    name: String,
    /// The name as JSON, with the colon after it.
    prefix: String,
    kind: JsonType,
    is_excluded: bool,
    /// Whether an old image of the replica identity alone has it.
    is_key: bool,
}

/// How rows of a table are logged.
#[derive(Debug)]
pub(crate) struct TablePlan {
    /// The entity.
    pub(crate) entity: Arc<str>,
    /// What its rows are.
    pub(crate) contents: TableContents,
    /// Its schema.
    pub(crate) schema: String,
    columns: Vec<PlannedColumn>,
    /// Places of the columns of the key; nothing for one that is not there, which counts as null.
    key: Vec<Option<usize>>,
    tenant: Option<usize>,
}

/// A row as it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// All columns that are known, as JSON.
    pub(crate) json: String,
    /// The key.
    pub(crate) key: Option<String>,
    /// The tenant.
    pub(crate) tenant: Option<String>,
}

impl TablePlan {
    /// Plans the rows of a relation.
    pub(crate) fn new(
        relation: &Relation,
        catalog: &Catalog,
        configs: &[SourceTableConfig],
    ) -> Self {
        let published = catalog.tables.get(&relation.id);
        let entity = published.map_or_else(
            || entity::join(&relation.schema, &relation.name),
            |table| table.entity.clone(),
        );
        let config = configs.iter().find(|config| config.table == entity);
        let place = |name: &String| relation.columns.iter().position(|one| one.name == *name);
        let columns = relation.columns.iter().map(|column| {
            let mut prefix = String::new();
            // A text can always be written.
            let _ = write_value(&mut prefix, &JsonType::Text, &column.name);
            prefix.push(':');
            PlannedColumn {
                name: column.name.clone(),
                prefix,
                kind: catalog.types.json_type(column.type_id),
                is_excluded: config.is_some_and(|config| config.exclude.contains(&column.name)),
                is_key: column.is_key,
            }
        });
        Self {
            columns: columns.collect(),
            key: key_of(relation, published, config)
                .iter()
                .map(place)
                .collect(),
            tenant: config.and_then(|config| place(config.tenant.as_ref()?)),
            entity: Arc::from(entity),
            contents: config.map_or(TableContents::Rows, |config| config.contents),
            schema: relation.schema.clone(),
        }
    }

    /// Whether an old image of the replica identity alone has the whole key.
    pub(crate) fn identity_has_key(&self) -> bool {
        let has = |place: &Option<usize>| {
            place.is_some_and(|place| self.columns.get(place).is_some_and(|one| one.is_key))
        };
        self.key.iter().all(has)
    }

    /// Returns the columns of the key.
    pub(crate) fn key_columns(&self) -> Vec<String> {
        let places = self.key.iter().flatten();
        let columns = places.filter_map(|place| self.columns.get(*place));
        columns.map(|column| column.name.clone()).collect()
    }

    /// Returns whether a column is left out of images.
    pub(crate) fn excludes(&self, name: &str) -> bool {
        let mut columns = self.columns.iter();
        columns.any(|column| column.name == name && column.is_excluded)
    }

    /// Returns a row after its change. What was not sent is taken from the row before, if it has it; else it
    /// is left out.
    pub(crate) fn new_image(&self, tuple: &Tuple<'_>, old: Option<&OldTuple<'_>>) -> Image {
        let before = match old {
            Some(OldTuple::Full(before)) => Some(before),
            _ => None,
        };
        self.image(|place| {
            let value = *tuple.get(place)?;
            let before = before.and_then(|before| before.get(place).copied());
            Some(match value {
                Value::Unchanged => before.unwrap_or(value),
                value => value,
            })
        })
    }

    /// Returns a row before its change, with the columns that are known of it.
    pub(crate) fn old_image(&self, old: &OldTuple<'_>) -> Image {
        match old {
            OldTuple::Full(tuple) => self.image(|place| tuple.get(place).copied()),
            OldTuple::Key(tuple) => self.image(|place| {
                let is_key = self.columns.get(place).is_some_and(|one| one.is_key);
                tuple.get(place).copied().filter(|_| is_key)
            }),
        }
    }

    fn image<'a>(&self, value: impl Fn(usize) -> Option<Value<'a>>) -> Image {
        let mut json = String::from("{");
        for (place, column) in self.columns.iter().enumerate() {
            if column.is_excluded {
                continue;
            }
            let Some(value) = value(place).filter(|value| *value != Value::Unchanged) else {
                continue;
            };
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&column.prefix);
            self.write(&mut json, column, value);
        }
        json.push('}');
        let key = match &self.key[..] {
            [one] => one.and_then(|place| self.field(place, value(place))),
            several => Some(self.composite_key(several, &value)),
        };
        let tenant = self
            .tenant
            .and_then(|place| self.field(place, value(place)));
        Image { json, key, tenant }
    }

    fn write(&self, out: &mut String, column: &PlannedColumn, value: Value<'_>) {
        let Value::Text(text) = value else {
            out.push_str("null");
            return;
        };
        let begun = out.len();
        if let Err(error) = write_value(out, &column.kind, text) {
            // Nothing waits for a value that is odd: its text says what it is.
            let (entity, column) = (&self.entity, &column.name);
            tracing::debug!(%entity, column, "{error}; it is logged as its text");
            out.truncate(begun);
            // A text can always be written.
            let _ = write_value(out, &JsonType::Text, text);
        }
    }

    /// The field's text, as `->>` of its image.
    fn field(&self, place: usize, value: Option<Value<'_>>) -> Option<String> {
        let value = value.filter(|value| matches!(value, Value::Text(_)))?;
        let mut json = String::new();
        self.write(&mut json, &self.columns[place], value);
        if json.starts_with('"') {
            return Some(serde_json::from_str(&json).unwrap_or(json));
        }
        (json != "null").then_some(json)
    }

    /// The values as a JSON array, as `json_agg` writes it.
    fn composite_key<'a>(
        &self,
        places: &[Option<usize>],
        value: &impl Fn(usize) -> Option<Value<'a>>,
    ) -> String {
        let mut key = String::from("[");
        for (number, place) in places.iter().enumerate() {
            if number > 0 {
                key.push_str(", ");
            }
            match place.and_then(|place| Some((place, value(place)?))) {
                Some((place, value)) => self.write(&mut key, &self.columns[place], value),
                None => key.push_str("null"),
            }
        }
        key.push(']');
        key
    }
}

/// The columns of a table's key: as configured, else its primary key, else its replica identity.
fn key_of(
    relation: &Relation,
    published: Option<&PublishedTable>,
    config: Option<&SourceTableConfig>,
) -> Vec<String> {
    if let Some(config) = config.filter(|config| !config.key.is_empty()) {
        return config.key.clone();
    }
    match published {
        Some(table) if !table.primary_key.is_empty() => table.primary_key.clone(),
        _ if relation.identity == Identity::Full => Vec::new(),
        _ => {
            let key = relation.columns.iter().filter(|column| column.is_key);
            key.map(|column| column.name.clone()).collect()
        }
    }
}
