//! Admin API under `/api/observers`: dead letters and jobs over HTTP, with the names and the JSON of the
//! commands `dead-letters` and `jobs`. Requests need the bearer token of `spec.api.token`; errors are
//! problem details as in RFC 9457.

pub(crate) mod dead_letters;
mod jobs;
mod problem;

use std::sync::{Arc, Mutex};

use ::queue::JobQueue;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use crds::config::{ListenerConfig, Redacted};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::database::{self, DatabaseError};
use crate::sync::lock;
use problem::Problem;

/// Largest page of a list.
const MAX_PAGE_SIZE: u32 = 1000;

/// Default size of a page.
const DEFAULT_PAGE_SIZE: u32 = 50;

/// Response to a change: how many were changed.
#[derive(Debug, Serialize)]
struct AffectedCount {
    count: u64,
}

/// Context of requests while the listener runs.
#[derive(Clone, Debug)]
struct AdminContext {
    pool: PgPool,
    queue: Arc<dyn JobQueue>,
    listener: Arc<str>,
    token: Redacted,
}

/// Admin API, which answers while a context is set.
#[derive(Clone, Debug, Default)]
pub struct AdminApi(Arc<Mutex<Option<AdminContext>>>);

/// Guard that turns the admin API off when it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct AdminApiGuard(AdminApi);

impl Drop for AdminApiGuard {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl AdminApi {
    /// Turns the API on if the listener has a token, with a connection pool of its own.
    pub(crate) fn open(
        &self,
        listener: &ListenerConfig,
        queue: &Arc<dyn JobQueue>,
    ) -> Result<AdminApiGuard, DatabaseError> {
        if let Some(token) = &listener.api_token {
            self.set(Some(AdminContext {
                pool: database::admin_pool(&listener.database_url)?,
                queue: Arc::clone(queue),
                listener: listener.identity().into(),
                token: token.clone(),
            }));
        }
        Ok(AdminApiGuard(self.clone()))
    }

    fn set(&self, context: Option<AdminContext>) {
        *lock(&self.0) = context;
    }

    fn context(&self) -> Option<AdminContext> {
        lock(&self.0).clone()
    }
}

/// Returns the routes, all of which need the token.
pub(crate) fn routes(admin_api: AdminApi) -> Router {
    let all = dead_letters::routes()
        .merge(jobs::routes())
        .fallback(async || {
            Problem::not_found("there is no such path; docs/reference/http-api.md lists the paths")
        });
    Router::new()
        .nest("/api/observers", all)
        .layer(from_fn_with_state(admin_api, authenticate))
}

/// Authenticates a request and adds the context to it.
async fn authenticate(
    State(admin_api): State<AdminApi>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(context) = admin_api.context() else {
        return Problem::unavailable(
            "the admin API is off, or the listener is not running: set spec.api.token of the ObserverListener, \
             and see /readyz",
        )
        .into_response();
    };
    let header = request.headers().get(AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if !token.is_some_and(|token| equals(token, context.token.reveal())) {
        return Problem::unauthorized().into_response();
    }
    request.extensions_mut().insert(context);
    next.run(request).await
}

/// Compares digests, so that the time it takes reveals nothing about the token.
fn equals(one: &str, other: &str) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}
