//! Writing: create, and where there is a document already, merge it with that under the condition that
//! it is unchanged.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::ElasticsearchIndex;
use super::documents::{Outcome, Revision, outcome};
use super::names::{IndexName, document_id};
use crate::analysis::fields::IndexedFields;
use crate::document::Document;
use crate::error::SearchError;
use crate::given::{self, Rejections, unique};
use crate::index::WriteReport;

/// Maximum length of the body of one bulk request, unless a single document is longer.
const MAX_BULK_BYTES: usize = 5 * 1024 * 1024;

/// Maximum number of documents in one bulk request.
const MAX_BULK_DOCUMENTS: usize = 1000;

/// Maximum number of stored documents that are read at once, and of their bytes if they are more than one.
const MAX_READ_DOCUMENTS: usize = 500;
const MAX_READ_BYTES: usize = 16 * 1024 * 1024;

/// How often a document is tried that others change at the same time. One of them gets further each time.
const MAX_ROUNDS: u32 = 50;

/// A document to be stored.
struct Pending {
    document: Document,
    /// Its `_id`.
    id: String,
    /// Its length, once that is known.
    bytes: usize,
    index: String,
    /// The stored one that it replaces; none where it is created.
    replaces: Option<Revision>,
}

/// A document that an index does not take.
struct RefusedDocument {
    pending: Pending,
    lines: Vec<u8>,
    reason: String,
}

/// What becomes of a refused document that is not stored after all.
enum Verdict {
    Rejected(RefusedDocument),
    /// It is there in another state.
    Conflict(Pending),
}

/// What is stored.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Source<'a> {
    id: &'a str,
    listener: &'a str,
    entity: &'a str,
    operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    observers: &'a [String],
    outcomes: &'a [String],
    terms: &'a [String],
    words: String,
    occurred_at: String,
    occurred_at_micros: i64,
    log_id: i64,
    unfinished: bool,
    bytes: usize,
    body: &'a str,
}

impl ElasticsearchIndex {
    pub(super) async fn write_merged(
        &self,
        documents: &[Document],
    ) -> Result<WriteReport, SearchError> {
        let mut rejections = Rejections::default();
        let unique = unique(documents, &mut rejections, |_| Ok(()));
        let pending = unique.into_iter().map(|document| Pending {
            id: document_id(&document.listener, &document.id),
            index: IndexName::of(&self.index, document.occurred_at),
            bytes: 0,
            document,
            replaces: None,
        });
        let mut pending: Vec<Pending> = pending.collect();
        let mut rounds = 0;
        while !pending.is_empty() {
            if rounds == MAX_ROUNDS {
                return Err(SearchError::Unavailable(format!(
                    "others change {} of the documents all the time",
                    pending.len()
                )));
            }
            rounds += 1;
            let conflicts = self.store(pending, &mut rejections).await?;
            pending = self.merge_stored(conflicts).await?;
        }
        Ok(rejections.report(documents))
    }

