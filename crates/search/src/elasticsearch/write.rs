//! Writing: create, and where there is a document already, merge it with that under the condition that
//! nobody else has changed it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ElasticsearchIndex;
use super::names::{IndexName, document_id};
use super::transport::{BodyType, SERVER_TIMEOUT, is_passing, plain};
use crate::analysis::fields::IndexedFields;
use crate::document::Document;
use crate::error::SearchError;
use crate::index::{Rejected, WriteReport};

/// Maximum length of the body of one bulk request, unless a single document is longer.
const MAX_BULK_BYTES: usize = 5 * 1024 * 1024;

/// Maximum number of documents in one bulk request.
const MAX_BULK_DOCUMENTS: usize = 1000;

/// Maximum number of stored documents that are read at once, and of their bytes if they are more than one.
const MAX_READ_DOCUMENTS: usize = 500;
const MAX_READ_BYTES: usize = 16 * 1024 * 1024;

/// How often a document is tried that others change at the same time. One of them gets further each time.
const MAX_ROUNDS: u32 = 50;

/// Maximum length of a stored document in bytes.
const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;

/// Maximum length of an id and of a listener's identity in bytes.
const MAX_NAME_BYTES: usize = 1024;

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

/// A document that can never be stored.
struct Lost {
    listener: String,
    rejected: Rejected,
}

impl Lost {
    fn new(document: &Document, reason: String) -> Self {
        Self {
            listener: document.listener.clone(),
            rejected: Rejected {
                id: document.id.clone(),
                reason,
            },
        }
    }

    fn name(&self) -> (&str, &str) {
        (&self.listener, &self.rejected.id)
    }
}

/// State of a stored document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revision {
    seq_no: u64,
    primary_term: u64,
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

#[derive(Deserialize)]
struct BulkResponse {
    items: Vec<BTreeMap<String, BulkItem>>,
}

#[derive(Deserialize)]
pub(super) struct BulkItem {
    pub(super) status: u16,
    #[serde(default)]
    error: Option<BulkError>,
}

impl BulkItem {
    /// Returns the type of its error, if that is one.
    pub(super) fn kind(&self) -> Option<&str> {
        plain(self.error.as_ref()?.kind.as_deref()?)
    }
}

#[derive(Deserialize)]
struct BulkError {
    #[serde(rename = "type")]
    kind: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct ReadResponse {
    docs: Vec<ReadDocument>,
}

#[derive(Deserialize)]
struct ReadDocument {
    #[serde(default)]
    found: bool,
    #[serde(rename = "_seq_no")]
    seq_no: Option<u64>,
    #[serde(rename = "_primary_term")]
    primary_term: Option<u64>,
    #[serde(rename = "_source")]
    source: Option<StoredSource>,
    error: Option<BulkError>,
}

/// What is read of a stored document.
#[derive(Deserialize)]
pub(super) struct StoredSource {
    body: String,
}

impl StoredSource {
    /// Parses the document.
    pub(super) fn document(&self) -> Result<Document, SearchError> {
        serde_json::from_str(&self.body)
            .map_err(|_| SearchError::Response("a stored document cannot be read".to_owned()))
    }
}

/// What became of a document in a bulk request.
enum Outcome {
    Stored,
    /// It is there already, or has been changed since it was read.
    Conflict,
    /// Its index is not there.
    NoIndex,
    Rejected(String),
}

impl ElasticsearchIndex {
    pub(super) async fn write_merged(
        &self,
        documents: &[Document],
    ) -> Result<WriteReport, SearchError> {
        let mut rejected = Vec::new();
        let mut pending = self.pending(documents, &mut rejected);
        let mut rounds = 0;
        while !pending.is_empty() {
            if rounds == MAX_ROUNDS {
                return Err(SearchError::Unavailable(format!(
                    "others change {} of the documents all the time",
                    pending.len()
                )));
            }
            rounds += 1;
            let conflicts = self.store(pending, &mut rejected).await?;
            pending = self.merge_stored(conflicts).await?;
        }
        let lost: BTreeSet<_> = rejected.iter().map(Lost::name).collect();
        let written = documents.iter().filter(|one| !lost.contains(&name(one)));
        Ok(WriteReport {
            written: written.count(),
            rejected: rejected.into_iter().map(|lost| lost.rejected).collect(),
        })
    }

