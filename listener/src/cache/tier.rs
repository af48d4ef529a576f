//! A place where results are stored.

use super::key::CacheKey;
use super::stored::StoredResult;

/// A place where results are stored. It may lose any of them at any time, and never fails.
pub(crate) trait CacheTier: Send + Sync {
    /// Returns what is stored, fresh or not.
    fn get(&self, key: &CacheKey) -> impl Future<Output = Option<StoredResult>> + Send;

    /// Stores a result, in place of another.
    fn put(&self, key: &CacheKey, result: &StoredResult) -> impl Future<Output = ()> + Send;
}
