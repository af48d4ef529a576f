//! `/api/observers`: dead letters and jobs over HTTP, for whoever shows the token of
//! `spec.api.token`. What the commands `dead-letters` and `jobs` do, with the same names and the same JSON.
//! Errors are told as RFC 9457 has it.

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
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::database::{self, DatabaseError};
use crate::sync::lock;
use problem::Problem;

/// Most that one answer lists.
const MOST_LISTED: u32 = 1000;

/// What it lists where nobody says.
const LISTED: u32 = 50;

/// What requests are answered from.
#[derive(Clone, Debug)]
struct Ground {
    pool: PgPool,
    queue: Arc<dyn JobQueue>,
    listener: Arc<str>,
    token: Redacted,
}

/// Where the interface finds its ground while there is one.
#[derive(Clone, Debug, Default)]
pub struct Keeper(Arc<Mutex<Option<Ground>>>);

/// The ground is taken away again when this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(Keeper);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.put(None);
    }
}

impl Keeper {
    /// Answers from now on for a listener that wants that, with connections of its own.
    pub(crate) fn open(
        &self,
        listener: &ListenerConfig,
        queue: &Arc<dyn JobQueue>,
    ) -> Result<Open, DatabaseError> {
        if let Some(token) = &listener.api_token {
            self.put(Some(Ground {
                pool: database::connections_for_keepers(&listener.database_url)?,
                queue: Arc::clone(queue),
                listener: listener.identity().into(),
                token: token.clone(),
            }));
        }
        Ok(Open(self.clone()))
    }

    fn put(&self, ground: Option<Ground>) {
        *lock(&self.0) = ground;
    }

    fn ground(&self) -> Option<Ground> {
        lock(&self.0).clone()
    }
}

/// The routes, all behind the token.
pub(crate) fn routes(keeper: Keeper) -> Router {
    let all = dead_letters::routes()
        .merge(jobs::routes())
        .fallback(async || {
            Problem::not_found(
                "there is no such path; docs/reference/http-api.md has those that there are",
            )
        });
    Router::new()
        .nest("/api/observers", all)
        .layer(from_fn_with_state(keeper, admit))
}

/// Lets a request through that shows the token, and hands it its ground.
async fn admit(State(keeper): State<Keeper>, mut request: Request, next: Next) -> Response {
    let Some(ground) = keeper.ground() else {
        return Problem::unavailable(
            "this interface is off, or the listener is not at work: give spec.api.token of the ObserverListener, \
             and see /readyz",
        )
        .into_response();
    };
    let shown = request.headers().get(AUTHORIZATION);
    let shown = shown.and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if !shown.is_some_and(|token| same(token, ground.token.reveal())) {
        return Problem::unauthorized().into_response();
    }
    request.extensions_mut().insert(ground);
    next.run(request).await
}

/// Compares digests, so that how long it takes tells nothing of the token.
fn same(one: &str, other: &str) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}
