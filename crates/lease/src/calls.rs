//! Calls about one Lease, each bounded in time, and each write guarded by the version that was
//! seen. A call that was not answered may still have its effect; the guard makes that harmless.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::record::{Claim, given_up, read};
use crate::store::{Changes, Store, StoreError};
use crate::timing::Timing;

/// Pause before a Lease that changed under our hands is looked at again.
pub(crate) const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// Giving up may take this many retry periods; after that the Lease is left to expire.
const GIVE_UP_PERIODS: u32 = 2;

/// One process's calls about one Lease.
#[derive(Clone)]
pub(crate) struct Calls {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) claim: Arc<Claim>,
    pub(crate) timing: Timing,
}

/// A Lease that was written with this process as its holder.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The Lease as it was written.
    pub(crate) lease: Lease,
    /// When this process must stop, unless it has renewed by then.
    pub(crate) until: Instant,
}

impl Calls {
    /// The Lease as it is now.
    pub(crate) async fn get(&self) -> Result<Option<Lease>, StoreError> {
        self.bounded(self.store.get(&self.claim.name)).await
    }

    /// The changes of the Lease from the version of `lease` on.
    pub(crate) async fn watch(&self, lease: &Lease) -> Result<Changes, StoreError> {
        let version = read(lease).version;
        self.bounded(self.store.watch(&self.claim.name, &version))
            .await
    }

    /// Writes this process down as the holder, over what was seen.
    pub(crate) async fn hold(&self, seen: Option<&Lease>) -> Result<Held, StoreError> {
        // Others may see the record as soon as it is sent, so that is when our time begins.
        let until = Instant::now() + self.timing.renew_deadline();
        let lease = self.claim.held(seen, SystemTime::now());
        let lease = match seen {
            Some(_) => self.replace(&lease).await?,
            None => self.bounded(self.store.create(&lease)).await?,
        };
        Ok(Held { lease, until })
    }

    /// Gives the Lease up, if it is ours, so that another can take it at once.
    pub(crate) async fn give_up(&self, seen: Option<Lease>) {
        let (name, me) = (&self.claim.name, &self.claim.me);
        let limit = self.timing.retry_period() * GIVE_UP_PERIODS;
        match timeout(limit, self.try_give_up(seen)).await {
            Ok(true) => info!(lease = name, holder = %me, "gave the lease up"),
            Ok(false) => debug!(lease = name, holder = %me, "the lease was not ours to give up"),
            Err(_) => warn!(
                lease = name,
                holder = %me,
                "could not give the lease up; others must wait until it expires"
            ),
        }
    }

    /// Whether it was ours to give up. Tries until it knows.
    async fn try_give_up(&self, mut seen: Option<Lease>) -> bool {
        loop {
            if let Some(lease) = &seen {
                if read(lease).holder.as_deref() != Some(self.claim.me.as_str()) {
                    return false;
                }
                match self.replace(&given_up(lease)).await {
                    Ok(_) => return true,
                    Err(StoreError::Missing) => return false,
                    Err(error) => debug!(%error, "the lease is not given up yet"),
                }
            }
            sleep(CONFLICT_PAUSE).await;
            seen = match self.get().await {
                Ok(None) => return false,
                Ok(lease) => lease,
                Err(_) => None,
            };
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, StoreError> {
        self.bounded(self.store.replace(&self.claim.name, lease))
            .await
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        timeout(self.timing.retry_period(), call)
            .await
            .unwrap_or(Err(StoreError::Timeout))
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("claim", &self.claim)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
