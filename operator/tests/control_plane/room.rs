//! A namespace of a scenario, and what is done and waited for in it.

use std::fmt::Debug;
use std::time::Duration;

use crds::v1alpha1::{Observer, ObserverListener};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testkit::wait::{eventually, eventually_or};
use tokio::time::Instant;

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// What was changed shows within so long, and a little.
const PROMISED: Duration = Duration::from_secs(6);

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    eventually(what, async || {
        if condition().await {
            return Some(());
        }
        // Each look is a request or more.
        tokio::time::sleep(PAUSE).await;
        None
    })
    .await;
}

/// A namespace.
#[derive(Clone)]
pub(crate) struct Room {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl Room {
    pub(crate) async fn new(client: Client, name: &str) -> Self {
        let namespace = format!("{name}-{}", std::process::id());
        let api: Api<Namespace> = Api::all(client.clone());
        let object = json!({ "metadata": { "name": namespace } });
        let object = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
        Self { client, namespace }
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes or changes something as `kubectl apply` does.
    pub(crate) async fn apply<K>(&self, name: &str, rest: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let mut object = rest;
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        object["metadata"]["name"] = json!(name);
        let parameters = PatchParams::apply("test").force();
        let patch = Patch::Apply(&object);
        self.api().patch(name, &parameters, &patch).await.unwrap()
    }

    /// A listener on the database of the Secret `db`.
    pub(crate) async fn listener(&self, name: &str, spec: Value) -> ObserverListener {
        let mut object = json!({ "spec": { "database": { "url": {
            "secretKeyRef": { "name": "db", "key": "url" },
        } } } });
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        self.apply(name, object).await
    }

    /// An observer with one webhook.
    pub(crate) async fn observer(&self, name: &str, url: Value) -> Observer {
        let spec = json!({ "spec": {
            "events": { "entity": "public.orders" },
            "actions": [{ "name": "send", "webhook": { "url": url } }],
        } });
        self.apply(name, spec).await
    }

    pub(crate) async fn secret(&self, name: &str, key: &str, value: &str) {
        let data = json!({ "stringData": { key: value } });
        self.apply::<Secret>(name, data).await;
    }

    /// The Secret of [`Room::listener`]. Nothing answers there.
    pub(crate) async fn database(&self) {
        self.secret("db", "url", "postgres://u:p@127.0.0.1:1/shop")
            .await;
    }

    pub(crate) async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api().get_opt(name).await.unwrap()
    }

    pub(crate) async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub(crate) async fn edit<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        let patch = Patch::Merge(&patch);
        api.patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub(crate) async fn gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let what = format!("{} {name} is gone", K::kind(&()));
        until(&what, async || self.get::<K>(name).await.is_none()).await;
    }

    /// Waits until a listener says something, and answers with the message.
    pub(crate) async fn listener_says(&self, name: &str, said: [&str; 3]) -> String {
        let look = async || {
            let listener: Option<ObserverListener> = self.get(name).await;
            let status = listener.and_then(|listener| listener.status);
            status.map(|status| status.conditions)
        };
        self.says(name, said, look).await
    }

    /// Waits until an observer says something, and answers with the message.
    pub(crate) async fn observer_says(&self, name: &str, said: [&str; 3]) -> String {
        let look = async || {
            let observer: Option<Observer> = self.get(name).await;
            let status = observer.and_then(|observer| observer.status);
            status.map(|status| status.conditions)
        };
        self.says(name, said, look).await
    }

    /// What was changed shows; it is told when that took longer than promised.
    async fn says(
        &self,
        name: &str,
        [type_, status, reason]: [&str; 3],
        look: impl AsyncFn() -> Option<Vec<Condition>>,
    ) -> String {
        let begun = Instant::now();
        let message = async || {
            let conditions = look().await.unwrap_or_default();
            let found = conditions.into_iter().find(|found| {
                (&*found.type_, &*found.status, &*found.reason) == (type_, status, reason)
            });
            if found.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
            Some(found?.message)
        };
        let message = eventually_or(message, async || {
            let conditions = look().await;
            let place = &self.namespace;
            format!("{place}/{name} says {type_}={status} {reason}, not {conditions:#?}")
        })
        .await;
        if begun.elapsed() > PROMISED {
            println!("{name}: {type_} shows after {:?}", begun.elapsed());
        }
        message
    }
}
