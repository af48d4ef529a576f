//! Findings: what keeps an observer from working, with the remedy.

use crds::pod_status::{CAPTURE_BROKEN, COLUMN_MISSING, TABLE_MISSING, TABLE_NOT_TRACKED};

use super::Needs;
use super::step::Step;
use super::tables::{Table, Tables};
use crate::delivery::entity;
use crate::text::names::{did_you_mean, list};
use crds::config::Operation;

/// Something that keeps an observer from working.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The observer, `namespace/name`; empty if the listener itself says what is wrong.
    pub observer: String,
    /// Where in the resource, as `spec.events.entity`.
    pub path: String,
    /// Why, in a word, as `TableNotTracked`.
    pub reason: &'static str,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// Returns the findings of one observer.
pub(super) fn of(needs: &Needs, tables: &Tables) -> Vec<Finding> {
    let finding = |path: &str, reason: &'static str, message: String| Finding {
        observer: needs.observer.clone(),
        path: path.to_owned(),
        reason,
        message,
    };
    let entity = |reason, message| finding(&needs.entity_path, reason, message);
    let failure = tables.failures.get(&needs.entity);
    // What is missing may be misspelled, of which more can be said.
    if let Some(failure) = failure.filter(|one| one.reason != TABLE_MISSING) {
        return vec![entity(failure.reason, failure.to_string())];
    }
    let Some(table) = tables.known.get(&needs.entity) else {
        let schema = entity::split(&needs.entity).map(|(schema, _)| schema);
        if schema.is_some_and(|schema| tables.entity_logs.contains(&schema.into_owned())) {
            return Vec::new();
        }
        // What is listed is no custom event.
        let message = missing(needs, tables).or_else(|| failure.map(ToString::to_string));
        let missing = message.map(|message| entity(TABLE_MISSING, message));
        return missing.into_iter().collect();
    };
    if let Some(message) = not_logged(table) {
        return vec![entity(TABLE_NOT_TRACKED, message)];
    }
    let mut found = Vec::new();
    // An insertion has no image before it.
    let has_before = |one: &Operation| matches!(one, Operation::Update | Operation::Delete);
    let concerns = table.publication.is_none() || needs.operations.iter().any(has_before);
    if let Some(trouble) = table.trouble.as_ref().filter(|_| concerns) {
        let message = format!(
            "changes of {} are not logged as they should be: {trouble}",
            table.entity
        );
        found.push(entity(CAPTURE_BROKEN, message));
    }
    if needs.has_tenant && table.tenant.is_none() && !needs.is_custom() {
        let message = if table.publication.is_some() {
            format!(
                "{0} is read without a tenant column, so no event of it has a tenant, and this observer sees none: name \
                 the column in spec.source.wal.tables, or leave spec.tenant out",
                table.entity
            )
        } else {
            format!(
                "{0} is tracked without a tenant column, so no event of it has a tenant, and this observer sees none: name \
             the column with select observer.track({1}, tenant => 'column'), or leave spec.tenant out",
                table.entity,
                quoted(&table.entity)
            )
        };
        found.push(finding("spec.tenant", COLUMN_MISSING, message));
    }
    // An event of `observer.emit` may hold anything.
    if !needs.is_custom() {
        let columns = needs.columns.iter();
        found.extend(columns.filter_map(|(path, column)| {
            let message = without_column(table, column)?;
            Some(finding(path, COLUMN_MISSING, message))
        }));
    }
    found
}

/// Returns the failures of tables that are listed to be tracked, and that no observer needs.
pub(super) fn of_listener(steps: &[Step], needs: &[&Needs]) -> Vec<Finding> {
    let unneeded = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| needs.iter().all(|one| one.entity != step.what));
    unneeded
        .filter_map(|(n, step)| {
            let failure = step.failure()?;
            Some(Finding {
                observer: String::new(),
                path: format!("spec.source.triggers.tables[{n}]"),
                reason: failure.reason,
                message: failure.to_string(),
            })
        })
        .collect()
}