    /// Returns each document once, sorted for merging.
    fn pending(&self, documents: &[Document], rejected: &mut Vec<Lost>) -> Vec<Pending> {
        let mut unique: BTreeMap<(&str, &str), Document> = BTreeMap::new();
        for document in documents {
            let names = [("id", &document.id), ("listener", &document.listener)];
            let too_long = names
                .into_iter()
                .find(|(_, value)| value.len() > MAX_NAME_BYTES);
            if let Some((name, _)) = too_long {
                let reason = format!("its {name} has more than {MAX_NAME_BYTES} bytes");
                rejected.push(Lost::new(document, reason));
                continue;
            }
            let mut sorted = document.clone();
            sorted.sort();
            match unique.get_mut(&name(document)) {
                Some(first) => {
                    first.merge(&sorted);
                }
                None => {
                    unique.insert(name(document), sorted);
                }
            }
        }
        let pending = unique.into_values().map(|document| Pending {
            id: document_id(&document.listener, &document.id),
            index: IndexName::of(&self.index, document.occurred_at),
            bytes: 0,
            document,
            replaces: None,
        });
        pending.collect()
    }

    /// Stores documents; returns those that are there in another state.
    async fn store(
        &self,
        pending: Vec<Pending>,
        rejected: &mut Vec<Lost>,
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
                    rejected.push(Lost::new(&one.document, reason));
                    continue;
                }
            };
            let full = bytes + lines.len() > MAX_BULK_BYTES || batch.len() == MAX_BULK_DOCUMENTS;
            if full && !batch.is_empty() {
                let batch = std::mem::take(&mut batch);
                self.store_batch(batch, &mut conflicts, rejected).await?;
                bytes = 0;
            }
            bytes += lines.len();
            batch.push((one, lines));
        }
        if !batch.is_empty() {
            self.store_batch(batch, &mut conflicts, rejected).await?;
        }
        Ok(conflicts)
    }

    /// Stores a batch, in halves where it is too long for what is in front of the server.
    async fn store_batch(
        &self,
        batch: Vec<(Pending, Vec<u8>)>,
        conflicts: &mut Vec<Pending>,
        rejected: &mut Vec<Lost>,
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
                    rejected.push(Lost::new(&one.document, reason));
                }
                continue;
            };
            for ((mut one, _), item) in batch.into_iter().zip(items) {
                match outcome(&item)? {
                    Outcome::Stored => {}
                    Outcome::Conflict => conflicts.push(one),
                    Outcome::NoIndex => {
                        self.known().remove(&one.index);
                        one.replaces = None;
                        conflicts.push(one);
                    }
                    Outcome::Rejected(reason) => rejected.push(Lost::new(&one.document, reason)),
                }
            }
        }
        Ok(())
    }

    /// Sends a bulk request of so many actions; returns what became of each, or nothing where it is too
    /// long.
    pub(super) async fn bulk(
        &self,
        body: Vec<u8>,
        actions: usize,
        refresh: bool,
    ) -> Result<Option<Vec<BulkItem>>, SearchError> {
        let query = [
            ("timeout", SERVER_TIMEOUT),
            (
                "filter_path",
                "items.*.status,items.*.error.type,items.*.error.reason",
            ),
            ("refresh", if refresh { "true" } else { "false" }),
        ];
        let sent = self.server.send(
            Method::Post,
            "/_bulk",
            &query,
            BodyType::NdJson,
            Some(Bytes::from(body)),
        );
        let reply = sent.await?;
        if reply.status == 413 {
            return Ok(None);
        }
        let response: BulkResponse = reply.parse()?;
        let items: Vec<BulkItem> = response
            .items
            .into_iter()
            .filter_map(|item| item.into_values().next())
            .collect();
        if items.len() != actions {
            return Err(SearchError::Response(format!(
                "it tells of {} documents where {actions} were sent",
                items.len()
            )));
        }
        Ok(Some(items))
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

    /// Reads documents by index and `_id`, as they are now and not as of the last refresh; nothing for each
    /// that is not there.
    pub(super) async fn read(
        &self,
        wanted: &[(&str, &str)],
    ) -> Result<Vec<Option<(Revision, Document)>>, SearchError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let docs: Vec<_> = wanted
            .iter()
            .map(|(index, id)| json!({"_index": index, "_id": id}))
            .collect();
        let query = [
            ("_source_includes", "body"),
            (
                "filter_path",
                "docs._id,docs.found,docs._seq_no,docs._primary_term,docs._source,docs.error.type",
            ),
        ];
        let body = json!({"docs": docs});
        let reply = self
            .server
            .json(Method::Post, "/_mget", &query, &body)
            .await?;
        let response: ReadResponse = reply.parse()?;
        if response.docs.len() != wanted.len() {
            return Err(SearchError::Response(format!(
                "it tells of {} documents where {} were asked for",
                response.docs.len(),
                wanted.len()
            )));
        }
        response
            .docs
            .into_iter()
            .map(ReadDocument::stored)
            .collect()
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

impl ReadDocument {
    fn stored(self) -> Result<Option<(Revision, Document)>, SearchError> {
        let kind = self.error.and_then(|error| error.kind);
        match kind.as_deref() {
            None | Some("index_not_found_exception") => {}
            Some(kind) => {
                return Err(SearchError::Unavailable(format!(
                    "it cannot read a document ({})",
                    plain(kind).unwrap_or("for a reason that it does not name")
                )));
            }
        }
        match (self.seq_no, self.primary_term, self.source) {
            (Some(seq_no), Some(primary_term), Some(source)) if self.found => {
                let revision = Revision {
                    seq_no,
                    primary_term,
                };
                Ok(Some((revision, source.document()?)))
            }
            _ if self.found => Err(SearchError::Response(
                "a document without its text".to_owned(),
            )),
            _ => Ok(None),
        }
    }
}

/// Returns what tells documents apart.
fn name(document: &Document) -> (&str, &str) {
    (&document.listener, &document.id)
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
    let unreadable = |_| "it cannot be written as JSON".to_owned();
    let body = serde_json::to_string(document).map_err(unreadable)?;
    if body.len() > MAX_DOCUMENT_BYTES {
        return Err(format!("it has more than {MAX_DOCUMENT_BYTES} bytes"));
    }
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
    serde_json::to_writer(&mut lines, &source).map_err(unreadable)?;
    lines.push(b'\n');
    Ok(lines)
}

/// Tells what became of a document, or why no document can be stored now.
fn outcome(item: &BulkItem) -> Result<Outcome, SearchError> {
    let kind = item.kind();
    let reason = item
        .error
        .as_ref()
        .and_then(|error| error.reason.as_deref());
    let told = format!("{} ({})", kind.unwrap_or("no type given"), item.status);
    match (item.status, kind) {
        (200..300, None) => Ok(Outcome::Stored),
        (_, Some(kind)) if is_passing(kind) => Err(SearchError::Unavailable(told)),
        (409, _) => Ok(Outcome::Conflict),
        (404, Some("index_not_found_exception")) => Ok(Outcome::NoIndex),
        // Only what is known to be about the document: else all would be lost for a wrong setting.
        (400, Some("mapper_parsing_exception" | "document_parsing_exception")) => {
            Ok(Outcome::Rejected(told))
        }
        (400, Some("illegal_argument_exception"))
            if reason.is_some_and(|reason| reason.contains("immense term")) =>
        {
            Ok(Outcome::Rejected(format!(
                "it has too long a value: {told}"
            )))
        }
        (408 | 429 | 500.., _) => Err(SearchError::Unavailable(told)),
        (401 | 403, _) => Err(SearchError::Refused(format!(
            "the credentials lack a right: {told}"
        ))),
        _ => Err(SearchError::Refused(told)),
    }
}
