//! Where Leases are kept: the API server, and in tests a small imitation of it that can be
//! made slow, deaf or wrong. Nothing here waits, retries or decides.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, future};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{PostParams, WatchEvent, WatchParams};
use thiserror::Error;

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// There has been another write since, or the Lease to be created exists.
    #[error("the lease has changed meanwhile")]
    Conflict,
    /// The Lease to be replaced does not exist.
    #[error("the lease does not exist")]
    Missing,
    /// The caller's Role does not grant this.
    #[error("the API server forbids it; grant get, create, update and watch on leases")]
    Forbidden(#[source] kube::Error),
    /// No answer came in time; the call may have had its effect all the same.
    #[error("the API server did not answer in time")]
    Timeout,
    /// Anything else.
    #[error("the API server could not be asked")]
    Api(#[source] kube::Error),
}

impl From<kube::Error> for StoreError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => {
                Self::Conflict
            }
            kube::Error::Api(status) if status.is_not_found() => Self::Missing,
            kube::Error::Api(status) if status.is_forbidden() => Self::Forbidden(error),
            _ => Self::Api(error),
        }
    }
}

/// The changes of one Lease: what it became, or nothing when it was deleted.
pub(crate) type Changes = BoxStream<'static, Result<Option<Lease>, StoreError>>;

/// What is asked of the place where Leases are kept.
pub(crate) trait Store: Send + Sync {
    /// The Lease as it is now.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>>;
    /// Makes a Lease that does not exist.
    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>>;
    /// Replaces the very version that `lease` names.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>>;
    /// Follows the changes after `version`, until the connection ends.
    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<Changes, StoreError>>;
}

impl Store for Api<Lease> {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(async move { Ok(self.get_opt(name).await?) })
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move { Ok(Api::create(self, &PostParams::default(), lease).await?) })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async move { Ok(Api::replace(self, name, &PostParams::default(), lease).await?) })
    }

    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<Changes, StoreError>> {
        Box::pin(async move {
            // A right that is bound to names covers a watch of just that name.
            let params = WatchParams::default().fields(&format!("metadata.name={name}"));
            let events = Api::watch(self, &params, version).await?;
            Ok(events
                .map_err(StoreError::from)
                .try_filter_map(|event| future::ready(change(event).transpose()))
                .boxed())
        })
    }
}

/// What an event says about the Lease, if anything.
fn change(event: WatchEvent<Lease>) -> Option<Result<Option<Lease>, StoreError>> {
    match event {
        WatchEvent::Added(lease) | WatchEvent::Modified(lease) => Some(Ok(Some(lease))),
        WatchEvent::Deleted(_) => Some(Ok(None)),
        WatchEvent::Bookmark(_) => None,
        WatchEvent::Error(status) => Some(Err(kube::Error::Api(status).into())),
    }
}
