//! Documents against the schemas that the cluster enforces, with every difference told.
//!
//! What is wrong is replaced by a placeholder that fits, so that the rest of the document can be
//! checked in the same go; the document remembers which fields those are.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{ValidationError, Validator};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResourceExt;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::placeholder::{Fix, apply_placeholder, descend};
use crate::duration::{self, ParseDurationError};
use crate::manifest::diagnostics::{Diagnostic, closest, field, shown};
use crate::manifest::document::Document;
use crate::v1alpha1::{GROUP, Observer, ObserverListener, VERSION};

/// Where a custom resource definition keeps the schema of its only version.
const SCHEMA_IN_CRD: &str = "/spec/versions/0/schema/openAPIV3Schema";

/// The kinds of resource that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Listener,
    Observer,
    Namespace,
    Secret,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::Listener,
        Self::Observer,
        Self::Namespace,
        Self::Secret,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Listener => "ObserverListener",
            Self::Observer => "Observer",
            Self::Namespace => "Namespace",
            Self::Secret => "Secret",
        }
    }

    pub(crate) fn api_version(self) -> String {
        match self {
            Self::Listener | Self::Observer => format!("{GROUP}/{VERSION}"),
            Self::Namespace | Self::Secret => "v1".into(),
        }
    }

    fn schema(self) -> &'static ResourceSchema {
        static LISTENER: LazyLock<ResourceSchema> =
            LazyLock::new(|| ResourceSchema::for_resource(&json!(ObserverListener::crd())));
        static OBSERVER: LazyLock<ResourceSchema> =
            LazyLock::new(|| ResourceSchema::for_resource(&json!(Observer::crd())));
        static NAMESPACE: LazyLock<ResourceSchema> = LazyLock::new(|| {
            let properties = json!({ "spec": {}, "status": {} });
            ResourceSchema::close(json!({ "type": "object", "properties": properties }), &[])
        });
        static SECRET: LazyLock<ResourceSchema> = LazyLock::new(ResourceSchema::for_secret);
        match self {
            Self::Listener => &LISTENER,
            Self::Observer => &OBSERVER,
            Self::Namespace => &NAMESPACE,
            Self::Secret => &SECRET,
        }
    }
}

/// A schema and what checks it.
struct ResourceSchema {
    schema: Value,
    /// Absent only if the schema itself is broken, which then is the problem of every document.
    validator: Option<Validator>,
}

impl ResourceSchema {
    fn for_resource(crd: &Value) -> Self {
        let mut schema = crd.pointer(SCHEMA_IN_CRD).cloned().unwrap_or_default();
        // Written by the operator; a file that kubectl printed may carry it.
        schema["properties"]["status"] = json!({});
        empty_objects_have_no_fields(&mut schema["properties"]["spec"]);
        Self::close(schema, &["spec"])
    }

    fn for_secret() -> Self {
        let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let properties = json!({
            "data": texts,
            "stringData": texts,
            "type": { "type": "string" },
            "immutable": { "type": "boolean" },
        });
        Self::close(json!({ "type": "object", "properties": properties }), &[])
    }

    /// Adds what every resource has, and refuses all else on every level.
    fn close(mut schema: Value, required: &[&str]) -> Self {
        let meta = SchemaSettings::openapi3()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<ObjectMeta>();
        schema["properties"]["apiVersion"] = json!({ "type": "string" });
        schema["properties"]["kind"] = json!({ "type": "string" });
        schema["properties"]["metadata"] = meta.to_value();
        schema["properties"]["metadata"]["required"] = json!(["name"]);
        // Printed as null by the tools that make templates of resources.
        schema["properties"]["metadata"]["properties"]["creationTimestamp"] = json!({});
        let mut all = vec!["apiVersion", "kind", "metadata"];
        all.extend(required);
        schema["required"] = json!(all);
        reject_unknown_fields(&mut schema);
        let validator = jsonschema::validator_for(&schema).ok();
        Self { schema, validator }
    }
}

/// To the cluster, an object of which nothing is said has no field that it knows.
fn empty_objects_have_no_fields(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            let told =
                ["properties", "additionalProperties"].map(|name| keywords.contains_key(name));
            if keywords.get("type") == Some(&json!("object")) && told == [false, false] {
                keywords.insert("properties".into(), json!({}));
            }
            keywords.values_mut().for_each(empty_objects_have_no_fields);
        }
        Value::Array(items) => items.iter_mut().for_each(empty_objects_have_no_fields),
        _ => {}
    }
}

