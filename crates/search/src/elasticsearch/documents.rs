//! Requests of documents: many at once, each answered for itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::json;

use super::ElasticsearchIndex;
use super::transport::{BodyType, SERVER_TIMEOUT, is_passing, plain};
use crate::document::Document;
use crate::error::SearchError;

/// State of a stored document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Revision {
    pub(super) seq_no: u64,
    pub(super) primary_term: u64,
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
struct StoredSource {
    body: String,
}

/// What became of a document in a bulk request.
pub(super) enum Outcome {
    Stored,
    /// It is there already, or has been changed since it was read.
    Conflict,
    /// Its index is not there.
    NoIndex,
    /// It can never be stored, wherever it is to be.
    Rejected(String),
    /// It is refused, for its own sake or since nothing can be stored in its index.
    Refused(String),
}

impl ElasticsearchIndex {
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
                Ok(Some((revision, Document::parse(&source.body)?)))
            }
            _ if self.found => Err(SearchError::Response(
                "a document without its text".to_owned(),
            )),
            _ => Ok(None),
        }
    }
}

/// Tells what became of a document, or why no document can be stored now.
pub(super) fn outcome(item: &BulkItem) -> Result<Outcome, SearchError> {
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
        _ => Ok(Outcome::Refused(told)),
    }
}
