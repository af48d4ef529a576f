//! Error responses of the HTTP API: problem details as in RFC 9457.

use std::time::Duration;

use ::queue::QueueError;
use ::search::SearchError;
use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::history::events::EventsError;
use crate::history::outcome::OutcomeError;

/// Problem details of RFC 9457.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Problem {
    /// Status of the response.
    status: u16,
    /// Name of the status.
    title: &'static str,
    /// What is wrong, and what would be right.
    detail: String,
    /// Character of `q` at which it is wrong, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error"),
            detail: detail.into(),
            position: None,
            retry_after: None,
        }
    }

    /// Returns the status of the response.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "send one of the tokens of spec.api as `Authorization: Bearer TOKEN`",
        )
    }

    /// A request that may be made again after a while.
    pub(super) fn too_many(detail: impl Into<String>, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
        }
    }

    /// A body that is not as documented.
    pub(super) fn of_body(error: &serde_json::Error) -> Self {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        Self::new(status, format!("the body is not as documented: {error}"))
    }

    /// Returns what is wrong.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Says first what follows from it.
    pub(super) fn because(self, consequence: &str) -> Self {
        Self {
            detail: format!("{consequence}: {}", self.detail),
            ..self
        }
    }

    /// A request that took too long.
    pub(super) fn timed_out(method: &Method) -> Self {
        Self::unavailable(if method.is_safe() {
            "the request took too long; ask for less at once"
        } else {
            "the change took too long to wait for: it may have been made, or go on; look at what there is before \
             you repeat it"
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(CONTENT_TYPE, kind);
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = retry_after {
            let seconds = after.as_millis().div_ceil(1000).max(1);
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                headers.insert(RETRY_AFTER, value);
            }
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        tracing::warn!(
            error = ::queue::describe_error(&error),
            "HTTP API: the database failed"
        );
        match error {
            sqlx::Error::PoolTimedOut => {
                Self::unavailable("the database has no connection to spare: pool timed out")
            }
            _ => Self::unavailable("the database failed; the listener's log says how"),
        }
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        if let QueueError::Postgres(error @ sqlx::Error::PoolTimedOut) = error {
            return error.into();
        }
        tracing::warn!(%error, "HTTP API: the job queue failed");
        Self::unavailable("the job queue failed; the listener's log says how")
    }
}

impl From<SearchError> for Problem {
    fn from(error: SearchError) -> Self {
        if let SearchError::Query { position, .. } = error {
            return Self {
                position: Some(position),
                ..Self::bad_request(format!("q: {error}"))
            };
        }
        tracing::warn!(%error, "HTTP API: the search index failed");
        Self::unavailable("the search index is not available; the listener's log says why")
    }
}

impl From<EventsError> for Problem {
    fn from(error: EventsError) -> Self {
        match error {
            EventsError::Database(error) => error.into(),
            EventsError::NotAnId(_) => Self::not_found(error.to_string()),
            EventsError::TooSlow => Self::timed_out(&Method::GET),
            EventsError::Log(error) => {
                tracing::warn!(%error, "HTTP API: the change log cannot be read");
                Self::unavailable("the change log cannot be read; the listener's log says why")
            }
        }
    }
}

impl From<OutcomeError> for Problem {
    fn from(error: OutcomeError) -> Self {
        match error {
            OutcomeError::Database(error) => error.into(),
            OutcomeError::Queue(error) => error.into(),
            OutcomeError::Checkpoint(error) => {
                tracing::warn!(%error, "HTTP API: a checkpoint cannot be read");
                Self::unavailable("a checkpoint cannot be read; the listener's log says why")
            }
        }
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        tracing::warn!(%error, "HTTP API: a response cannot be written");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the response cannot be written",
        )
    }
}
