//! Fields of the resources, from their schemas.

use anyhow::Context;
use crds::v1alpha1::{Observer, ObserverListener};
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{cell, table};

/// Fields whose parts are those of a Kubernetes pod, and are described there.
const OF_KUBERNETES: [&str; 8] = [
    "affinity",
    "conditions",
    "env",
    "imagePullSecrets",
    "resources",
    "tolerations",
    "topologySpreadConstraints",
    "observedGeneration",
];

/// Writes the page.
pub(crate) fn body() -> anyhow::Result<String> {
    let mut text = "`kubectl explain observer.spec` and `kubectl explain observerlistener.spec` say \
        the same. Both resources are in the group `observers.fraiseql.dev`, version `v1alpha1`, and \
        belong to a namespace. A field with an asterisk is required. Durations are written as `250ms`, \
        `10s`, `5m` or `1h30m`. *Value or Secret* stands for exactly one of `value: \"...\"` and \
        `secretKeyRef: {name: ..., key: ...}`.\n\n"
        .to_owned();
    for definition in [Observer::crd(), ObserverListener::crd()] {
        let definition = serde_json::to_value(definition)?;
        let kind = definition["spec"]["names"]["kind"]
            .as_str()
            .context("no kind")?;
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        text.push_str(&format!("## {kind}\n\n"));
        for part in ["spec", "status"] {
            let part_schema = &schema["properties"][part];
            object(part_schema, part, &format!("{kind} {part}"), &mut text);
        }
    }
    Ok(text)
}

/// Writes the table of an object, and those of the objects in it.
fn object(schema: &Value, path: &str, title: &str, text: &mut String) {
    let Some(fields) = schema["properties"].as_object() else {
        return;
    };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let description = cell(schema["description"].as_str().unwrap_or_default());
    text.push_str(&format!("### {title}\n\n{description}\n\n"));
    text.push_str(&table(
        ["Field", "Type", "Default", "Description"],
        fields.iter().map(|(name, field)| {
            let star = if required.contains(&name.as_str()) {
                " \\*"
            } else {
                ""
            };
            let default = match field.get("default") {
                Some(value) if !value.is_object() => {
                    format!("`{}`", value.to_string().trim_matches('"'))
                }
                _ => String::new(),
            };
            let description = cell(field["description"].as_str().unwrap_or_default());
            [
                format!("`{name}`{star}"),
                of_type(field),
                default,
                description,
            ]
        }),
    ));
    for (name, field) in fields {
        if OF_KUBERNETES.contains(&name.as_str()) || is_value_or_secret(field) {
            continue;
        }
        let kind = title.split(' ').next().unwrap_or_default();
        if field["properties"].is_object() {
            let path = format!("{path}.{name}");
            object(field, &path, &format!("{kind} {path}"), text);
        } else if field["items"]["properties"].is_object() && !is_value_or_secret(&field["items"]) {
            let path = format!("{path}.{name}[]");
            object(&field["items"], &path, &format!("{kind} {path}"), text);
        }
    }
}

/// Whether an object is a value or a reference to a Secret.
fn is_value_or_secret(schema: &Value) -> bool {
    schema["properties"].as_object().is_some_and(|fields| {
        fields.len() == 2 && fields.contains_key("value") && fields.contains_key("secretKeyRef")
    })
}

fn of_type(schema: &Value) -> String {
    if is_value_or_secret(schema) {
        return "*Value or Secret*".to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(|value| format!("`{value}`"))
            .collect();
        return values.join(", ");
    }
    match schema["type"].as_str().unwrap_or("any") {
        "array" => format!("list of {}", of_type(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of {}", of_type(&schema["additionalProperties"]))
        }
        other => other.to_owned(),
    }
}
