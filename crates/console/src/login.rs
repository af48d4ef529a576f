//! Who comes in, by a token of the listener or of the cluster, and who goes.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use maud::html;

use crate::api::{Api, ApiError};
use crate::failure::Failure;
use crate::host::Host;
use crate::layout;
use crate::params::Params;
use crate::respond::{Parts, form as form_of, with_cookie};
use crate::routes::{Method, path};
use crate::security;
use crate::session::{Session, SessionId};
use crate::session_store::{self, SESSION_LIFETIME};
use crate::value::text;
use crate::visit::{Caller, see_other};

/// Tells htmx to open another page.
const HTMX_REDIRECT: &str = "hx-redirect";

/// Sends somebody without a session to the login, which leads back to the page that they wanted.
pub(crate) fn instead_of(uri: &Uri, method: Method, is_partial: bool) -> Response {
    let wanted = match method {
        Method::Get if !is_partial => uri.path_and_query().map(ToString::to_string),
        // What was to be changed is confirmed once more.
        _ => None,
    };
    let wanted = wanted.filter(|wanted| wanted != path::OVERVIEW);
    let login = Params::default()
        .with("next", wanted.as_deref())
        .link(path::LOGIN);
    if is_partial {
        let value = HeaderValue::from_static(path::LOGIN);
        return (StatusCode::UNAUTHORIZED, [(HTMX_REDIRECT, value)]).into_response();
    }
    see_other(&login)
}

/// Shows the form.
pub(crate) fn form(host: &Arc<dyn Host>, request: &Request) -> Result<Response, Failure> {
    host.state().ok_or(Failure::Off)?;
    let query = Params::parse(request.uri().query().unwrap_or_default().as_bytes());
    Ok(Html(page(next(&query), None)).into_response())
}

/// Begins a session.
pub(crate) async fn log_in(host: &Arc<dyn Host>, request: Request) -> Result<Response, Failure> {
    if !security::is_same_origin(request.headers()) {
        return Err(Failure::CrossOrigin);
    }
    let is_https = security::is_https(request.headers());
    let Parts {
        state,
        cookies,
        session: before,
        now,
    } = Parts::of(host, request.headers()).await?;
    let fields = form_of(request).await?;
    let next = next(&fields).to_owned();
    let token = fields.get("token").unwrap_or_default().trim();
    if let Err(error) = admit(host, token).await {
        let page = page(&next, Some(&error));
        return Ok((error.status, Html(page)).into_response());
    }
    let id: SessionId = rand::random();
    let expires_at = now + SESSION_LIFETIME;
    let session = Session {
        id,
        token: token.to_owned(),
        expires_at,
    };
    let cookie = cookies.set(&session, is_https, now)?;
    session_store::insert(&state.pool, &state.listener, &id, expires_at).await?;
    if let Some(before) = before {
        session_store::delete(&state.pool, &before.id).await?;
    }
    with_cookie(see_other(&next), &cookie)
}

/// Fails if the API does not know a token, or it admits to nothing.
async fn admit(host: &Arc<dyn Host>, token: &str) -> Result<(), ApiError> {
    let api = Api::new(host.api(), token)?;
    let found = api.get::<Caller>("/caller", &Params::default()).await;
    found.map(drop).map_err(|error| match error.status {
        StatusCode::UNAUTHORIZED => ApiError {
            detail: "nobody is known by this token".to_owned(),
            ..error
        },
        _ => error,
    })
}

/// Ends a session.
pub(crate) async fn log_out(host: &Arc<dyn Host>, request: Request) -> Result<Response, Failure> {
    if !security::is_same_origin(request.headers()) {
        return Err(Failure::CrossOrigin);
    }
    let parts = Parts::of(host, request.headers()).await?;
    if let Some(session) = &parts.session {
        session_store::delete(&parts.state.pool, &session.id).await?;
    }
    with_cookie(see_other(path::LOGIN), &parts.cookies.remove())
}

/// Returns where to go after the login: a page of the console, and nothing else.
fn next(fields: &Params) -> &str {
    let wanted = fields.get("next").unwrap_or(path::OVERVIEW);
    let is_own = wanted.starts_with("/console/") || wanted.starts_with("/console?");
    let is_plain = wanted
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_own && is_plain {
        wanted
    } else {
        path::OVERVIEW
    }
}

fn page(next: &str, error: Option<&ApiError>) -> String {
    let content = html! {
        @if let Some(error) = error {
            p.problem role="alert" { (text(&error.detail)) }
        }
        form #login.card method="post" action=(path::LOGIN) {
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input #token type="password" name="token" required autofocus autocomplete="current-password";
            p.hint { "A token of " code { "spec.api.tokens" } ", or where users of the cluster are admitted, one of "
                code { "kubectl create token" } ". It is kept for 12 hours in a sealed cookie of this browser." }
            button.primary type="submit" { "Log in" }
        }
    };
    layout::outside("Log in", &content).into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_leads_to_the_console_alone() {
        let next = |wanted: &str| next(&Params::default().with("next", Some(wanted))).to_owned();
        assert_eq!(next("/console/events?q=a%20b"), "/console/events?q=a%20b");
        let wrong = [
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "/consoles",
            "/console/\r\nx: y",
            "/console/\\evil",
            "javascript:alert(1)",
            "/",
            "/console/ä",
        ];
        for wrong in wrong {
            assert_eq!(next(wrong), path::OVERVIEW, "{wrong}");
        }
    }
}
