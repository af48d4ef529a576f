//! Arguments that filter events by what they are about and when they occurred.

use ::search::Filters;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use crds::config::Operation;
use observer_listener::history::events::EventFilter;

use super::dead_letters::moment;
use super::output::time;

/// Filter of events.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    #[command(flatten)]
    what: WhatFilter,
    /// Only events from this time on, as 2026-03-01T12:00:00Z, or 24h for so long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<DateTime<Utc>>,
    /// Only events before this time, written the same way
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<DateTime<Utc>>,
}

/// Filter by what an event is about.
#[derive(Debug, Default, Args)]
pub(super) struct WhatFilter {
    /// Only events of this entity, as schema.table
    #[arg(long, value_name = "NAME")]
    pub(super) entity: Option<String>,
    /// Only events of this key, as lists show it
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// Only events of this tenant
    #[arg(long, value_name = "TENANT")]
    pub(super) tenant: Option<String>,
    /// Only these operations; repeatable, or with commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "OPERATION")]
    operation: Vec<OperationArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum OperationArg {
    /// A row was added
    Insert,
    /// A row was changed
    Update,
    /// A row was removed
    Delete,
    /// A table was emptied
    Truncate,
    /// `observer.emit` was called
    Custom,
    /// A backfill read the row
    Read,
}

impl WhatFilter {
    /// Returns the operations; none for all.
    fn operations(&self) -> Vec<Operation> {
        let operation = |one: &OperationArg| match one {
            OperationArg::Insert => Operation::Insert,
            OperationArg::Update => Operation::Update,
            OperationArg::Delete => Operation::Delete,
            OperationArg::Truncate => Operation::Truncate,
            OperationArg::Custom => Operation::Custom,
            OperationArg::Read => Operation::Read,
        };
        self.operation.iter().map(operation).collect()
    }

    /// Returns the filter of events of any time.
    pub(super) fn select(self) -> EventFilter {
        EventFilter {
            operations: self.operations(),
            entity: self.entity,
            key: self.key,
            tenant: self.tenant,
            from: None,
            to: None,
        }
    }
}

impl Filter {
    /// Returns the filter of events of the change log.
    pub(super) fn select(self) -> EventFilter {
        EventFilter {
            from: self.from,
            to: self.to,
            ..self.what.select()
        }
    }

    /// Returns the filter of documents, without the tenant, which is a part of the scope.
    pub(super) fn of_documents(&self) -> Filters {
        Filters {
            entity: self.what.entity.clone(),
            operations: self.what.operations(),
            key: self.what.key.clone(),
            from: self.from,
            to: self.to,
            ..Filters::default()
        }
    }

    /// Returns the only tenant whose events are asked for.
    pub(super) fn tenant(&self) -> Option<String> {
        self.what.tenant.clone()
    }

    /// Returns what may be wrong with the filter where no event matches, as a sentence to add.
    pub(super) fn hint(&self) -> String {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return format!("; --from {} is not before --to {}", time(from), time(to));
        }
        match &self.what.entity {
            Some(entity) if !entity.contains('.') => {
                format!("; entities are named as schema.table, such as public.{entity}")
            }
            _ => String::new(),
        }
    }
}
