//! What a replication session sends, as rows of the change log. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::{SourceTableConfig, TableContents};
use pgoutput::{LogicalMessage, OldTuple, PgMessage, Relation, Tuple};
use pgwire_replication::Lsn;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::catalog::Catalog;
use super::entity_change;
use super::envelope::{Envelope, fields, text_of};
use super::error::IngestError;
use super::rows::{LogRow, RowBatch};
use super::store::Progress;
use super::strikes::Strikes;
use super::table_plan::{Image, TablePlan};
use crate::trace::context::TraceContext;

/// Most rows, and most bytes of them, that wait for the end of a run of updates of keys. A longer run is cut.
const MAX_HELD: usize = 10_000;
const MAX_HELD_BYTES: usize = 16 << 20;

/// Prefix of messages that are custom events.
pub(crate) const MESSAGE_PREFIX: &str = "observer";

/// Prefix of the messages of `observer.trace`.
const TRACE_PREFIX: &str = "observer.trace";

/// Schema of this program's own tables.
const OWN_SCHEMA: &str = "observer";

/// Microseconds from 1970 to 2000, from which Postgres counts.
const EPOCH: i64 = 946_684_800_000_000;

/// A transaction that is being read.
#[derive(Debug)]
struct Transaction {
    /// The lower half of its number.
    xid: u32,
    commit: Lsn,
    committed_at: DateTime<Utc>,
    /// Changes of it so far.
    ordinal: u64,
    /// Changes of it that are in the log already.
    skip: u64,
    /// The trace of what comes next in it.
    trace: Option<TraceContext>,
}

/// A custom event as an application writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomEvent {
    entity: String,
    #[serde(default)]
    payload: Option<Box<RawValue>>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
}

/// Turns messages into rows.
#[derive(Debug)]
pub(crate) struct Changes {
    catalog: Catalog,
    configs: Vec<SourceTableConfig>,
    /// Plans of the tables that were sent; `None` for tables of the schema `observer`.
    relations: BTreeMap<u32, Option<Arc<TablePlan>>>,
    /// Relations that the catalog was read for already.
    asked: BTreeSet<(u32, Vec<(String, u32)>)>,
    transaction: Option<Transaction>,
    /// Insertions of rows whose key was changed, which come after the deletions of the same run: one row may
    /// take the key that another gives up.
    held: Vec<LogRow>,
    held_bytes: usize,
    batch: RowBatch,
    progress: Progress,
    /// Which rows have changed since a page of a backfill was read.
    pub(crate) strikes: Strikes,
    /// Messages that are no custom events although they are marked so.
    pub(crate) malformed: u64,
}

impl Changes {
    /// Goes on after what is saved. `asked` are relations that the catalog was read for before.
    pub(crate) fn new(
        catalog: Catalog,
        configs: Vec<SourceTableConfig>,
        progress: Progress,
        asked: BTreeSet<(u32, Vec<(String, u32)>)>,
    ) -> Self {
        Self {
            catalog,
            configs,
            relations: BTreeMap::new(),
            asked,
            transaction: None,
            held: Vec::new(),
            held_bytes: 0,
            batch: RowBatch::default(),
            progress,
            strikes: Strikes::default(),
            malformed: 0,
        }
    }

    /// Returns the relations that the catalog was read for.
    pub(crate) fn into_asked(self) -> BTreeSet<(u32, Vec<(String, u32)>)> {
        self.asked
    }