    /// Stores documents; returns those that are there in another state.
    async fn store(
        &self,
        pending: Vec<Pending>,
        rejections: &mut Rejections,
    ) -> Result<Vec<Pending>, SearchError> {
        let indices: BTreeSet<&String> = pending.iter().map(|one| &one.index).collect();
        for index in indices {
            self.ensure_index(index).await?;
        }
        let mut conflicts = Vec::new();
        let mut batch: Vec<(Pending, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        for mut one in pending {
            let lines = match lines(&mut one) {
                Ok(lines) => lines,
                Err(reason) => {
                    rejections.add(&one.document, reason);
                    continue;
                }
            };
            let full = bytes + lines.len() > MAX_BULK_BYTES || batch.len() == MAX_BULK_DOCUMENTS;
            if full && !batch.is_empty() {
                let batch = std::mem::take(&mut batch);
                self.store_batch(batch, &mut conflicts, rejections).await?;
                bytes = 0;
            }
            bytes += lines.len();
            batch.push((one, lines));
        }
        if !batch.is_empty() {
            self.store_batch(batch, &mut conflicts, rejections).await?;
        }
        Ok(conflicts)
    }

    /// Stores a batch, in halves where it is too long for what is in front of the server.
    async fn store_batch(
        &self,
        batch: Vec<(Pending, Vec<u8>)>,
        conflicts: &mut Vec<Pending>,
        rejections: &mut Rejections,
    ) -> Result<(), SearchError> {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let body = batch.iter().flat_map(|one| &one.1).copied().collect();
            let Some(items) = self.bulk(body, batch.len(), false).await? else {
                if batch.len() > 1 {
                    batches.push(batch.split_off(batch.len() / 2));
                    batches.push(batch);
                } else if let Some((one, lines)) = batch.pop() {
                    let reason = format!(
                        "its {} bytes are too many for the server (413)",
                        lines.len()
                    );
                    rejections.add(&one.document, reason);
                }
                continue;
            };
            // For each index that has taken a document of this batch, the lines of one.
            let mut taken = BTreeMap::new();
            let mut refused = Vec::new();
            for ((mut one, lines), item) in batch.into_iter().zip(items) {
                match outcome(&item)? {
                    Outcome::Stored => {
                        taken.insert(one.index, lines);
                    }
                    Outcome::Conflict => {
                        taken.insert(one.index.clone(), lines);
                        conflicts.push(one);
                    }
                    Outcome::NoIndex => {
                        self.known().remove(&one.index);
                        one.replaces = None;
                        conflicts.push(one);
                    }
                    Outcome::Rejected(reason) => rejections.add(&one.document, reason),
                    Outcome::Refused(reason) => refused.push(RefusedDocument {
                        pending: one,
                        lines,
                        reason,
                    }),
                }
            }
            for one in self.judge(refused, &taken).await? {
                match one {
                    Verdict::Rejected(one) => {
                        rejections.add(&one.pending.document, one.reason);
                    }
                    Verdict::Conflict(one) => conflicts.push(one),
                }
            }
        }
        Ok(())
    }

