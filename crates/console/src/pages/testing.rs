//! A visit whose API gives one response, for tests of pages.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde_json::Value;

use super::fixture::{self, Answers};
use crate::visit::Visit;

/// Returns the visit of a page, to whose every request the API responds with this.
pub(super) fn visit(page: &'static str, id: &str, status: StatusCode, body: Value) -> Visit {
    let query = Uri::from_static(page)
        .query()
        .unwrap_or_default()
        .to_owned();
    let answer = (status, body);
    let answers = Answers {
        get: answer.clone(),
        post: answer,
    };
    fixture::visit(id, &query, "", answers).0
}

/// Returns the status and the body of a response.
pub(super) async fn shown(response: Response) -> (StatusCode, String) {
    let (status, body) = (response.status(), response.into_body());
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Fails if a page does not have these parts in this order.
pub(super) fn in_order(page: &str, parts: &[&str]) {
    let mut rest = page;
    for part in parts {
        let after = rest.split_once(part);
        assert!(after.is_some(), "{part}: {page}");
        rest = after.unwrap_or_default().1;
    }
}
