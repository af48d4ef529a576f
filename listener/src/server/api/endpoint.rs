//! Endpoints: what each takes and returns, and the steps that all of them have in common.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::search::Scope;
use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::{RawPathParams, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use crds::config::ApiRole;
use futures::StreamExt as _;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::ApiContext;
use super::auth::Caller;
use super::parameters::{Parameter, Values};
use super::problem::Problem;
use crate::audit::{NewEntry, OpenEntry};

/// Maximum bytes of a request's body.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Bytes of a body after which it is not read on. A client that is still sending when the connection is closed
/// does not see the response.
const MAX_DISCARDED_BYTES: usize = 16 << 20;

/// How long the next part of such a body is waited for.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Adds the schema of a type to a document.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Response to come.
pub(super) type Answer = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// Method of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// It changes nothing.
    Get,
    /// It changes something.
    Post,
}

/// One path and method of the API: the router, the checks of requests and the `OpenAPI` document are made from
/// it.
pub(super) struct Endpoint {
    /// Name in clients that are generated.
    pub(super) id: &'static str,
    pub(super) method: Method,
    /// Path below `/api/observers`.
    pub(super) path: &'static str,
    /// What it does.
    pub(super) about: &'static str,
    /// Whether tokens of a tenant are admitted.
    pub(super) tenants: bool,
    /// The parameter `id` of its path.
    pub(super) id_parameter: Option<Parameter>,
    pub(super) query: &'static [Parameter],
    pub(super) body: Option<SchemaOf>,
    pub(super) response: SchemaOf,
    /// Type of the response's content.
    pub(super) content: &'static str,
    pub(super) run: fn(Call) -> Answer,
}

/// A request that has passed all checks.
pub(super) struct Call {
    pub(super) context: ApiContext,
    pub(super) caller: Caller,
    pub(super) query: Values,
    /// `id` of the path; empty where there is none.
    pub(super) id: String,
    body: Bytes,
}

/// How many a change has changed, in the extensions of its response.
#[derive(Clone, Copy, Debug)]
struct Affected(u64);

/// Nothing can match: a request asks for another tenant than the caller's own.
#[derive(Debug)]
pub(super) struct NothingMatches;

/// Returns the schema of a type.
pub(super) fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Endpoint {
    /// Returns the role that it needs.
    pub(super) const fn role(&self) -> ApiRole {
        match self.method {
            Method::Get => ApiRole::Read,
            Method::Post => ApiRole::Operate,
        }
    }

    /// Responds to a request of a caller who is known.
    pub(super) async fn respond(
        &'static self,
        context: ApiContext,
        caller: Caller,
        request: Request,
    ) -> Response {
        let responses = context.responses.clone();
        let result = async {
            let call = self.check(context, caller, request).await?;
            let response = match self.method {
                Method::Get => (self.run)(call).await,
                Method::Post => self.change(call).await,
            };
            responses.admit(response?).await
        };
        result.await.unwrap_or_else(IntoResponse::into_response)
    }

    /// Makes a change and records it. What cannot be recorded is not made.
    async fn change(&'static self, call: Call) -> Result<Response, Problem> {
        let (caller, operation) = (Arc::clone(&call.caller.name), self.id);
        tracing::info!(caller = &*caller, operation, "HTTP API: change requested");
        let pool = call.context.pool.clone();
        let entry = NewEntry {
            listener: &call.context.listener,
            actor: &caller,
            tenant: call.caller.tenant.as_deref(),
            operation,
            request: &call.json()?,
        };
        let entry = OpenEntry::begin(&pool, &entry).await.map_err(|error| {
            Problem::from(error).because("the change is not made, since it cannot be recorded")
        })?;
        let mut result = (self.run)(call).await;
        let recorded = match &mut result {
            Ok(response) => {
                let affected = response.extensions_mut().remove::<Affected>();
                Ok(affected.map(|Affected(count)| count))
            }
            Err(problem) => Err(problem.detail()),
        };
        if let Err(error) = entry.finish(&pool, recorded).await {
            let error = ::queue::describe_error(&error);
            tracing::warn!(
                error,
                operation,
                "HTTP API: the end of a change is not recorded"
            );
        }
        result
    }

    async fn check(
        &'static self,
        context: ApiContext,
        caller: Caller,
        mut request: Request,
    ) -> Result<Call, Problem> {
        context.auth.authorize(&caller, self.role()).await?;
        if caller.tenant.is_some() && !self.tenants {
            return Err(Problem::forbidden(
                "this shows all tenants together, and the token is for one of them",
            ));
        }
        let query = Values::parse(request.uri().query().unwrap_or_default(), self.query)?;
        let id = match &self.id_parameter {
            Some(_) => path_id(&mut request).await?,
            None => String::new(),
        };
        let body = match self.body {
            Some(_) => body(request).await?,
            None => Bytes::new(),
        };
        Ok(Call {
            context,
            caller,
            query,
            id,
            body,
        })
    }
}

async fn path_id(request: &mut Request) -> Result<String, Problem> {
    let none = || Problem::not_found("the id in the path is not text without NUL characters");
    let parameters = request.extract_parts::<RawPathParams>().await;
    let parameters = parameters.map_err(|_| none())?;
    let found = parameters.iter().find(|(name, _)| *name == "id");
    match found {
        Some((_, id)) if !id.contains('\0') => Ok(id.to_owned()),
        _ => Err(none()),
    }
}

async fn body(request: Request) -> Result<Bytes, Problem> {
    let kind = request.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "send the body as `content-type: application/json`",
        ));
    }
    let mut parts = request.into_body().into_data_stream();
    let (mut whole, mut length) = (Vec::new(), 0_usize);
    while length <= MAX_DISCARDED_BYTES {
        let part = parts.next();
        let part = if length <= MAX_BODY_BYTES {
            part.await
        } else {
            timeout(DISCARD_TIMEOUT, part).await.unwrap_or_default()
        };
        let Some(part) = part else {
            break;
        };
        let part = part.map_err(|_| Problem::bad_request("the body is cut off"))?;
        length += part.len();
        if length <= MAX_BODY_BYTES {
            whole.extend_from_slice(&part);
        }
    }
    if length > MAX_BODY_BYTES {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {MAX_BODY_BYTES} bytes"),
        ));
    }
    Ok(whole.into())
}

impl Call {
    /// Parses the body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| Problem::of_body(&error))
    }

    /// Returns the documents of the history that its caller may see.
    pub(super) fn scope(&self) -> Scope {
        Scope {
            listener: self.context.listener.to_string(),
            tenant: self.caller.tenant.as_deref().map(str::to_owned),
        }
    }

    /// Returns the only tenant whose data it may see or change, where it asks for one or for none; all where
    /// absent.
    pub(super) fn tenant(&self, wanted: Option<String>) -> Result<Option<String>, NothingMatches> {
        match (self.caller.tenant.as_deref(), wanted) {
            (None, wanted) => Ok(wanted),
            (Some(own), Some(wanted)) if own != wanted => Err(NothingMatches),
            (Some(own), _) => Ok(Some(own.to_owned())),
        }
    }
}

/// Responds with JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<Response, Problem> {
    let kind = [(CONTENT_TYPE, "application/json")];
    Ok((kind, serde_json::to_vec(value)?).into_response())
}

/// Responds with JSON to a change of so many.
pub(super) fn affected<T: Serialize>(count: u64, value: &T) -> Result<Response, Problem> {
    let mut response = json(value)?;
    response.extensions_mut().insert(Affected(count));
    Ok(response)
}
