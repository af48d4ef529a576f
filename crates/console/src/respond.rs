//! The steps that all requests have in common: who makes them, whether they may, and what browsers are told.

use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use chrono::{DateTime, Utc};
use maud::html;
use percent_encoding::percent_decode_str;

use crate::api::Api;
use crate::assets;
use crate::failure::Failure;
use crate::host::{Host, HostState};
use crate::layout;
use crate::login;
use crate::params::Params;
use crate::routes::{Method, ROUTES, Route, path};
use crate::security;
use crate::session::{Cookies, Session};
use crate::session_store;
use crate::value::text;
use crate::visit::{Caller, Visit, see_other};

/// Maximum number of bytes of a form.
const MAX_FORM_BYTES: usize = 256 << 10;

/// Header of requests that htmx makes.
const HTMX_REQUEST: &str = "hx-request";

/// Returns the routes of the console.
pub fn router(host: &Arc<dyn Host>) -> Router {
    let mut all = Router::new();
    for asset in assets::all() {
        all = all.route(
            &asset.path,
            get(async move || respond(Ok(asset.into_response()))),
        );
    }
    let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        let of_path = ROUTES.iter().filter(|route| route.path == path);
        let methods = of_path.fold(MethodRouter::new(), |methods, route| {
            let host = Arc::clone(host);
            let handler = async move |request: Request| respond(visit(&host, route, request).await);
            methods.merge(match route.method {
                Method::Get => get(handler),
                Method::Post => post(handler),
            })
        });
        all = all.route(path, methods);
    }
    let (form, come, go) = (Arc::clone(host), Arc::clone(host), Arc::clone(host));
    let login = get(async move |request: Request| respond(login::form(&form, &request)))
        .post(async move |request: Request| respond(login::log_in(&come, request).await));
    let logout = post(async move |request: Request| respond(login::log_out(&go, request).await));
    let unknown = async || respond(Err(Failure::NotFound));
    all.route(path::LOGIN, login)
        .route(path::LOGOUT, logout)
        .route(
            &format!("{}/{{*rest}}", crate::BASE),
            axum::routing::any(unknown),
        )
        .route(
            &format!("{}/", crate::BASE),
            get(async || respond(Ok(see_other(path::OVERVIEW)))),
        )
}

/// What a request is made with, before anybody knows who makes it.
pub(crate) struct Parts {
    pub(crate) state: HostState,
    pub(crate) cookies: Cookies,
    pub(crate) session: Option<Session>,
    pub(crate) now: DateTime<Utc>,
}

impl Parts {
    /// Finds the listener, and the session of a request.
    pub(crate) async fn of(host: &Arc<dyn Host>, headers: &HeaderMap) -> Result<Self, Failure> {
        let state = host.state().ok_or(Failure::Off)?;
        let key = host.session_key(&state.pool).await?;
        let (cookies, now) = (Cookies::new(&state.listener, &key)?, Utc::now());
        let session = match cookies.find(headers, now) {
            Some(found)
                if session_store::exists(&state.pool, &state.listener, &found.id).await? =>
            {
                Some(found)
            }
            _ => None,
        };
        Ok(Self {
            state,
            cookies,
            session,
            now,
        })
    }
}

/// Responds to a request of a route.
async fn visit(
    host: &Arc<dyn Host>,
    route: &'static Route,
    request: Request,
) -> Result<Response, Failure> {
    if route.method == Method::Post && !security::is_same_origin(request.headers()) {
        return Err(Failure::CrossOrigin);
    }
    let parts = Parts::of(host, request.headers()).await?;
    let is_partial = request.headers().contains_key(HTMX_REQUEST);
    let uri = request.uri().clone();
    let Some(session) = &parts.session else {
        return Ok(login::instead_of(&uri, route.method, is_partial));
    };
    let api = Api::new(host.api(), &session.token)?;
    let mut caller: Caller = match api.get("/caller", &Params::default()).await {
        Ok(caller) => caller,
        // The token is taken away, or its right to see anything.
        Err(error)
            if matches!(
                error.status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
            ) =>
        {
            return Ok(login::instead_of(&uri, route.method, is_partial));
        }
        Err(error) => return Err(error.into()),
    };
    if route.operate && parts.state.read_only {
        return Err(Failure::ReadOnly);
    }
    if route.operate && !caller.operate {
        return Err(Failure::OnlyRead);
    }
    caller.operate &= !parts.state.read_only;
    let form = match route.method {
        Method::Get => Params::default(),
        Method::Post => form(request).await?,
    };
    (route.run)(Visit {
        api,
        caller,
        listener: parts.state.listener,
        id: id_of(route.path, &uri)?,
        query: Params::parse(uri.query().unwrap_or_default().as_bytes()),
        form,
        now: parts.now,
    })
    .await
}

/// Returns the fields of a form.
pub(crate) async fn form(request: Request) -> Result<Params, Failure> {
    let body = to_bytes(request.into_body(), MAX_FORM_BYTES).await;
    let body = body.map_err(|_| {
        Failure::Form(format!(
            "the form is cut off, or has more than {MAX_FORM_BYTES} bytes"
        ))
    })?;
    Ok(Params::parse(&body))
}

/// Returns the text of a path that stands for `{id}`.
fn id_of(pattern: &str, uri: &Uri) -> Result<String, Failure> {
    let Some((before, after)) = pattern.split_once("{id}") else {
        return Ok(String::new());
    };
    let id = uri
        .path()
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after));
    let id = percent_decode_str(id.ok_or(Failure::NotFound)?).decode_utf8();
    Ok(id.map_err(|_| Failure::NotFound)?.into_owned())
}

/// Responds with a page, or with what is wrong, and with what browsers are told.
fn respond(result: Result<Response, Failure>) -> Response {
    let mut response = result.unwrap_or_else(|failure| {
        let status = failure.status();
        if let Failure::Database(error) = &failure {
            tracing::warn!(%error, "console: the listener's database fails");
        }
        let content = html! {
            p.problem role="alert" { (text(&failure.to_string())) }
            p { a href=(path::OVERVIEW) { "Overview" } }
        };
        let page = layout::outside(title(status), &content).into_string();
        (status, Html(page)).into_response()
    });
    security::add_headers(response.headers_mut());
    response
}

fn title(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => "This does not fit",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests",
        StatusCode::SERVICE_UNAVAILABLE => "Not available",
        _ => "Something went wrong",
    }
}

/// Adds a cookie to a response.
pub(crate) fn with_cookie(mut response: Response, cookie: &str) -> Result<Response, Failure> {
    let value = HeaderValue::from_str(cookie);
    let value = value.map_err(|_| Failure::Form("the session cannot be kept".to_owned()))?;
    response.headers_mut().append(SET_COOKIE, value);
    Ok(response)
}
