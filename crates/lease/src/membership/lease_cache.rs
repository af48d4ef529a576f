//! Cache of the Leases as they were seen last, so that a write preserves fields of other programs,
//! and the requests that write them, each with a timeout.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::timeout;

use super::MembershipConfig;
use super::names::{
    LeaseKey, LeaseState, MEMBER_ROLE, MemberId, ROLE_LABEL, SHARD_ROLE, SHARDS_ANNOTATION,
};
use super::state_machine::{Command, Input, WriteError};
use crate::lease::Identity;
use crate::lease::record::{LeaseWriter, without_holder};
use crate::lease::store::StoreError;

/// Hint for a forbidden request: membership needs more verbs than leader election.
const FORBIDDEN: &str = "the API server forbids it; grant get, list, watch, create, update and \
                         delete on leases";

/// Result of a request about one Lease.
pub(super) struct CallResult {
    key: LeaseKey,
    result: Result<Option<Lease>, StoreError>,
}

/// Cached Leases of a fleet, by key.
pub(super) struct LeaseCache {
    config: MembershipConfig,
    leases: BTreeMap<LeaseKey, (u64, Lease)>,
}

impl LeaseCache {
    pub(super) fn new(config: MembershipConfig) -> Self {
        Self {
            config,
            leases: BTreeMap::new(),
        }
    }

    /// Inserts a Lease, unless a newer version is cached. Returns its key and state, if it belongs
    /// to this fleet and has a comparable version.
    pub(super) fn upsert(&mut self, lease: Lease) -> Option<(LeaseKey, LeaseState)> {
        let key = LeaseKey::from_lease(&lease, &self.config.listener)?;
        Some((key.clone(), self.upsert_as(key, lease)?))
    }

    /// Inserts a Lease under a key that is known already.
    fn upsert_as(&mut self, key: LeaseKey, lease: Lease) -> Option<LeaseState> {
        let state = LeaseState::from_lease(&lease)?;
        let kept = self.leases.get(&key);
        if kept.is_none_or(|(version, _)| *version <= state.version) {
            self.leases.insert(key, (state.version, lease));
        }
        Some(state)
    }

    /// Replaces the whole cache by a list.
    pub(super) fn replace_all(&mut self, leases: Vec<Lease>) -> Vec<(LeaseKey, LeaseState)> {
        self.leases.clear();
        leases
            .into_iter()
            .filter_map(|lease| self.upsert(lease))
            .collect()
    }

    /// Removes a deleted Lease by its name. Returns its key.
    pub(super) fn remove(&mut self, name: &str) -> LeaseKey {
        let listener = &self.config.listener;
        let key =
            LeaseKey::parse_shard(name, listener).unwrap_or_else(|| LeaseKey::Member(name.into()));
        self.leases.remove(&key);
        key
    }

    /// Updates the cache from a response and converts it into an input of the state machine.
    pub(super) fn on_response(&mut self, response: CallResult) -> Input {
        let CallResult { key, result } = response;
        let result = match result {
            // It is the requested Lease, even if its labels have changed.
            Ok(Some(lease)) => match self.upsert_as(key.clone(), lease) {
                Some(state) => Ok(Some(state)),
                None => Err(WriteError::Failed(
                    "the resource version of a lease is not a number".to_owned(),
                )),
            },
            Ok(None) => {
                self.leases.remove(&key);
                Ok(None)
            }
            Err(StoreError::Conflict) => Err(WriteError::Conflict),
            Err(StoreError::Missing) => Err(WriteError::Missing),
            Err(error) => Err(WriteError::Failed(error_chain(&error))),
        };
        Input::Response(key, result)
    }

    /// Builds the request for a command; none if the command is not a request.
    pub(super) fn execute(&self, command: Command) -> Option<BoxFuture<'static, CallResult>> {
        let (key, request) = match command {
            Command::Write {
                key,
                replaces,
                holder,
                desired_shards,
            } => {
                let request = self.write(&key, replaces, holder, desired_shards);
                (key, request)
            }
            Command::Delete(key, version) => {
                let (store, lease_name) = (self.config.store.clone(), self.lease_name(&key));
                let request = async move {
                    store.delete(&lease_name, &version.to_string()).await?;
                    Ok(None)
                };
                (key, request.boxed())
            }
            Command::Get(key) => {
                let (store, lease_name) = (self.config.store.clone(), self.lease_name(&key));
                let request = async move { store.get(&lease_name).await };
                (key, request.boxed())
            }
            _ => return None,
        };
        let limit = self.config.timing.retry_period();
        let bounded = async move {
            let result = timeout(limit, request).await;
            let result = result.unwrap_or(Err(StoreError::Timeout));
            CallResult { key, result }
        };
        Some(bounded.boxed())
    }

    /// Builds a write that replaces the cached version, or creates the Lease.
    fn write(
        &self,
        key: &LeaseKey,
        replaces: Option<u64>,
        holder: Option<MemberId>,
        desired_shards: u16,
    ) -> BoxFuture<'static, Result<Option<Lease>, StoreError>> {
        let seen = match replaces {
            None => None,
            Some(version) => match self.leases.get(key) {
                Some((kept, lease)) if *kept == version => Some(lease),
                _ => return futures::future::ready(Err(StoreError::Conflict)).boxed(),
            },
        };
        let mut lease = match (holder, seen) {
            (Some(holder), seen) => self
                .writer(key, &holder)
                .with_holder(seen, SystemTime::now()),
            (None, Some(seen)) => without_holder(seen),
            (None, None) => return futures::future::ready(Err(StoreError::Missing)).boxed(),
        };
        if let (LeaseKey::Member(_), 1..) = (key, desired_shards) {
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert(SHARDS_ANNOTATION.to_owned(), desired_shards.to_string());
        } else if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(SHARDS_ANNOTATION);
        }
        let (store, lease_name, is_update) = (
            self.config.store.clone(),
            self.lease_name(key),
            seen.is_some(),
        );
        let request = async move {
            let written = if is_update {
                store.replace(&lease_name, &lease).await?
            } else {
                store.create(&lease).await?
            };
            Ok(Some(written))
        };
        request.boxed()
    }

    /// Creates the writer of a Lease with its role's labels and owners.
    fn writer(&self, key: &LeaseKey, holder: &str) -> LeaseWriter {
        let config = &self.config;
        let (kind, owners) = match key {
            LeaseKey::Member(_) => (MEMBER_ROLE, &config.member_lease_owners),
            LeaseKey::Shard(_) => (SHARD_ROLE, &config.shard_lease_owners),
        };
        let mut labels = config.labels.clone();
        labels.insert(ROLE_LABEL.to_owned(), kind.to_owned());
        LeaseWriter {
            name: self.lease_name(key),
            identity: Identity::from_existing(holder),
            duration: config.timing.duration(),
            labels,
            owners: owners.clone(),
        }
    }

    /// Returns the name of the Lease with this key.
    fn lease_name(&self, key: &LeaseKey) -> String {
        key.lease_name(&self.config.listener)
    }
}

/// Formats an error with its sources.
pub(super) fn error_chain(error: &StoreError) -> String {
    let mut text = match error {
        StoreError::Forbidden(_) => FORBIDDEN.to_owned(),
        error => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