    /// Rejects refused documents if their index takes others: one bad document does not stop the others. If
    /// it takes none, the index may be at fault, as one that others have made, or to which they have added
    /// something: no document is given up for that.
    async fn judge(
        &self,
        refused: Vec<RefusedDocument>,
        taken: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<Verdict>, SearchError> {
        let mut by_index: BTreeMap<String, Vec<RefusedDocument>> = BTreeMap::new();
        for one in refused {
            let own = by_index.entry(one.pending.index.clone()).or_default();
            own.push(one);
        }
        let mut verdicts = Vec::new();
        for (index, refused) in by_index {
            let owned = self.own_indices(&index).await;
            let witness = taken.get(&index);
            if owned.is_err() || witness.is_none() {
                // Looked for again by the next call, or created.
                self.known().remove(&index);
            }
            owned?;
            match witness {
                Some(witness) => verdicts.extend(self.try_again(witness, refused).await?),
                None => return Err(takes_nothing(&refused)),
            }
        }
        Ok(verdicts)
    }

    /// Sends refused documents of one index again, with a document before and after them that it has taken.
    /// That one is not written again, since it is there; but if it is refused now, the index was changed
    /// meanwhile.
    async fn try_again(
        &self,
        witness: &[u8],
        refused: Vec<RefusedDocument>,
    ) -> Result<Vec<Verdict>, SearchError> {
        let mut body = witness.to_vec();
        for one in &refused {
            body.extend(&one.lines);
        }
        body.extend(witness);
        let items = self.bulk(body, refused.len() + 2, false).await?;
        // Too long with the two: what was said at first stays.
        let Some(items) = items else {
            return Ok(refused.into_iter().map(Verdict::Rejected).collect());
        };
        let mut outcomes = Vec::with_capacity(items.len());
        for item in &items {
            outcomes.push(outcome(item)?);
        }
        let is_fine =
            |one: Option<&Outcome>| matches!(one, Some(Outcome::Stored | Outcome::Conflict));
        if !is_fine(outcomes.first()) || !is_fine(outcomes.last()) {
            return Err(takes_nothing(&refused));
        }
        let outcomes = outcomes.into_iter().skip(1);
        let verdicts = refused.into_iter().zip(outcomes);
        Ok(verdicts
            .filter_map(|(mut one, outcome)| match outcome {
                Outcome::Stored => None,
                Outcome::Conflict => Some(Verdict::Conflict(one.pending)),
                Outcome::NoIndex => {
                    one.pending.replaces = None;
                    Some(Verdict::Conflict(one.pending))
                }
                Outcome::Rejected(_) | Outcome::Refused(_) => Some(Verdict::Rejected(one)),
            })
            .collect())
    }

    /// Merges documents with the stored ones; returns those that know more than these.
    async fn merge_stored(&self, conflicts: Vec<Pending>) -> Result<Vec<Pending>, SearchError> {
        let mut pending = Vec::new();
        let mut rest = conflicts;
        while !rest.is_empty() {
            // A document and the stored one are about as long: rows are most of them.
            let mut bytes = 0;
            let fits = |one: &&Pending| {
                bytes += one.bytes;
                bytes <= MAX_READ_BYTES
            };
            let count = rest
                .iter()
                .take(MAX_READ_DOCUMENTS)
                .take_while(fits)
                .count();
            let after = rest.split_off(count.max(1));
            let wanted: Vec<_> = rest
                .iter()
                .map(|one| (one.index.as_str(), one.id.as_str()))
                .collect();
            let stored = self.read(&wanted).await?;
            for (mut one, stored) in rest.into_iter().zip(stored) {
                match stored {
                    // It was removed since.
                    None => {
                        one.replaces = None;
                        pending.push(one);
                    }
                    Some((revision, mut document)) => {
                        document.sort();
                        if document.merge(&one.document) {
                            one.document = document;
                            one.replaces = Some(revision);
                            pending.push(one);
                        }
                    }
                }
            }
            rest = after;
        }
        Ok(pending)
    }

    /// Creates an index, unless this process knows that it is there.
    async fn ensure_index(&self, index: &str) -> Result<(), SearchError> {
        if self.known().contains(index) {
            return Ok(());
        }
        self.create_index(index).await?;
        self.known().insert(index.to_owned());
        Ok(())
    }
}

/// An error of an index that refuses all documents.
fn takes_nothing(refused: &[RefusedDocument]) -> SearchError {
    let first = refused.first();
    let (index, reason) = first.map_or(("", ""), |one| (&*one.pending.index, &*one.reason));
    SearchError::Refused(format!(
        "it takes no document for the index {index}: {reason}. Look for fields, pipelines and settings that others \
         have added to it"
    ))
}

/// Returns the two lines of a bulk request that store a document, or why it cannot be stored.
fn lines(one: &mut Pending) -> Result<Vec<u8>, String> {
    let document = &one.document;
    let action = match one.replaces {
        None => json!({"create": {"_index": one.index, "_id": one.id}}),
        Some(Revision {
            seq_no,
            primary_term,
        }) => json!({"index": {
            "_index": one.index, "_id": one.id, "if_seq_no": seq_no, "if_primary_term": primary_term,
        }}),
    };
    let body = given::body(document)?;
    one.bytes = body.len();
    let fields = IndexedFields::of(document);
    let source = Source {
        id: &document.id,
        listener: &document.listener,
        entity: &document.entity,
        operation: document.operation.as_str(),
        key: document.key.as_deref(),
        tenant: document.tenant.as_deref(),
        observers: &fields.observers,
        outcomes: &fields.outcomes,
        terms: &fields.terms,
        words: fields.words.join(" "),
        occurred_at: document
            .occurred_at
            .to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        occurred_at_micros: fields.occurred_at_micros,
        log_id: document.log_id,
        unfinished: fields.unfinished,
        bytes: body.len(),
        body: &body,
    };
    let mut lines = action.to_string().into_bytes();
    lines.push(b'\n');
    serde_json::to_writer(&mut lines, &source)
        .map_err(|_| "it cannot be written as JSON".to_owned())?;
    lines.push(b'\n');
    Ok(lines)
}
