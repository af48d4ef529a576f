//! Resources of other operators that the docs print are what their own definitions take, by an API server.

use std::path::PathBuf;
use std::process::Stdio;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, ValidationDirective};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;
use testkit::page::Page;
use tokio::process::Command;

use crate::api::cluster::{Plane, apply};
use crate::kubectl::define;
use crate::support::eventually;

/// Pages, and the definitions of a kind that they print: the Go module that has them, and their file in it.
const PRINTED: [(&str, &str, &str, usize); 3] = [
    (
        "how-to/autoscaling.md",
        "github.com/kedacore/keda/v2@v2.18.1",
        "keda.sh_scaledobjects.yaml",
        1,
    ),
    (
        "how-to/cloudnative-pg.md",
        "github.com/cloudnative-pg/cloudnative-pg@v1.27.1",
        "postgresql.cnpg.io_clusters.yaml",
        2,
    ),
    (
        "how-to/gitops.md",
        "github.com/fluxcd/kustomize-controller@v1.7.3",
        "kustomize.toolkit.fluxcd.io_kustomizations.yaml",
        1,
    ),
];

/// The definition in a file of a module, which is fetched as any other of Go's.
async fn definition(module: &str, file: &str) -> Value {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Downloaded {
        dir: PathBuf,
    }
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let downloaded: Downloaded = serde_json::from_str(&said).unwrap();
    let file = downloaded.dir.join("config/crd/bases").join(file);
    serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Documents of a page that are of this kind.
fn documents(page: &str, kind: &str) -> Vec<DynamicObject> {
    let page = Page::read(page, &[]);
    let blocks = page.blocks("yaml").into_iter();
    let documents = blocks.flat_map(serde_yaml_ng::Deserializer::from_str);
    documents
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|document| document["kind"] == kind)
        .map(|document| serde_json::from_value(document).unwrap())
        .collect()
}

/// Applies documents without storing them. Fields that are not defined are mistakes.
async fn are_valid(client: &Client, resource: &ApiResource, documents: Vec<DynamicObject>) {
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), resource);
    eventually("the kind is served", async || {
        api.list(&ListParams::default()).await.ok()
    })
    .await;
    let mut parameters = PatchParams::apply("test").dry_run();
    parameters.field_validation = Some(ValidationDirective::Strict);
    for mut document in documents {
        document.metadata.namespace = None;
        let name = document.name_any();
        let right = Patch::Apply(&document);
        api.patch(&name, &parameters, &right).await.unwrap();
        document.data["spec"]["noSuchField"] = true.into();
        let wrong = Patch::Apply(&document);
        let refused = api.patch(&name, &parameters, &wrong).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("noSuchField"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn printed_resources_are_valid_in_a_control_plane() {
    let plane = Plane::start();
    let client = plane.client().await;
    define(&client).await;
    for (page, module, file, count) in PRINTED {
        let definition = definition(module, file).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (group, names) = (
            text(&definition["spec"]["group"]),
            &definition["spec"]["names"],
        );
        let version = text(&definition["spec"]["versions"][0]["name"]);
        let (kind, plural) = (text(&names["kind"]), text(&names["plural"]));
        apply(&client, "customresourcedefinitions", definition).await;
        let resource = ApiResource {
            api_version: format!("{group}/{version}"),
            version,
            group,
            kind,
            plural,
        };
        let found = documents(page, &resource.kind);
        assert_eq!(found.len(), count, "of {page}");
        are_valid(&client, &resource, found).await;
    }
    let resource = ApiResource::erase::<crds::v1alpha1::ObserverListener>(&());
    for page in ["how-to/cloudnative-pg.md", "how-to/autoscaling.md"] {
        let listeners = documents(page, &resource.kind);
        assert_eq!(listeners.len(), 1, "of {page}");
        are_valid(&client, &resource, listeners).await;
    }
    let resource = ApiResource::erase::<HorizontalPodAutoscaler>(&());
    let scalers = documents("how-to/autoscaling.md", &resource.kind);
    assert_eq!(scalers.len(), 1);
    are_valid(&client, &resource, scalers).await;
}
