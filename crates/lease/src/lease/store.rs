//! Where Leases are kept: the API server, another place that keeps versions as it does, and in
//! tests a small imitation of it that can be made slow, deaf or wrong. Nothing here waits,
//! retries or decides.

use std::error::Error;
use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, future};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use thiserror::Error;

/// What the server answers where a version is too old to be followed from.
const HTTP_GONE: u16 = 410;

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There has been another write since, or the Lease to be created exists.
    #[error("the lease has changed meanwhile")]
    Conflict,
    /// The Lease to be replaced or deleted does not exist.
    #[error("the lease does not exist")]
    Missing,
    /// The caller's Role does not grant this.
    #[error("the API server forbids it; grant get, create, update and watch on leases")]
    Forbidden(#[source] kube::Error),
    /// No answer came in time; the call may have had its effect all the same.
    #[error("no answer in time")]
    Timeout,
    /// The changes since that version are not known any more: list anew.
    #[error("the changes since that version are not known any more")]
    Expired,
    /// Anything else that the API server says, or that keeps it from being asked.
    #[error("the API server could not be asked")]
    Api(#[source] kube::Error),
    /// Anything that goes wrong with a place other than the API server.
    #[error("the place of the leases could not be asked")]
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

/// The changes of one Lease: what it became, or nothing when it was deleted.
pub type LeaseWatch = BoxStream<'static, Result<Option<Lease>, StoreError>>;

/// A change of one Lease among many.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the large kind"
)]
pub enum LeaseEvent {
    /// What a Lease became.
    Applied(Lease),
    /// The name of a Lease that was deleted.
    Deleted(String),
}

/// The changes of all Leases of a fleet, in the order of their versions.
pub type LeaseEvents = BoxStream<'static, Result<LeaseEvent, StoreError>>;

/// What is asked of the place where Leases are kept.
///
/// Every write gives a Lease a new version, `metadata.resourceVersion`: a decimal number,
/// greater than all that were given before, to whichever Lease. Who sees a version has seen
/// all that are lower. The caller bounds each call in time, and may give one up.
pub trait LeaseStore: Send + Sync {
    /// The Lease as it is now.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>>;
    /// Makes a Lease that does not exist; a [`StoreError::Conflict`] where it does.
    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>>;
    /// Replaces the very version that `lease` names; a [`StoreError::Conflict`] where it has
    /// another, and [`StoreError::Missing`] where there is none.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>>;
    /// Follows the changes of one Lease after `version`, until the connection ends.
    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>>;
    /// Deletes that very version; refusals as of [`LeaseStore::replace`].
    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
    /// All Leases of the fleet as they are now, and the version to follow them from, which is
    /// at least that of each.
    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>>;
    /// Follows the changes of all Leases of the fleet after `version`, until the connection
    /// ends; [`StoreError::Expired`], here or from the stream, where they are not all known.
    fn watch_all<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>>;
}

/// The Leases of a fleet in the API server: those of one namespace that a selector names.
#[derive(Clone)]
pub struct KubeLeaseStore {
    api: Api<Lease>,
    selector: String,
}

impl KubeLeaseStore {
    /// The Leases that have the labels of `selector`; all of the namespace where it is empty.
    ///
    /// `api` should have a client that does not retry by itself (`default_retry` of
    /// [`kube::Config`] set to false, which is not its default).
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
            // A right that is bound to names covers a watch of just that name.
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

/// What an event says about one Lease among many, if anything.
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

/// What an event says about the Lease, if anything.
fn watched_lease(event: WatchEvent<Lease>) -> Option<Result<Option<Lease>, StoreError>> {
    match event {
        WatchEvent::Added(lease) | WatchEvent::Modified(lease) => Some(Ok(Some(lease))),
        WatchEvent::Deleted(_) => Some(Ok(None)),
        WatchEvent::Bookmark(_) => None,
        WatchEvent::Error(status) => Some(Err(kube::Error::Api(status).into())),
    }
}
