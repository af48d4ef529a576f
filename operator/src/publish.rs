//! Writes statuses and Events, and what was written into the index, ahead of the watch.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde_json::json;

use crate::cache::projection::CustomResource;
use crate::events::Notice;
use crate::listener::build::FIELD_MANAGER;
use crate::object_ref::Key;

/// Publishes Events. It holds no connection of its own.
pub(crate) struct Publisher(Recorder);

impl Publisher {
    pub(crate) fn new(client: Client, instance: Option<String>) -> Self {
        let controller = FIELD_MANAGER.to_owned();
        Self(Recorder::new(
            client,
            Reporter {
                controller,
                instance,
            },
        ))
    }

    /// Publishes Events about a resource. They are for reading only: one that is lost is lost.
    pub(crate) async fn events<K>(&self, meta: &ObjectMeta, notices: Vec<Notice>)
    where
        K: Resource<DynamicType = ()>,
    {
        let about = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        for notice in notices {
            let type_ = if notice.warning {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let event = Event {
                type_,
                reason: notice.reason,
                note: Some(notice.note),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.0.publish(&event, &about).await {
                tracing::debug!(%error, reason = event.reason, "an Event was not published");
            }
        }
    }
}

/// Writes the status of a resource, unless it is another of the same name by now.
pub(crate) async fn write_status<K>(
    client: &Client,
    meta: &ObjectMeta,
    status: &impl Serialize,
) -> Result<DeserializeGuard<K>, kube::Error>
where
    K: CustomResource,
{
    let key = Key::of(meta);
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": key.name, "namespace": key.namespace, "uid": meta.uid },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let api = api::<K>(client, &key.namespace);
    api.patch_status(&key.name, &parameters, &Patch::Apply(&patch))
        .await
}

/// Sets the finalizers of a resource, unless it changed meanwhile.
pub(crate) async fn write_finalizers<K>(
    client: &Client,
    meta: &ObjectMeta,
    finalizers: &[String],
) -> Result<DeserializeGuard<K>, kube::Error>
where
    K: CustomResource,
{
    let key = Key::of(meta);
    let patch = json!({ "metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "finalizers": finalizers,
    } });
    let parameters = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let api = api::<K>(client, &key.namespace);
    api.patch(&key.name, &parameters, &Patch::Merge(&patch))
        .await
}

fn api<K: CustomResource>(client: &Client, namespace: &str) -> Api<DeserializeGuard<K>> {
    Api::namespaced(client.clone(), namespace)
}
