//! A visit whose API gives one response, for tests of pages.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::{Json, Router};
use chrono::DateTime;
use serde_json::Value;

use crate::api::Api;
use crate::params::Params;
use crate::visit::{Caller, Visit};

/// Returns the visit of a page, to whose every request the API responds with this.
pub(super) fn visit(page: &'static str, id: &str, status: StatusCode, body: Value) -> Visit {
    let page = Uri::from_static(page);
    let routes = Router::new().fallback(async move || (status, Json(body)));
    let caller = Caller {
        name: "ann".to_owned(),
        tenant: None,
        operate: true,
    };
    Visit {
        api: Api::new(routes, "a-token").unwrap(),
        caller,
        listener: "shop/shop".into(),
        id: id.to_owned(),
        query: Params::parse(page.query().unwrap_or_default().as_bytes()),
        form: Params::default(),
        now: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
    }
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
