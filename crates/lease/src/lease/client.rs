//! Requests about one Lease, each with a timeout. Each write is guarded by the resource version
//! that was read. A request without a response may still take effect; the guard makes that
//! harmless.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::lease::record::{LeaseWriter, read_record, without_holder};
use crate::lease::store::{LeaseStore, LeaseWatch, StoreError};
use crate::lease::timing::Timing;

/// Delay before a Lease that was modified concurrently is read again.
pub(crate) const CONFLICT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Number of retry periods that a release may take; after that the Lease is left to expire.
const RELEASE_PERIODS: u32 = 2;

/// Client of one process for one Lease.
#[derive(Clone)]
pub(crate) struct LeaseClient {
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) writer: Arc<LeaseWriter>,
    pub(crate) timing: Timing,
}

/// Lease that was written with this process as its holder.
#[derive(Clone, Debug)]
pub(crate) struct HeldLease {
    /// The Lease as it was written.
    pub(crate) lease: Lease,
    /// When this process must stop, unless it has renewed by then.
    pub(crate) deadline: Instant,
}

impl LeaseClient {
    /// Reads the Lease.
    pub(crate) async fn get(&self) -> Result<Option<Lease>, StoreError> {
        self.with_timeout(self.store.get(&self.writer.name)).await
    }

    /// Watches the Lease from the version of `lease` on.
    pub(crate) async fn watch(&self, lease: &Lease) -> Result<LeaseWatch, StoreError> {
        let version = read_record(lease).version;
        self.with_timeout(self.store.watch(&self.writer.name, &version))
            .await
    }

    /// Writes this process as the holder, over the version that was read, and returns the new
    /// deadline.
    pub(crate) async fn acquire_or_renew(
        &self,
        seen: Option<&Lease>,
    ) -> Result<HeldLease, StoreError> {
        // Others may see the record as soon as it is sent, so the deadline counts from here.
        let deadline = Instant::now() + self.timing.renew_deadline();
        let lease = self.writer.with_holder(seen, SystemTime::now());
        let lease = match seen {
            Some(_) => self.replace(&lease).await?,
            None => self.with_timeout(self.store.create(&lease)).await?,
        };
        Ok(HeldLease { lease, deadline })
    }

    /// Releases the Lease, if this process holds it, so that another can acquire it at once.
    pub(crate) async fn release(&self, seen: Option<Lease>) {
        let (name, me) = (&self.writer.name, &self.writer.identity);
        let limit = self.timing.retry_period() * RELEASE_PERIODS;
        match timeout(limit, self.try_release(seen)).await {
            Ok(true) => info!(lease = name, holder = %me, "lease released"),
            Ok(false) => {
                debug!(lease = name, holder = %me, "lease not released: another process holds it");
            }
            Err(_) => warn!(
                lease = name,
                holder = %me,
                "lease release timed out; standbys must wait until it expires"
            ),
        }
    }

    /// Retries until the release is confirmed. Returns whether this process was the holder.
    async fn try_release(&self, mut seen: Option<Lease>) -> bool {
        loop {
            if let Some(lease) = &seen {
                if read_record(lease).holder.as_deref() != Some(self.writer.identity.as_str()) {
                    return false;
                }
                match self.replace(&without_holder(lease)).await {
                    Ok(_) => return true,
                    Err(StoreError::Missing) => return false,
                    Err(error) => debug!(%error, "lease release failed; retrying"),
                }
            }
            sleep(CONFLICT_RETRY_DELAY).await;
            seen = match self.get().await {
                Ok(None) => return false,
                Ok(lease) => lease,
                Err(_) => None,
            };
        }
    }

    /// Replaces the version that `lease` carries.
    async fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
        self.with_timeout(self.store.replace(&self.writer.name, lease))
            .await
    }

    /// Limits a request to one retry period.
    async fn with_timeout<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        timeout(self.timing.retry_period(), call)
            .await
            .unwrap_or(Err(StoreError::Timeout))
    }
}

impl fmt::Debug for LeaseClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseClient")
            .field("writer", &self.writer)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
