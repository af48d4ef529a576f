//! The secrets that resources refer to, and the documents that carry them.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::validation::names::{is_secret_key, is_secret_name};

/// Gives the keys of a Secret, by namespace and name; nothing if there is no such Secret.
pub type SecretReader<'a> = dyn Fn(&str, &str) -> Option<BTreeMap<String, Vec<u8>>> + 'a;

/// Reference of a resource to a key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Namespace of the resource, and so of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub name: String,
    /// Key within it.
    pub key: String,
}

/// Collects the secrets that the spec of a resource refers to. Names that no Secret or key can have are left out, and
/// validation reports them: in the path of a request they could lead elsewhere.
#[must_use]
pub fn references(namespace: &str, spec: &impl serde::Serialize) -> BTreeSet<Reference> {
    references_of(namespace, &serde_json::to_value(spec).unwrap_or_default())
}

/// Collects the secrets that the fields of a resource refer to.
pub(crate) fn references_of(namespace: &str, fields: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    collect(namespace, fields, &mut found);
    found
}

fn collect(namespace: &str, value: &Value, found: &mut BTreeSet<Reference>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
                if name == "secretKeyRef"
                    && let (Some(name), Some(key)) = (text("name"), text("key"))
                {
                    if !is_secret_name(&name) || !is_secret_key(&key) {
                        continue;
                    }
                    found.insert(Reference {
                        namespace: namespace.to_owned(),
                        name,
                        key,
                    });
                } else if name != "podTemplate" {
                    // What the pods get from Secrets by themselves is not the listener's.
                    collect(namespace, value, found);
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect(namespace, item, found)),
        _ => {}
    }
}

/// Returns a sentence for each secret that does not exist.
pub(super) fn missing(needs: &BTreeSet<Reference>, secrets: &SecretReader<'_>) -> Vec<String> {
    let sentence = |need: &Reference| {
        let Reference {
            namespace,
            name,
            key,
        } = need;
        match secrets(namespace, name) {
            None => Some(format!(
                "there is no Secret `{name}` in namespace `{namespace}`; create it with key `{key}`"
            )),
            Some(keys) if !keys.contains_key(key) => Some(format!(
                "Secret `{name}` in namespace `{namespace}` has no key `{key}`; add it"
            )),
            Some(_) => None,
        }
    };
    needs.iter().filter_map(sentence).collect()
}

/// Documents of the Secrets that are referred to, with no other keys than those.
pub(super) fn secret_documents(
    used: &BTreeSet<Reference>,
    secrets: &SecretReader<'_>,
) -> Vec<Value> {
    let mut found: BTreeMap<(&str, &str), BTreeMap<&str, String>> = BTreeMap::new();
    for Reference {
        namespace,
        name,
        key,
    } in used
    {
        if let Some(value) = secrets(namespace, name).and_then(|mut keys| keys.remove(key)) {
            let keys = found.entry((namespace, name)).or_default();
            keys.insert(key, STANDARD.encode(value));
        }
    }
    let document = |((namespace, name), data)| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "namespace": namespace },
            "data": data,
        })
    };
    found.into_iter().map(document).collect()
}
