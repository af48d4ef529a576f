//! Cache of the Secrets that listeners and observers refer to.
//!
//! The watch of Secrets carries metadata only. Values are read when a listener needs them, once for
//! each version, and cached as long as a listener refers to them. So a listener that is deleted
//! together with its Secret can still be cleaned up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::cache::Index;
use crate::listener::validate::SecretValues;
use crate::object_ref::ObjectRef;

/// The values of one Secret.
type Values = BTreeMap<String, Vec<u8>>;

/// Values with the version in which they were read.
type CachedSecret = (Arc<str>, Arc<Values>);

/// Reads and caches Secrets.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<HashMap<ObjectRef, CachedSecret>>);

impl Secrets {
    /// Returns Secrets in the versions that the index knows, or later.
    pub async fn read(
        &self,
        client: &Client,
        index: &Mutex<Index>,
        wanted: &BTreeSet<ObjectRef>,
    ) -> Result<SecretValues, kube::Error> {
        let mut found = SecretValues::new();
        for key in wanted {
            let seen = lock(index).secret(key);
            let values = match seen {
                None => None,
                Some(seen) => match self.cached(key).filter(|(at, _)| *at == seen.version) {
                    Some((_, values)) => Some(values),
                    None => self.fetch(client, key).await?,
                },
            };
            found.insert(key.clone(), values.map(|values| (*values).clone()));
        }
        let index = lock(index);
        lock(&self.0).retain(|key, _| index.is_referenced(key));
        Ok(found)
    }

    /// Reads Secrets again, and returns the cached values of those that cannot be read.
    pub async fn read_or_cached(
        &self,
        client: &Client,
        wanted: &BTreeSet<ObjectRef>,
    ) -> SecretValues {
        let mut found = SecretValues::new();
        for key in wanted {
            let kept = || self.cached(key).map(|(_, values)| values);
            let known = kept();
            let values = match self.fetch(client, key).await {
                Ok(Some(values)) => Some(values),
                Ok(None) => known,
                Err(error) => {
                    tracing::debug!(secret = %key, %error, "cannot read a Secret");
                    known
                }
            };
            found.insert(key.clone(), values.map(|values| (*values).clone()));
        }
        found
    }

    fn cached(&self, key: &ObjectRef) -> Option<CachedSecret> {
        lock(&self.0).get(key).cloned()
    }

    async fn fetch(
        &self,
        client: &Client,
        key: &ObjectRef,
    ) -> Result<Option<Arc<Values>>, kube::Error> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &key.namespace);
        let Some(secret) = api.get_opt(&key.name).await? else {
            return Ok(None);
        };
        let data = secret.data.unwrap_or_default();
        let values: Values = data
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect();
        let values = Arc::new(values);
        let version = secret.metadata.resource_version.unwrap_or_default().into();
        lock(&self.0).insert(key.clone(), (version, values.clone()));
        Ok(Some(values))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
