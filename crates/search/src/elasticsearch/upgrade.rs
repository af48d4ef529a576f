//! Upgrade of the mapping: documents of an older version are written to indices of the current one, with
//! their terms computed again, and removed from the old indices, which are dropped once they are empty.
//!
//! It is done here and not by the server's `_reindex`, which not every server has, which computes nothing
//! anew, and which overwrites a document or leaves it out where both indices have it: here they are
//! merged. Each document is in one of both all the time, and for a moment in both.

use std::time::{Duration, Instant};

use serde_json::json;

use super::ElasticsearchIndex;
use super::names::MAPPING_VERSION;
use super::read::fitting;
use crate::error::SearchError;

/// Longest time that one call goes on with it; the next one takes up where it ended.
const UPGRADE_TIME: Duration = Duration::from_secs(5);

/// Number of documents that are moved at once.
const MOVED_AT_ONCE: usize = 200;

impl ElasticsearchIndex {
    /// Moves documents of an older mapping, for a while. Returns whether more may be left.
    pub(super) async fn upgrade(&self) -> Result<bool, SearchError> {
        let begun = Instant::now();
        for (name, index) in self.own_indices(&self.pattern()).await? {
            if index.version > MAPPING_VERSION {
                tracing::warn!(
                    index = %name,
                    "there are documents of a newer version; what both write may be found twice"
                );
                continue;
            }
            if index.version == MAPPING_VERSION {
                continue;
            }
            tracing::info!(index = %name, "moving documents of an older mapping");
            loop {
                if begun.elapsed() > UPGRADE_TIME {
                    return Ok(true);
                }
                if !self.move_page(&name).await? {
                    break;
                }
            }
            self.drop_without(&name, &json!({"match_all": {}})).await?;
        }
        Ok(false)
    }

    /// Moves a page of documents. Returns whether there was any.
    async fn move_page(&self, index: &str) -> Result<bool, SearchError> {
        let body = json!({
            "query": {"match_all": {}},
            "sort": ["_doc"],
            "size": MOVED_AT_ONCE,
            "seq_no_primary_term": true,
        });
        let hits = self.find_hits(index, body).await?;
        if hits.is_empty() {
            return Ok(false);
        }
        let hits = fitting(&hits);
        let documents = self.read_hits(hits).await?;
        let report = self.write_merged(&documents).await?;
        for rejected in report.rejected {
            let reason = rejected.reason;
            tracing::warn!(index, id = %rejected.id, reason, "a document is left out");
        }
        self.remove_hits(hits).await?;
        Ok(true)
    }
}
