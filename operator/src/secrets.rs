//! The values of the Secrets that listeners and observers refer to.
//!
//! Secrets are watched by name and version only. A value is read when a listener is planned, and
//! kept as long as some listener reads it: the API server is asked once for each version, and a
//! listener that goes together with its Secret can still be tidied up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::cache::Index;
use crate::listener::validate::SecretValues;
use crate::object_ref::Key;

/// The values of one Secret.
type Values = BTreeMap<String, Vec<u8>>;

/// Values in the version in which they were read.
type Kept = (Arc<str>, Arc<Values>);

/// Reads Secrets and keeps what it read.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<HashMap<Key, Kept>>);

impl Secrets {
    /// Reads Secrets, at the versions that were seen last or later.
    pub async fn read(
        &self,
        client: &Client,
        index: &Mutex<Index>,
        wanted: &BTreeSet<Key>,
    ) -> Result<SecretValues, kube::Error> {
        let mut found = SecretValues::new();
        for key in wanted {
            let seen = lock(index).secret(key);
            let values = match seen {
                None => None,
                Some(seen) => match self.kept(key).filter(|(at, _)| *at == seen.version) {
                    Some((_, values)) => Some(values),
                    None => self.fetch(client, key).await?,
                },
            };
            found.insert(key.clone(), values.map(|values| (*values).clone()));
        }
        let index = lock(index);
        lock(&self.0).retain(|key, _| index.is_read(key));
        Ok(found)
    }

    /// Reads Secrets anew, and takes what was last known for those that cannot be read.
    pub async fn read_last(&self, client: &Client, wanted: &BTreeSet<Key>) -> SecretValues {
        let mut found = SecretValues::new();
        for key in wanted {
            let kept = || self.kept(key).map(|(_, values)| values);
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

    fn kept(&self, key: &Key) -> Option<Kept> {
        lock(&self.0).get(key).cloned()
    }

    async fn fetch(&self, client: &Client, key: &Key) -> Result<Option<Arc<Values>>, kube::Error> {
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
