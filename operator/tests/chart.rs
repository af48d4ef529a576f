//! The chart's accounts and rights, in a control plane.

use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::Value;

fn helm() -> PathBuf {
    if let Some(helm) = std::env::var_os("HELM") {
        return helm.into();
    }
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/cluster/build");
    let output = Command::new(build).output().unwrap();
    assert!(output.status.success());
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).join("helm")
}

/// An installation of the chart.
#[derive(Clone, Copy)]
pub(crate) struct Release<'a> {
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

impl Release<'_> {
    /// What the chart makes of these templates.
    pub(crate) fn render(self, templates: &[&str], options: &[&str]) -> Vec<Value> {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/observer-operator");
        let shown = templates
            .iter()
            .map(|name| format!("--show-only=templates/{name}"));
        let rendered = Command::new(helm())
            .arg("template")
            .arg(self.name)
            .arg(chart)
            .args(["--namespace", self.namespace, "--kube-version", "1.34.0"])
            .args(shown)
            .args(options)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&rendered.stderr);
        assert!(rendered.status.success(), "{said}");
        let text = String::from_utf8(rendered.stdout).unwrap();
        serde_yaml_ng::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).unwrap())
            .filter(|document| !document.is_null())
            .collect()
    }
}

fn api(client: &Client, object: &Value) -> Api<DynamicObject> {
    let resource = match object["kind"].as_str().unwrap() {
        "ServiceAccount" => ApiResource::erase::<ServiceAccount>(&()),
        "Role" => ApiResource::erase::<Role>(&()),
        "RoleBinding" => ApiResource::erase::<RoleBinding>(&()),
        "ClusterRole" => ApiResource::erase::<ClusterRole>(&()),
        "ClusterRoleBinding" => ApiResource::erase::<ClusterRoleBinding>(&()),
        "Secret" => ApiResource::erase::<Secret>(&()),
        "Namespace" => ApiResource::erase::<Namespace>(&()),
        other => panic!("{other}"),
    };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Applies an object of the chart.
pub(crate) async fn apply(client: &Client, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let parameters = PatchParams::apply("test").force();
    let patch = Patch::Apply(object);
    api(client, object)
        .patch(name, &parameters, &patch)
        .await
        .unwrap();
}

/// Deletes an object of the chart.
pub(crate) async fn delete(client: &Client, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let parameters = DeleteParams::default();
    api(client, object).delete(name, &parameters).await.unwrap();
}