/// The cluster's strict field validation does the same, but a definition cannot say it.
fn reject_unknown_fields(schema: &mut Value) {
    match schema {
        Value::Object(keywords) => {
            if keywords.get("properties").is_some_and(Value::is_object) {
                keywords
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            keywords.values_mut().for_each(reject_unknown_fields);
        }
        Value::Array(items) => items.iter_mut().for_each(reject_unknown_fields),
        _ => {}
    }
}

/// Reports every difference from the schema and mends the document.
pub(crate) fn check(kind: Kind, document: &mut Document, diagnostics: &mut Vec<Diagnostic>) {
    let schema = kind.schema();
    let Some(validator) = &schema.validator else {
        let message = format!("cannot be checked: the schema of {} is broken", kind.name());
        diagnostics.push(document.diagnostic("", message));
        return;
    };
    let mut fixes = Vec::new();
    let errors: Vec<_> = validator.iter_errors(&document.value).collect();
    for error in &errors {
        if matches!(
            error.kind(),
            ValidationErrorKind::AdditionalProperties { .. }
        ) {
            let at = error.instance_path().as_str();
            document.misnamed.insert(at.to_owned());
        }
    }
    let misspelled = misspelled_fields(&schema.schema, &errors);
    for error in &errors {
        let already_reported = document
            .placeholders
            .contains(error.instance_path().as_str());
        for (at, message, fix) in explain(&schema.schema, error) {
            if !already_reported && !misspelled.contains(&at) {
                diagnostics.push(document.diagnostic(&at, message));
            }
            fixes.push((at, fix));
        }
    }
    drop(errors);
    for (at, fix) in fixes {
        apply_placeholder(&schema.schema, &mut document.value, fix);
        document.placeholders.insert(at);
    }
}

/// Fields that are there under a wrong name, which is what gets reported.
fn misspelled_fields(schema: &Value, errors: &[ValidationError<'_>]) -> BTreeSet<String> {
    let mut misspelled = BTreeSet::new();
    for error in errors {
        let at = error.instance_path().as_str();
        if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
            let known = names(descend(schema, at));
            let close = unexpected
                .iter()
                .filter_map(|name| closest(name, known.iter().copied()));
            misspelled.extend(close.map(|name| field(at, name)));
        }
    }
    misspelled
}

/// Where an error is, in words, and what mends it.
fn explain(schema: &Value, error: &ValidationError<'_>) -> Vec<(String, String, Fix)> {
    let at = error.instance_path().as_str().to_owned();
    let here = descend(schema, &at);
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => unexpected
            .iter()
            .map(|name| {
                let at = field(&at, name);
                let known = names(here);
                let list = known.join(", ");
                let message = match closest(name, known) {
                    Some(close) => {
                        format!("unknown field; did you mean `{close}`? Known here: {list}")
                    }
                    None if list.is_empty() => "unknown field; there are none here".to_owned(),
                    None => format!("unknown field; known here: {list}"),
                };
                (at.clone(), message, Fix::Remove(at))
            })
            .collect(),
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default().to_owned();
            let part = field(&at, &name);
            let wanted = descend(schema, &part).map_or("a value", expected_type);
            let message = format!("is missing; {wanted} is required");
            vec![(part, message, Fix::Add { object: at, name })]
        }
        kind => {
            let message = describe(kind, here.unwrap_or(&Value::Null), error);
            vec![(at.clone(), message, Fix::Replace(at))]
        }
    }
}