    /// Number and bytes of the rows that wait to be saved.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.batch.len(), self.batch.bytes())
    }

    /// Whether nothing is open and nothing waits to be saved.
    pub(crate) fn is_idle(&self) -> bool {
        self.transaction.is_none() && self.batch.len() == 0
    }

    /// Where all that was committed before is read.
    pub(crate) fn end(&self) -> Lsn {
        self.progress.confirmed
    }

    /// Whether a transaction is being read.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Notes that nothing was committed up to here but what is read, while nothing is open.
    pub(crate) fn advance(&mut self, to: Lsn) {
        if self.is_idle() && to > self.progress.confirmed {
            self.progress = Progress {
                confirmed: to,
                partial: None,
            };
        }
    }

    /// Takes the rows that wait, with the position after them; nothing in a run of updates of keys, which is
    /// not to be cut.
    pub(crate) fn take(&mut self) -> Option<(RowBatch, Progress)> {
        if !self.held.is_empty() {
            return None;
        }
        if let Some(open) = &self.transaction
            && open.ordinal > open.skip
        {
            self.progress.partial = Some((open.commit, open.ordinal));
        }
        Some((std::mem::take(&mut self.batch), self.progress))
    }

    /// Begins a transaction, and returns when it was committed. One that is in the log wholly is skipped, the
    /// rest of one that is there in part is read.
    pub(crate) fn begin(
        &mut self,
        (xid, commit): (u32, Lsn),
        commit_time_micros: i64,
    ) -> Option<DateTime<Utc>> {
        self.strikes.transaction(xid);
        let skip = match self.progress.partial {
            Some((partial, ordinal)) if partial == commit => ordinal,
            Some((partial, _)) if partial > commit => u64::MAX,
            _ if commit < self.progress.confirmed => u64::MAX,
            _ => 0,
        };
        let micros = commit_time_micros.saturating_add(EPOCH);
        let committed_at = DateTime::from_timestamp_micros(micros);
        self.transaction = Some(Transaction {
            xid,
            commit,
            committed_at: committed_at.unwrap_or_default(),
            ordinal: 0,
            skip,
            trace: None,
        });
        committed_at
    }

    /// Ends the transaction.
    pub(crate) fn commit(&mut self, end: Lsn) {
        self.release_held();
        self.transaction = None;
        // One that is passed over as it was read before says nothing about the one that is there in part.
        if end > self.progress.confirmed {
            self.progress = Progress {
                confirmed: end,
                partial: None,
            };
        }
    }

    /// Reads a message of the plugin.
    pub(crate) fn message(&mut self, bytes: &[u8]) -> Result<(), IngestError> {
        match PgMessage::decode(bytes)? {
            PgMessage::Relation(relation) => self.relation(&relation),
            PgMessage::Insert { relation, new } => {
                self.change((relation, true), |changes, plan| {
                    let image = plan.new_image(&new, None);
                    changes.release_held();
                    let row = match plan.contents {
                        TableContents::Rows => changes.insertion(plan, image),
                        TableContents::EntityChanges => changes.entity_change(plan, &image),
                    };
                    changes.batch.extend(row);
                })
            }
            PgMessage::Update { relation, old, new } => {
                self.change((relation, false), |changes, plan| {
                    changes.update(plan, old.as_ref(), &new);
                })
            }
            PgMessage::Delete { relation, old } => {
                self.change((relation, false), |changes, plan| {
                    let image = plan.old_image(&old);
                    changes.release_held();
                    let row = changes.deletion(plan, image);
                    changes.batch.extend(row);
                })
            }
            PgMessage::Truncate { relations } => {
                for relation in relations {
                    self.change((relation, false), |changes, plan| {
                        changes.release_held();
                        let row = changes.row('t', &plan.entity, (None, None), (None, None));
                        changes.batch.extend(row);
                    })?;
                }
                Ok(())
            }
            PgMessage::Message(message) => {
                self.custom_event(&message);
                Ok(())
            }
            PgMessage::Other => Ok(()),
        }
    }

    /// Reads a message of the application. Those outside of transactions are not events.
    pub(crate) fn custom_event(&mut self, message: &LogicalMessage<'_>) {
        if message.prefix == TRACE_PREFIX && message.transactional {
            self.continue_trace(message.content);
            return;
        }
        if message.prefix != MESSAGE_PREFIX || !message.transactional || !self.counts() {
            return;
        }
        self.release_held();
        let event = serde_json::from_slice::<CustomEvent>(message.content);
        let row = match event.ok().filter(|event| !event.entity.is_empty()) {
            Some(event) => {
                let payload = event.payload.map(|payload| payload.get().to_owned());
                let of = (event.key, event.tenant);
                self.row('c', &Arc::from(event.entity), of, (None, payload))
            }
            None => self.message_change(message.content),
        };
        let row = row.filter(LogRow::is_storable);
        if row.is_none() {
            self.malformed += 1;
            tracing::warn!(
                "a message with the prefix {MESSAGE_PREFIX} is no event and is passed over: write it as \
                 {{\"entity\": ..., \"payload\": ..., \"key\": ..., \"tenant\": ...}}, or as a change of Debezium with \
                 source.schema and source.table"
            );
        }
        self.batch.extend(row);
    }

    /// Takes note of the trace of what comes next in the transaction, also where that is in the log in part. It is no
    /// change, so it does not count as one.
    fn continue_trace(&mut self, content: &[u8]) {
        self.release_held();
        if let Some(open) = &mut self.transaction {
            let text = std::str::from_utf8(content).ok();
            open.trace = text.and_then(TraceContext::parse);
        }
    }

    /// The event that a message is which holds a change in the form of Debezium, with the key and the tenant beside it.
    fn message_change(&mut self, content: &[u8]) -> Option<LogRow> {
        let text = std::str::from_utf8(content).ok()?;
        let members = fields(text)?;
        let envelope = Envelope::of(&members)?;
        let entity = Arc::from(envelope.table()?);
        let of = |name: &str| members.get(name).and_then(|value| text_of(value));
        let owned = |image: Option<&RawValue>| image.map(|image| image.get().to_owned());
        let (operation, images) = match envelope.operation() {
            // What is read of a table is told by a backfill alone.
            'c' | 'r' => ('c', (None, Some(text.to_owned()))),
            operation => {
                let (old, new) = envelope.images();
                (operation, (owned(old), owned(new)))
            }
        };
        self.row(operation, &entity, (of("key"), of("tenant")), images)
    }

    fn relation(&mut self, relation: &Relation) -> Result<(), IngestError> {
        // A publication of all tables has the change log too: each change of it would be another one.
        if relation.schema == OWN_SCHEMA {
            self.relations.insert(relation.id, None);
            return Ok(());
        }
        let columns: Vec<(String, u32)> = relation
            .columns
            .iter()
            .map(|column| (column.name.clone(), column.type_id))
            .collect();
        let table = self.catalog.tables.get(&relation.id);
        let is_known = table
            .is_some_and(|table| columns.iter().all(|column| table.columns.contains(column)))
            && columns.iter().all(|(_, of)| self.catalog.types.knows(*of));
        // It may look different now than when these rows were written, and be gone: it is asked for once.
        if !is_known && self.asked.insert((relation.id, columns)) {
            return Err(IngestError::CatalogOutdated);
        }
        let plan = TablePlan::new(relation, &self.catalog, &self.configs);
        self.relations.insert(relation.id, Some(Arc::new(plan)));
        Ok(())
    }

    /// Counts a change, and whether it is not in the log yet.
    fn counts(&mut self) -> bool {
        let Some(open) = &mut self.transaction else {
            return false;
        };
        open.ordinal += 1;
        open.ordinal > open.skip
    }

    fn change(
        &mut self,
        (relation, is_insertion): (u32, bool),
        add: impl FnOnce(&mut Self, &TablePlan),
    ) -> Result<(), IngestError> {
        if !self.counts() {
            return Ok(());
        }
        // The server sends what a table looks like before its rows.
        let plan = self.relations.get(&relation).cloned();
        let plan = plan.ok_or(pgoutput::DecodeError::Unknown('R', "a table"))?;
        if let Some(plan) = plan.filter(|plan| is_insertion || plan.contents == TableContents::Rows)
        {
            add(self, &plan);
        }
        Ok(())
    }

    /// A row that stays who it is, or a deletion and an insertion.
    fn update(&mut self, plan: &TablePlan, old: Option<&OldTuple<'_>>, new: &Tuple<'_>) {
        let after = plan.new_image(new, old);
        let before = old.map(|old| plan.old_image(old));
        let is_whole = matches!(old, Some(OldTuple::Full(_)));
        let same = |before: &Image| {
            // A tenant is known only of a whole row, and so are columns of a key beyond the replica identity.
            (before.key == after.key || !is_whole && !plan.identity_has_key())
                && (!is_whole || before.tenant == after.tenant)
        };
        match before {
            Some(before) if !same(&before) => {
                let row = self.deletion(plan, before);
                self.batch.extend(row);
                let row = self.insertion(plan, after);
                self.held_bytes += row
                    .as_ref()
                    .and_then(|row| row.new.as_ref())
                    .map_or(0, String::len);
                self.held.extend(row);
                if self.held.len() >= MAX_HELD || self.held_bytes >= MAX_HELD_BYTES {
                    self.release_held();
                }
            }
            before => {
                self.release_held();
                let old = before.filter(|_| is_whole).map(|before| before.json);
                let of = (after.key, after.tenant);
                let row = self.row('u', &plan.entity, of, (old, Some(after.json)));
                self.batch.extend(row);
            }
        }
    }

    fn release_held(&mut self) {
        self.held_bytes = 0;
        self.batch.extend(self.held.drain(..));
    }

    fn insertion(&mut self, plan: &TablePlan, after: Image) -> Option<LogRow> {
        let of = (after.key, after.tenant);
        self.row('i', &plan.entity, of, (None, Some(after.json)))
    }

    /// The event that a row of a log of entities is.
    fn entity_change(&mut self, plan: &TablePlan, row: &Image) -> Option<LogRow> {
        let Some(read) = entity_change::read(&plan.schema, &row.json) else {
            self.malformed += 1;
            return None;
        };
        let (of, images) = ((read.key, read.tenant), (read.old, read.new));
        self.row(read.operation, &read.entity, of, images)
    }

    fn deletion(&mut self, plan: &TablePlan, before: Image) -> Option<LogRow> {
        let of = (before.key, before.tenant);
        self.row('d', &plan.entity, of, (Some(before.json), None))
    }

    /// A row of the open transaction.
    fn row(
        &mut self,
        operation: char,
        entity: &Arc<str>,
        (key, tenant): (Option<String>, Option<String>),
        (old, new): (Option<String>, Option<String>),
    ) -> Option<LogRow> {
        let transaction = self.transaction.as_ref()?;
        let row = LogRow {
            operation,
            entity: Arc::clone(entity),
            key,
            tenant,
            occurred_at: transaction.committed_at,
            old,
            new,
            trace: transaction.trace,
        };
        self.strikes.change(transaction.xid, &row);
        Some(row)
    }
}

#[cfg(test)]
mod tests;