/// Returns why nothing of a table is captured under its name, if that is so.
fn not_logged(table: &Table) -> Option<String> {
    let entity = &table.entity;
    if let Some(root) = &table.root {
        return Some(format!(
            "{entity} is a partition, and its changes are logged under the name of its root: write {root}"
        ));
    }
    let what = match table.kind.as_str() {
        "v" => "a view",
        "m" => "a materialized view",
        "f" => "a foreign table",
        _ if table.is_tracked => return None,
        _ if let Some(publication) = &table.publication => {
            return Some(format!(
                "{entity} is not in the publication {publication}, so none of its changes is read: add it to \
                 spec.source.wal.tables, or run alter publication {publication} add table {entity}"
            ));
        }
        _ => {
            return Some(format!(
                "{entity} is not tracked, so none of its changes is logged: run select observer.track({}) in the database",
                quoted(entity)
            ));
        }
    };
    Some(format!(
        "{entity} is {what}, of which no changes can be logged: name the tables behind it"
    ))
}

/// Describes a table that does not exist; nothing if it may be the name of a custom event.
fn missing(needs: &Needs, tables: &Tables) -> Option<String> {
    let entity = &needs.entity;
    let names = || tables.names.iter().map(String::as_str);
    let elsewhere = || {
        let name = |entity: &str| entity.rsplit('.').next().map(str::to_lowercase);
        names().find(|other| name(other) == name(entity))
    };
    let near = did_you_mean(entity, names()).or_else(elsewhere);
    let remedy = match near {
        Some(near) => format!("did you mean {near}?"),
        None if needs.is_custom() => return None,
        None if tables.names.is_empty() => "this database has no tables".to_owned(),
        None => format!("there are {}", list(names())),
    };
    Some(format!("there is no table {entity}; {remedy}"))
}

fn without_column(table: &Table, column: &str) -> Option<String> {
    let entity = &table.entity;
    if table.exclude.iter().any(|one| one == column) {
        return Some(format!(
            "the column {column} of {entity} is excluded from the log, so no event has it: leave it out here, or {}",
            if table.publication.is_some() {
                "change exclude in spec.source.wal.tables"
            } else {
                "track the table with another list after exclude =>"
            }
        ));
    }
    let there = || {
        let columns = table
            .columns
            .iter()
            .filter(|one| !table.exclude.contains(*one));
        columns.map(String::as_str)
    };
    if there().any(|one| one == column) {
        return None;
    }
    let remedy = match did_you_mean(column, there()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there are {}", list(there())),
    };
    Some(format!("{entity} has no column {column}; {remedy}"))
}

/// Quotes a text as an SQL literal.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(entity: &str, operations: &[Operation]) -> Needs {
        Needs {
            observer: "default/a".to_owned(),
            entity: entity.to_owned(),
            entity_path: "spec.events.entity".to_owned(),
            operations: operations.to_vec(),
            has_tenant: true,
            columns: vec![("spec.when".to_owned(), "totl".to_owned())],
        }
    }

    fn tables() -> Tables {
        let orders = Table {
            entity: "shop.orders".to_owned(),
            kind: "r".to_owned(),
            is_tracked: true,
            columns: vec!["id".to_owned(), "total".to_owned()],
            ..Table::default()
        };
        Tables {
            known: [(orders.entity.clone(), orders)].into(),
            names: vec!["shop.orders".to_owned()],
            entity_logs: vec!["core".to_owned()],
            ..Tables::default()
        }
    }

    fn messages(needs: &Needs) -> Vec<String> {
        of(needs, &tables())
            .into_iter()
            .map(|one| one.message)
            .collect()
    }

    #[test]
    fn entities_of_a_log_are_no_tables() {
        assert!(messages(&needs("core.Post", &[Operation::Insert])).is_empty());
        assert_eq!(
            messages(&needs("cores.Post", &[Operation::Insert])).len(),
            1
        );
    }

    #[test]
    fn custom_event_may_be_named_like_a_table_with_any_field() {
        use Operation::{Custom, Insert};
        assert!(messages(&needs("billing.closed", &[Insert, Custom])).is_empty());
        assert!(messages(&needs("shop.orders", &[Insert, Custom])).is_empty());
        assert_eq!(messages(&needs("shop.ordres", &[Insert, Custom])).len(), 1);
        assert_eq!(messages(&needs("billing.closed", &[Insert])).len(), 1);
    }

    #[test]
    fn table_of_another_schema_is_suggested() {
        let said = messages(&needs("public.Orders", &[Operation::Insert])).join("\n");
        assert!(said.contains("did you mean shop.orders?"), "{said}");
    }

    #[test]
    fn missing_tenant_and_columns_are_found() {
        let said = messages(&needs("shop.orders", &[Operation::Insert])).join("\n");
        assert!(said.contains("without a tenant column"), "{said}");
        assert!(
            said.contains("no column totl; did you mean total?"),
            "{said}"
        );
    }
}
