//! What a page is made from: who looks, and what they ask for.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{Html, IntoResponse, Response};
use chrono::{DateTime, Utc};
use maud::Markup;
use serde::Deserialize;

use crate::api::Api;
use crate::layout::{self, Section};
use crate::params::Params;

/// Who looks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Caller {
    /// Name of the token, or of the user of the cluster.
    pub(crate) name: String,
    /// The only tenant that they see.
    pub(crate) tenant: Option<String>,
    /// Whether they may change something.
    pub(crate) operate: bool,
}

/// A request of somebody who is logged in and has the role for it.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// The API, with their token.
    pub(crate) api: Api,
    /// Who looks.
    pub(crate) caller: Caller,
    /// The listener, `namespace/name`.
    pub(crate) listener: Arc<str>,
    /// `id` of the path, decoded; empty where there is none.
    pub(crate) id: String,
    /// Parameters of the query.
    pub(crate) query: Params,
    /// Fields of the form, if this is one.
    pub(crate) form: Params,
    /// When the request came.
    pub(crate) now: DateTime<Utc>,
}

impl Visit {
    /// Responds with a page.
    pub(crate) fn page(&self, section: Section, title: &str, content: &Markup) -> Response {
        let page = layout::page(self, Some(section), title, content);
        Html(page.into_string()).into_response()
    }
}

/// Responds by sending the browser to another page, which it then gets.
pub(crate) fn see_other(path: &str) -> Response {
    (StatusCode::SEE_OTHER, [(LOCATION, path)]).into_response()
}
