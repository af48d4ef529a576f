//! Writes statuses, finalizers and Events.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde_json::json;

use crate::cache::projection::CustomResource;
use crate::events::EventDraft;
use crate::listener::build::FIELD_MANAGER;
use crate::object_ref::ObjectRef;

/// Publishes Events.
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

    /// Publishes Events about an object, on a best-effort basis.
    pub(crate) async fn events<K>(&self, meta: &ObjectMeta, drafts: Vec<EventDraft>)
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
        for draft in drafts {
            let type_ = if draft.warning {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let event = Event {
                type_,
                reason: draft.reason,
                note: Some(draft.note),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self.0.publish(&event, &about).await {
                tracing::debug!(%error, reason = event.reason, "Event not published");
            }
        }
    }
}

/// Applies the status of the object with this uid.
pub(crate) async fn write_status<K>(
    client: &Client,
    meta: &ObjectMeta,
    status: &impl Serialize,
) -> Result<DeserializeGuard<K>, kube::Error>
where
    K: CustomResource,
{
    let key = ObjectRef::of(meta);
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

/// Sets the finalizers of the object with this uid and version. Fails where it changed meanwhile.
pub(crate) async fn write_finalizers<K>(
    client: &Client,
    meta: &ObjectMeta,
    finalizers: &[String],
) -> Result<DeserializeGuard<K>, kube::Error>
where
    K: CustomResource,
{
    let key = ObjectRef::of(meta);
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
