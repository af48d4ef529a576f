//! Stores of Leases: the API server, other stores with the same versioning, and a fake one in tests
//! that can be slow, unresponsive or wrong. A store does not wait, retry or decide.

use std::error::Error;
use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, future};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use thiserror::Error;

/// Status that the API server returns if a version is too old to be watched from.
const HTTP_GONE: u16 = 410;

/// Why a request to a store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The Lease was modified concurrently, or the Lease to create exists already.
    #[error("the lease was modified concurrently")]
    Conflict,
    /// The Lease to replace or delete does not exist.
    #[error("the lease does not exist")]
    Missing,
    /// The caller's Role does not grant the verb.
    #[error("the API server forbids it; grant get, create, update and watch on leases")]
    Forbidden(#[source] kube::Error),
    /// No response arrived in time; the request may still have taken effect.
    #[error("the request timed out")]
    Timeout,
    /// The resource version is too old to watch from; the caller must list again.
    #[error("the resource version is too old to watch from")]
    Expired,
    /// The API server returned another error, or could not be reached.
    #[error("the request to the API server failed")]
    Api(#[source] kube::Error),
    /// A store other than the API server failed.
    #[error("the request to the lease store failed")]
    Other(#[source] Box<dyn Error + Send + Sync>),
}

impl From<kube::Error> for StoreError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => {
                Self::Conflict
            }
            kube::Error::Api(status) if status.is_not_found() => Self::Missing,
            kube::Error::Api(status) if status.is_forbidden() => Self::Forbidden(error),
            kube::Error::Api(status) if status.code == HTTP_GONE => Self::Expired,
            _ => Self::Api(error),
        }
    }
}

/// Stream of the states of one Lease; `None` after a deletion.
pub type LeaseWatch = BoxStream<'static, Result<Option<Lease>, StoreError>>;

/// Event about one of many Leases.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large kind"
)]
pub enum LeaseEvent {
    /// A Lease was created or modified, and this is its new state.
    Applied(Lease),
    /// The Lease of this name was deleted.
    Deleted(String),
}

/// Stream of the events of all Leases of a fleet, in the order of their versions.
pub type LeaseEvents = BoxStream<'static, Result<LeaseEvent, StoreError>>;

/// Storage of Leases with optimistic concurrency.
///
/// Every write gives a Lease a new version, `metadata.resourceVersion`: a decimal number, greater
/// than the versions of all earlier writes to any Lease of the store. A reader that
/// has seen a version has seen all lower ones. The caller limits the time of each request, and may drop one.
pub trait LeaseStore: Send + Sync {
    /// Reads a Lease.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>>;
    /// Creates a Lease. Fails with [`StoreError::Conflict`] if it exists.
    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>>;
    /// Replaces exactly the version that `lease` carries. Fails with [`StoreError::Conflict`] if
    /// the version differs, and with [`StoreError::Missing`] if there is no such Lease.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>>;
    /// Watches one Lease for changes after `version`, until the connection ends.
    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>>;
    /// Deletes exactly that version. Fails as [`LeaseStore::replace`] does.
    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Lists all Leases of the fleet, with the version to watch from, which is at least that of
    /// each Lease.
    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>>;
    /// Watches all Leases of the fleet for changes after `version`, until the connection ends.
    /// Fails with [`StoreError::Expired`], here or in the stream, if some of the changes are not
    /// known any more.
    fn watch_all<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>>;
}

/// Leases in the API server: those of one namespace that match a label selector.
#[derive(Clone)]
pub struct KubeLeaseStore {
    api: Api<Lease>,
    selector: String,
}

impl KubeLeaseStore {
    /// Creates a store of the Leases that match `selector`, or of all Leases in the namespace if it
    /// is empty.
    ///
    /// `api` should have a client without retries of its own (`default_retry` of [`kube::Config`]
    /// set to false, which is not its default).
    #[must_use]
    pub fn new(api: Api<Lease>, selector: impl Into<String>) -> Self {
        Self {
            api,
            selector: selector.into(),
        }
    }
}

impl fmt::Debug for KubeLeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeLeaseStore")
            .field("selector", &self.selector)
            .finish_non_exhaustive()
    }
}

impl LeaseStore for KubeLeaseStore {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(async move { Ok(self.api.get_opt(name).await?) })
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move { Ok(self.api.create(&PostParams::default(), lease).await?) })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let params = PostParams::default();
        Box::pin(async move { Ok(self.api.replace(name, &params, lease).await?) })
    }

    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>> {
        Box::pin(async move {
            // A Role that is bound to resource names permits a watch of that single name.
            let params = WatchParams::default().fields(&format!("metadata.name={name}"));
            let events = self.api.watch(&params, version).await?;
            Ok(events
                .map_err(StoreError::from)
                .try_filter_map(|event| future::ready(watched_lease(event).transpose()))
                .boxed())
        })
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let params = DeleteParams::default().preconditions(Preconditions {
            resource_version: Some(version.to_owned()),
            uid: None,
        });
        Box::pin(async move {
            self.api.delete(name, &params).await?;
            Ok(())
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>> {
        let params = ListParams::default().labels(&self.selector);
        Box::pin(async move {
            let list = self.api.list(&params).await?;
            let version = list.metadata.resource_version.unwrap_or_default();
            Ok((list.items, version))
        })
    }

    fn watch_all<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>> {
        let params = WatchParams::default().labels(&self.selector);
        Box::pin(async move {
            let events = self.api.watch(&params, version).await?;
            Ok(events
                .map_err(StoreError::from)
                .try_filter_map(|event| future::ready(lease_event(event).transpose()))
                .boxed())
        })
    }
}

/// Converts a watch event about one of many Leases; bookmarks yield nothing.
fn lease_event(event: WatchEvent<Lease>) -> Option<Result<LeaseEvent, StoreError>> {
    match event {
        WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
            Some(Ok(LeaseEvent::Applied(lease)))
        }
        WatchEvent::Deleted(lease) => Some(Ok(LeaseEvent::Deleted(lease.name_any()))),
        WatchEvent::Bookmark(_) => None,
        WatchEvent::Error(status) => Some(Err(kube::Error::Api(status).into())),
    }
}

/// Converts a watch event about the single watched Lease; bookmarks yield nothing.
fn watched_lease(event: WatchEvent<Lease>) -> Option<Result<Option<Lease>, StoreError>> {
    match event {
        WatchEvent::Added(lease) | WatchEvent::Modified(lease) => Some(Ok(Some(lease))),
        WatchEvent::Deleted(_) => Some(Ok(None)),
        WatchEvent::Bookmark(_) => None,
        WatchEvent::Error(status) => Some(Err(kube::Error::Api(status).into())),
    }
}
