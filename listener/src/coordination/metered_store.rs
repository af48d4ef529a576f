//! A lease store that counts its requests.

use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use lease::{LeaseEvents, LeaseStore, LeaseWatch, StoreError};
use prometheus::IntCounterVec;

/// Lease store with a counter of its requests by verb.
#[derive(Debug)]
pub(crate) struct MeteredLeaseStore<S> {
    store: S,
    requests: IntCounterVec,
}

impl<S> MeteredLeaseStore<S> {
    pub(crate) const fn new(store: S, requests: IntCounterVec) -> Self {
        Self { store, requests }
    }

    fn count(&self, verb: &str) {
        self.requests.with_label_values(&[verb]).inc();
    }
}

impl<S: LeaseStore> LeaseStore for MeteredLeaseStore<S> {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        self.count("get");
        self.store.get(name)
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        self.count("create");
        self.store.create(lease)
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        self.count("update");
        self.store.replace(name, lease)
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.count("delete");
        self.store.delete(name, version)
    }

    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>> {
        self.count("watch");
        self.store.watch(name, version)
    }

    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>> {
        self.count("list");
        self.store.list()
    }

    fn watch_all<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>> {
        self.count("watch");
        self.store.watch_all(version)
    }
}
