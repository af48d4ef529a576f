//! Requests to the HTTP API, in this process.

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tower::ServiceExt as _;

use crate::params::Params;

/// Where paths of the API begin.
const BASE: &str = "/api/observers";

/// Maximum number of bytes of a response.
const MAX_BYTES: usize = 64 << 20;

/// All but what RFC 3986 reserves for nothing.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The API refused, or its response is not as documented.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct ApiError {
    /// Status of the response.
    pub(crate) status: StatusCode,
    /// What is wrong, and what would be right.
    pub(crate) detail: String,
}

/// What the API says of an error.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

/// A caller of the API, with a token.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    routes: Router,
    authorization: HeaderValue,
}

impl Api {
    /// Creates the caller with a token; fails if no header can hold that.
    pub(crate) fn new(routes: Router, token: &str) -> Result<Self, ApiError> {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut authorization = value.map_err(|_| ApiError {
            status: StatusCode::UNAUTHORIZED,
            detail: "a token has printable ASCII characters only".to_owned(),
        })?;
        authorization.set_sensitive(true);
        Ok(Self {
            routes,
            authorization,
        })
    }

    /// Asks for something. `path` is below that of the API.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Params,
    ) -> Result<T, ApiError> {
        let uri = query.link(&format!("{BASE}{path}"));
        decode(&self.send(Method::GET, &uri, Body::empty()).await?)
    }

    /// Asks for something that not everybody may see; nothing if this token may not.
    pub(crate) async fn get_if_allowed<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Params,
    ) -> Result<Option<T>, ApiError> {
        match self.get(path, query).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.status == StatusCode::FORBIDDEN => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes something.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| unreadable(&error))?;
        let uri = format!("{BASE}{path}");
        decode(&self.send(Method::POST, &uri, body.into()).await?)
    }

    async fn send(&self, method: Method, uri: &str, body: Body) -> Result<Bytes, ApiError> {
        let internal = |detail: String| ApiError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            detail,
        };
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| ApiError {
                status: StatusCode::BAD_REQUEST,
                detail: error.to_string(),
            })?;
        let response = match self.routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (status, body) = (response.status(), response.into_body());
        let body = to_bytes(body, MAX_BYTES).await;
        let body = body.map_err(|error| internal(error.to_string()))?;
        if status.is_success() {
            return Ok(body);
        }
        let detail = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.detail,
            Err(_) => format!("the listener's API responded with {status}"),
        };
        Err(ApiError { status, detail })
    }
}

/// Returns text as a segment of a path.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    ApiError {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        detail: format!("the listener's API and its console do not fit together: {error}"),
    }
}
