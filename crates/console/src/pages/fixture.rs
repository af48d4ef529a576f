//! Somebody who looks at a page, for tests.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use crate::api::Api;
use crate::params::Params;
use crate::visit::Visit;

/// What the API was asked: method and path, and the body.
pub(super) type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// What the API answers to a `GET` and to a `POST`.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) get: (StatusCode, Value),
    pub(super) post: (StatusCode, Value),
}

impl Answers {
    /// Returns answers that are the same for both.
    pub(super) fn both(answer: &Value) -> Self {
        let answer = (StatusCode::OK, answer.clone());
        Self {
            get: answer.clone(),
            post: answer,
        }
    }
}

/// Returns a visit by somebody who may change everything, and what the API will have been asked.
pub(super) fn visit(id: &str, query: &str, form: &str, answers: Answers) -> (Visit, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let api = Router::new().fallback(move |request: Request| {
        let (seen, answers) = (Arc::clone(&seen), answers.clone());
        async move {
            let (status, answer) = match request.method() {
                &Method::POST => answers.post,
                _ => answers.get,
            };
            let uri = format!("{} {}", request.method(), request.uri());
            let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            seen.lock().unwrap().push((uri, body));
            (status, answer.to_string())
        }
    });
    let caller = json!({"name": "ops", "tenant": null, "operate": true});
    let visit = Visit {
        api: Api::new(api, "token").unwrap(),
        caller: serde_json::from_value(caller).unwrap(),
        listener: "shop/shop".into(),
        id: id.to_owned(),
        query: Params::parse(query.as_bytes()),
        form: Params::parse(form.as_bytes()),
        now: "2026-11-30T22:00:00Z".parse().unwrap(),
    };
    (visit, asked)
}

/// Returns the status and the text of a page.
pub(super) async fn shown(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
