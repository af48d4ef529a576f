//! The `OpenAPI` document, made from the list of endpoints.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::BASE;
use super::endpoint::{Answer, Call, Endpoint, Method, schema_of};
use super::endpoints::ENDPOINTS;
use super::problem::Problem;

/// The document, which is the same for every request.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// Statuses of problems that any endpoint may respond with.
const PROBLEMS: [(&str, &str); 8] = [
    ("400", "A parameter or the body is wrong."),
    ("401", "The token is missing or wrong."),
    ("403", "The token's role or tenant does not allow it."),
    ("404", "It does not exist, or is not the caller's."),
    ("414", "Path and query are too long."),
    (
        "429",
        "Too many requests; the header Retry-After says when to try again.",
    ),
    (
        "503",
        "The listener, its database or another server is not available.",
    ),
    ("default", "Another problem."),
];

/// Problems of endpoints that take a body.
const BODY_PROBLEMS: [(&str, &str); 4] = [
    ("409", "It does not fit what is there."),
    ("413", "The body is too large."),
    ("415", "The body is not JSON."),
    ("422", "The body is JSON, and not as documented."),
];

pub(super) fn show(_: Call) -> Answer {
    Box::pin(async {
        let kind = [(CONTENT_TYPE, "application/json")];
        Ok::<Response, Problem>((kind, DOCUMENT.as_str()).into_response())
    })
}

/// Adds the schema of the document itself.
pub(super) fn any_object(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "object" })
}

/// Adds the schema of text.
pub(super) fn any_text(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "type": "string" })
}

/// Returns the document.
fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut sent = settings.clone().for_serialize().into_generator();
    let mut received = settings.for_deserialize().into_generator();
    let problem = schema_of::<Problem>(&mut sent);
    let mut paths = Map::new();
    for endpoint in &ENDPOINTS {
        let operation = operation(endpoint, &mut sent, &mut received, &problem);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[match endpoint.method {
            Method::Get => "get",
            Method::Post => "post",
        }] = operation;
    }
    let mut schemas = sent.take_definitions(true);
    schemas.extend(received.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Observers for Postgres: a listener",
            "description": "History, dead letters and jobs of a listener.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(
    endpoint: &Endpoint,
    sent: &mut SchemaGenerator,
    received: &mut SchemaGenerator,
    problem: &Schema,
) -> Value {
    let path = endpoint.id_parameter.iter().map(|one| one.document("path"));
    let query = endpoint.query.iter().map(|one| one.document("query"));
    let mut responses = Map::new();
    let response = (endpoint.response)(sent);
    responses.insert(
        "200".to_owned(),
        json!({
            "description": "As asked for.",
            "content": { (endpoint.content): { "schema": response } },
        }),
    );
    let body_problems = endpoint.body.map_or(&[][..], |_| &BODY_PROBLEMS);
    for (status, about) in PROBLEMS.iter().chain(body_problems) {
        let content = json!({ "application/problem+json": { "schema": problem } });
        let response = json!({ "description": about, "content": content });
        responses.insert((*status).to_owned(), response);
    }
    let role = format!("{:?}", endpoint.role());
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.about,
        "description": format!("Needs a token with the role {role}."),
        "parameters": path.chain(query).collect::<Vec<_>>(),
        "responses": responses,
    });
    if let Some(body) = endpoint.body {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": body(received) } },
        });
    }
    operation
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (name.as_str(), value) {
                        ("$ref", Value::String(text)) => found.push(text.clone()),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|one| references(one, found)),
            _ => {}
        }
    }

    #[test]
    fn document_has_every_endpoint_and_every_schema_that_it_names() {
        let document = document();
        for endpoint in &ENDPOINTS {
            let method = format!("{:?}", endpoint.method).to_lowercase();
            let operation = &document["paths"][endpoint.path][&method];
            assert_eq!(operation["operationId"], endpoint.id, "{}", endpoint.path);
            assert_eq!(
                endpoint.path.contains("{id}"),
                endpoint.id_parameter.is_some(),
                "{}",
                endpoint.path
            );
        }
        let mut ids: Vec<&str> = ENDPOINTS.iter().map(|one| one.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ENDPOINTS.len());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 10, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
