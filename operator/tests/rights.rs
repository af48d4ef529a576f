//! The rights of the operator and of a listener's pods, as the API server itself tells them, against a list that a
//! person has read.

use std::collections::BTreeSet;
use std::fmt::Write;

use k8s_openapi::api::authorization::v1::{
    ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use observer_operator::listener::build::ListenerResources;
use serde_json::json;
use testkit::servers::control_plane::ControlPlane;
use testkit::wait::eventually;

use crate::chart::{Release, apply, delete};
use crate::control_plane::plane::client;
use crate::golden::{compare_text, installation, listener};

/// Where the operator is, a namespace that it serves and in which the listener is, and any other one.
const NAMESPACES: [(&str, &str); 3] = [
    ("rights-operator", "its own namespace"),
    ("web", "a namespace that it serves"),
    ("rights-other", "another namespace"),
];

/// What an account may do in a namespace, a line for each verb of each resource.
async fn rights(plane: &ControlPlane, account: (&str, &str), namespace: &str) -> BTreeSet<String> {
    let api: Api<SelfSubjectRulesReview> = Api::all(client(plane, Some(account)).await);
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.to_owned()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let answer = api.create(&PostParams::default(), &review).await.unwrap();
    let status = answer.status.unwrap();
    assert!(!status.incomplete, "{:?}", status.evaluation_error);
    status.resource_rules.iter().flat_map(lines).collect()
}

fn lines(rule: &ResourceRule) -> Vec<String> {
    let names = rule.resource_names.clone().unwrap_or_default();
    let suffix = if names.is_empty() {
        String::new()
    } else {
        format!(" named {}", names.join(", "))
    };
    let mut verbs = rule.verbs.clone();
    verbs.sort();
    let groups = rule.api_groups.clone().unwrap_or_default();
    let resources = rule.resources.clone().unwrap_or_default();
    let of = |group: &String| {
        let resource = |resource: &String| {
            let group = if group.is_empty() { "core" } else { group };
            format!("{group} {resource}{suffix}: {}", verbs.join(" "))
        };
        resources.iter().map(resource).collect::<Vec<_>>()
    };
    groups.iter().flat_map(of).collect()
}

/// Writes the rights of an account in each namespace, without those that every account has.
async fn write_rights(plane: &ControlPlane, text: &mut String, title: &str, account: (&str, &str)) {
    writeln!(text, "# {title}").unwrap();
    for (namespace, what) in NAMESPACES {
        let everybody = rights(plane, ("default", "nobody"), namespace).await;
        let own = rights(plane, account, namespace).await;
        writeln!(text, "\n## In {what}\n").unwrap();
        for line in own.difference(&everybody) {
            writeln!(text, "{line}").unwrap();
        }
        if own.is_subset(&everybody) {
            writeln!(text, "none").unwrap();
        }
    }
    writeln!(text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: e2e/run control_plane"]
async fn rights_in_a_control_plane_are_those_listed() {
    let plane = ControlPlane::start();
    let admin = client(&plane, None).await;
    for (namespace, _) in NAMESPACES {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        apply(&admin, &object).await;
    }
    let mut text = String::new();
    let release = Release {
        name: "shop",
        namespace: NAMESPACES[0].0,
    };
    let operator = (release.namespace, "shop-observer-operator");
    for (title, more, options, known) in [
        (
            "The operator of all namespaces",
            &[][..],
            &["watch.allNamespaces=true"][..],
            "deployments",
        ),
        (
            "The operator of one namespace",
            &[],
            &["watch.namespaces={web}"],
            "deployments",
        ),
        (
            "The operator of one namespace, with metrics.authorize",
            &["rbac-metrics.yaml"],
            &["watch.namespaces={web}", "metrics.authorize=true"],
            "tokenreviews",
        ),
    ] {
        let templates = [&["rbac.yaml", "serviceaccount.yaml"], more].concat();
        let options: Vec<&str> = options.iter().flat_map(|one| ["--set", *one]).collect();
        let objects = release.render(&templates, &options);
        for object in &objects {
            apply(&admin, object).await;
        }
        eventually("the rights are known", async || {
            let own = rights(&plane, operator, "web").await;
            let is_known = |what| own.iter().any(|line| line.contains(what));
            (is_known("deployments") && is_known(known)).then_some(())
        })
        .await;
        write_rights(&plane, &mut text, title, operator).await;
        for object in &objects {
            delete(&admin, object).await;
        }
        eventually("the rights are gone", async || {
            let own = rights(&plane, operator, "web").await;
            own.iter()
                .all(|line| !line.contains("deployments") && !line.contains(known))
                .then_some(())
        })
        .await;
    }
    let resources = ListenerResources::new(&listener(&json!({})), 2, &installation());
    for built in resources.objects().unwrap() {
        if ["ServiceAccount", "Role", "RoleBinding"].contains(&&*built.kind.resource().kind) {
            let mut object = built.object;
            // There is no listener that would own them.
            object["metadata"]["ownerReferences"] = json!([]);
            apply(&admin, &object).await;
        }
    }
    let pods = ("web", "shop-listener");
    eventually("the rights are known", async || {
        let own = rights(&plane, pods, "web").await;
        own.iter().any(|line| line.contains("leases")).then_some(())
    })
    .await;
    let title = "Pods of a listener whose bundle takes two Secrets";
    write_rights(&plane, &mut text, title, pods).await;
    compare_text("rights.md", &text);
}
