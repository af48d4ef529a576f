//! Reads a bundle from its Secrets: the first tells how many there are and what they make up.

use std::time::Duration;

use crds::bundle::{
    BUNDLE_KEY, BUNDLE_NAME, HASH_ANNOTATION, MAX_PARTS, PARTS_ANNOTATION, UnpackError, part_name,
    unpack,
};
use crds::pod_status::PodProblem;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::time::timeout;

use super::cluster::api_error;

/// Longest wait for one Secret.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a bundle is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoredBundleError {
    /// The first Secret is not there, or holds no bundle.
    #[error("the Secret {name} {what}; the operator creates it")]
    Missing {
        /// Its name.
        name: String,
        /// What is missing.
        what: String,
    },
    /// The other Secrets cannot be read, or are of another bundle, as while the operator writes them.
    #[error("{0}; the operator writes all parts of a bundle, the first one last")]
    Rest(String),
    /// They are no bundle.
    #[error("the bundle in the Secret {name} cannot be read: {source}")]
    Format {
        /// Name of the first.
        name: String,
        /// Why.
        source: UnpackError,
    },
}

impl StoredBundleError {
    /// The first Secret was not asked for yet.
    pub(super) fn not_read(name: &str) -> Self {
        missing(name, "is not read yet")
    }
}

impl From<StoredBundleError> for PodProblem {
    fn from(error: StoredBundleError) -> Self {
        let reason = match &error {
            StoredBundleError::Missing { .. } => "BundleMissing",
            StoredBundleError::Rest(_) => "BundleUnreadable",
            StoredBundleError::Format { .. } => "BundleInvalid",
        };
        Self {
            reason: reason.to_owned(),
            message: error.to_string(),
        }
    }
}

fn missing(name: &str, what: &str) -> StoredBundleError {
    StoredBundleError::Missing {
        name: name.to_owned(),
        what: what.to_owned(),
    }
}

/// Returns the text of a bundle of which the first Secret is given. One that a person made may hold it as it is.
pub(super) async fn read(
    secrets: &Api<Secret>,
    first: Option<&Secret>,
    name: &str,
) -> Result<Vec<u8>, StoredBundleError> {
    let first = first.ok_or_else(|| missing(name, "is not there"))?;
    let Some(part) = value(first, BUNDLE_KEY) else {
        let text = value(first, BUNDLE_NAME).map(<[u8]>::to_vec);
        return text.ok_or_else(|| missing(name, &format!("has no key {BUNDLE_KEY}")));
    };
    let hash = annotation(first, HASH_ANNOTATION);
    let count = annotation(first, PARTS_ANNOTATION).map_or(Ok(1), str::parse);
    let count = count.ok().filter(|count| (1..=MAX_PARTS).contains(count));
    let count = count.ok_or_else(|| missing(name, &format!("has no proper {PARTS_ANNOTATION}")))?;
    let mut rest = Vec::with_capacity(count);
    for n in 2..=count {
        let name = part_name(name, n);
        let read = timeout(READ_TIMEOUT, secrets.get(&name)).await;
        let part = read
            .map_err(|_| {
                StoredBundleError::Rest(format!(
                    "the API server does not answer for the Secret {name}"
                ))
            })?
            .map_err(|error| {
                StoredBundleError::Rest(format!(
                    "cannot read the Secret {name}: {}",
                    api_error(&error)
                ))
            })?;
        rest.push((name, part));
    }
    let mut parts = vec![part];
    for (name, secret) in &rest {
        let part = value(secret, BUNDLE_KEY);
        let part = part.filter(|_| annotation(secret, HASH_ANNOTATION) == hash);
        let other = || StoredBundleError::Rest(format!("the Secret {name} is of another bundle"));
        parts.push(part.ok_or_else(other)?);
    }
    let text = unpack(&parts).map_err(|source| StoredBundleError::Format {
        name: name.to_owned(),
        source,
    })?;
    match hash {
        Some(hash) if crds::bundle::hash(&text) != hash => Err(StoredBundleError::Rest(format!(
            "what is in the Secret {name} is not what it says"
        ))),
        _ => Ok(text),
    }
}

fn value<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    let value = secret.data.as_ref()?.get(key)?;
    Some(&value.0)
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}