fn describe(kind: &ValidationErrorKind, schema: &Value, error: &ValidationError<'_>) -> String {
    let found = error.instance();
    match kind {
        ValidationErrorKind::Type { .. } => {
            let wanted = expected_type(schema);
            if is_duration(schema) {
                return format!(
                    "expected a duration such as `15s`, found {}",
                    type_name(found)
                );
            }
            let remedy = match (wanted, found.as_ref()) {
                ("text", Value::Bool(_) | Value::Number(_)) => "; put it in quotes",
                ("a mapping", Value::String(_)) if names(Some(schema)).contains(&"value") => {
                    "; write {value: ...} around it, or {secretKeyRef: {name: ..., key: ...}}"
                }
                ("a mapping", Value::String(_)) if names(Some(schema)).contains(&"entity") => {
                    "; write {entity: ...} around it"
                }
                _ => "",
            };
            format!("expected {wanted}, found {}{remedy}", type_name(found))
        }
        ValidationErrorKind::Enum { options } => {
            let known: Vec<&str> = options.as_array().map_or_else(Vec::new, |options| {
                options.iter().filter_map(Value::as_str).collect()
            });
            let list = known.join(", ");
            match closest(found.as_str().unwrap_or_default(), known) {
                Some(close) => format!("must be one of {list}; did you mean `{close}`?"),
                None => format!("must be one of {list}"),
            }
        }
        ValidationErrorKind::Minimum { .. } | ValidationErrorKind::Maximum { .. } => {
            match (limit(schema, "minimum"), limit(schema, "maximum")) {
                (Some(low), Some(high)) => format!("must be {low} to {high}"),
                (Some(low), None) => format!("must be {low} or more"),
                (_, high) => format!("must be {} or less", high.unwrap_or_default()),
            }
        }
        ValidationErrorKind::Pattern { .. } | ValidationErrorKind::MaxLength { .. }
            if is_duration(schema) =>
        {
            ParseDurationError.to_string()
        }
        ValidationErrorKind::Pattern { pattern } => format!("must look like {pattern}"),
        ValidationErrorKind::MaxLength { limit } => {
            format!("is too long; at most {limit} characters are allowed")
        }
        ValidationErrorKind::MaxItems { limit } | ValidationErrorKind::MaxProperties { limit } => {
            format!("has too many entries; at most {limit} are allowed")
        }
        ValidationErrorKind::MinLength { .. } => "must not be empty".into(),
        ValidationErrorKind::MinItems { limit } => {
            format!("has too few entries; at least {limit} is needed")
        }
        _ => error.masked().to_string(),
    }
}

fn is_duration(schema: &Value) -> bool {
    schema.get("pattern").and_then(Value::as_str) == Some(duration::PATTERN)
}

/// The fields that a part of a schema knows.
fn names(schema: Option<&Value>) -> Vec<&str> {
    schema
        .and_then(|schema| schema.get("properties")?.as_object())
        .map_or_else(Vec::new, |all| all.keys().map(String::as_str).collect())
}

fn limit(schema: &Value, keyword: &str) -> Option<String> {
    let limit = schema.get(keyword)?.as_f64()?;
    Some(format!("{limit:.0}"))
}

fn expected_type(schema: &Value) -> &'static str {
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => "text",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "`true` or `false`",
        Some("array") => "a list",
        Some("object") => "a mapping",
        _ => "a value",
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// Which kind a document is of, or why it is of none.
pub(crate) fn kind(document: &Document, diagnostics: &mut Vec<Diagnostic>) -> Option<Kind> {
    let readable = || {
        Kind::ALL
            .map(|kind| format!("{} ({})", kind.name(), kind.api_version()))
            .join(", ")
    };
    if !document.value.is_object() {
        if !document.placeholders.contains("") {
            let found = type_name(&document.value);
            let message = format!(
                "expected a resource, found {found}; what is read here: {}",
                readable()
            );
            diagnostics.push(document.diagnostic("", message));
        }
        return None;
    }
    let Some(name) = document.value.get("kind").and_then(Value::as_str) else {
        let message = format!("has no `kind`; what is read here: {}", readable());
        diagnostics.push(document.diagnostic("", message));
        return None;
    };
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
        let name = shown(name);
        let message = match closest(&name, Kind::ALL.map(Kind::name)) {
            Some(close) => {
                let readable = readable();
                format!(
                    "kind `{name}` is not read here; did you mean `{close}`? Read here: {readable}"
                )
            }
            None => format!("kind `{name}` is not read here; what is: {}", readable()),
        };
        diagnostics.push(document.diagnostic("/kind", message));
        return None;
    };
    let version = document.value.get("apiVersion").and_then(Value::as_str);
    if version.is_some_and(|version| version != kind.api_version()) {
        let message = format!("must be `{}` for kind {name}", kind.api_version());
        diagnostics.push(document.diagnostic("/apiVersion", message));
    }
    Some(kind)
}
