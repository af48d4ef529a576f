//! Removing documents, by pages: not every server has the module that deletes by query. Where all of a
//! month goes, the index is dropped, which costs the server nearly nothing.

use chrono::{DateTime, Utc};
use elasticsearch::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ElasticsearchIndex;
use super::query;
use super::read::FoundHit;
use super::transport::{SERVER_TIMEOUT, is_passing};
use crate::error::SearchError;
use crate::request::SortOrder;

/// Maximum number of documents that one call removes one by one.
const REMOVED_AT_ONCE: usize = 2000;

#[derive(Deserialize)]
struct CountResponse {
    count: u64,
}

impl ElasticsearchIndex {
    /// Removes documents of a listener whose events occurred before a time, or all. Returns whether more
    /// may be left.
    pub(super) async fn remove_before(
        &self,
        listener: &str,
        before: Option<DateTime<Utc>>,
    ) -> Result<bool, SearchError> {
        let others = json!({"bool": {"must_not": [query::listener(listener)]}});
        for (name, index) in self.own_indices(&self.pattern()).await? {
            if before.is_none_or(|before| index.ended_before(before)) {
                self.drop_without(&name, &others).await?;
            }
        }
        let mut filter = vec![query::listener(listener)];
        filter.extend(before.map(query::before));
        let body = json!({
            "query": {"bool": {"filter": filter}},
            "sort": query::sort(SortOrder::Oldest),
            "size": REMOVED_AT_ONCE,
        });
        let hits = self.find_hits(&self.index, body).await?;
        let more = hits.len() == REMOVED_AT_ONCE;
        self.remove_hits(&hits).await?;
        Ok(more)
    }

    /// Removes the documents of hits; where a hit has a revision, only if the document is unchanged. The
    /// next search does not find them.
    pub(super) async fn remove_hits(&self, hits: &[FoundHit]) -> Result<(), SearchError> {
        if hits.is_empty() {
            return Ok(());
        }
        let mut body = Vec::new();
        for hit in hits {
            let mut delete = json!({"_index": hit.index, "_id": hit.id});
            if let (Some(seq_no), Some(primary_term)) = (hit.seq_no, hit.primary_term) {
                delete["if_seq_no"] = seq_no.into();
                delete["if_primary_term"] = primary_term.into();
            }
            body.extend(json!({"delete": delete}).to_string().into_bytes());
            body.push(b'\n');
        }
        let items = self.bulk(body, hits.len(), true).await?;
        let too_long =
            || SearchError::Unavailable("it takes no list of documents (413)".to_owned());
        for item in items.ok_or_else(too_long)? {
            let kind = item.kind();
            match (item.status, kind) {
                (_, Some(kind)) if is_passing(kind) => {
                    let told = format!("it removes nothing for now ({kind})");
                    return Err(SearchError::Unavailable(told));
                }
                // It was removed or changed by another process.
                (200..300 | 404 | 409, _) => {}
                (408 | 429 | 500.., _) => {
                    let told = format!("it removes nothing for now ({})", item.status);
                    return Err(SearchError::Unavailable(told));
                }
                _ => {
                    let told = format!("it removes no document ({})", item.status);
                    return Err(SearchError::Refused(told));
                }
            }
        }
        Ok(())
    }

    /// Drops an index if it holds no document that matches.
    pub(super) async fn drop_without(
        &self,
        index: &str,
        matching: &Value,
    ) -> Result<(), SearchError> {
        if self.count(index, matching).await? > 0 {
            return Ok(());
        }
        // Blocks writes between the count and the deletion. Writers retry, and create the index again.
        // Where this is not possible, as on a full disk, it takes no documents either.
        let path = format!("/{index}/_block/write");
        let query = [
            ("master_timeout", SERVER_TIMEOUT),
            ("timeout", SERVER_TIMEOUT),
        ];
        let blocked = match self.server.bare(Method::Put, &path, &query).await {
            Ok(reply) if reply.status == 404 => return Ok(()),
            Ok(reply) => reply.done().map(|()| true)?,
            Err(SearchError::Unavailable(_)) => false,
            Err(error) => return Err(error),
        };
        let count = self.count(index, matching).await;
        if let Ok(0) = count {
            let path = format!("/{index}");
            let reply = self.server.bare(Method::Delete, &path, &query).await?;
            self.known().remove(index);
            if reply.status == 404 {
                return Ok(());
            }
            return reply.done();
        }
        if blocked {
            let path = format!("/{index}/_settings");
            let settings = json!({"index.blocks.write": null});
            let reply = self
                .server
                .json(Method::Put, &path, &query, &settings)
                .await?;
            reply.done()?;
        }
        count.map(drop)
    }

    /// Counts documents of an index, as they are now.
    async fn count(&self, index: &str, matching: &Value) -> Result<u64, SearchError> {
        let refresh = format!("/{index}/_refresh");
        let query = [("ignore_unavailable", "true")];
        self.server.bare(Method::Post, &refresh, &query).await?;
        let path = format!("/{index}/_count");
        let body = json!({"query": matching});
        let reply = self.server.json(Method::Post, &path, &query, &body).await?;
        if reply.status == 404 {
            return Ok(0);
        }
        let CountResponse { count } = reply.parse()?;
        Ok(count)
    }
}
