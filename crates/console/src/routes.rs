//! All routes of the console: the router and the checks of requests follow from this list.

use std::future::Future;
use std::pin::Pin;

use axum::response::Response;

use crate::failure::Failure;
use crate::pages;
use crate::visit::Visit;

/// Paths, from the root.
pub(crate) mod path {
    /// The overview, where the console begins.
    pub(crate) const OVERVIEW: &str = "/console";
    /// Who may come in.
    pub(crate) const LOGIN: &str = "/console/login";
    /// The end of a session.
    pub(crate) const LOGOUT: &str = "/console/logout";
    /// Observers.
    pub(crate) const OBSERVERS: &str = "/console/observers";
    /// One observer; its name follows.
    pub(crate) const OBSERVER: &str = "/console/observers/";
    /// The history.
    pub(crate) const EVENTS: &str = "/console/events";
    /// One event; its id follows.
    pub(crate) const EVENT: &str = "/console/events/";
    /// Events as they are committed.
    pub(crate) const LIVE: &str = "/console/live";
    /// Dead letters.
    pub(crate) const DEAD_LETTERS: &str = "/console/dead-letters";
    /// One dead letter; its id follows.
    pub(crate) const DEAD_LETTER: &str = "/console/dead-letters/";
    /// Jobs.
    pub(crate) const JOBS: &str = "/console/jobs";
    /// One job; its id follows.
    pub(crate) const JOB: &str = "/console/jobs/";
    /// Backfills.
    pub(crate) const BACKFILLS: &str = "/console/backfills";
    /// Caches.
    pub(crate) const CACHES: &str = "/console/caches";
    /// What was changed by whom.
    pub(crate) const AUDIT: &str = "/console/audit";
    /// A change that waits for being confirmed; its name follows.
    pub(crate) const ACTS: &str = "/console/acts/";
}

/// Response to come.
pub(crate) type Answer = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send>>;

/// Method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// It shows.
    Get,
    /// It changes.
    Post,
}

/// A page, or a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// Method.
    pub(crate) method: Method,
    /// Path from the root; `{id}` stands for any text without a slash.
    pub(crate) path: &'static str,
    /// Whether it needs the role Operate, and a console that is not read-only.
    pub(crate) operate: bool,
    /// Responds.
    pub(crate) run: fn(Visit) -> Answer,
}

macro_rules! route {
    ($path:expr, $run:path) => {
        Route {
            method: Method::Get,
            path: $path,
            operate: false,
            run: |visit| Box::pin($run(visit)),
        }
    };
}

/// A route of all acts, the name of which is the end of its path.
macro_rules! act {
    ($method:ident, $run:path) => {
        Route {
            method: Method::$method,
            path: "/console/acts/{id}",
            operate: true,
            run: |visit| Box::pin($run(visit)),
        }
    };
}

/// All routes but the login, the logout and the assets, for which nobody needs to be logged in.
pub(crate) static ROUTES: &[Route] = &[
    route!(path::OVERVIEW, pages::overview::show),
    route!(path::OBSERVERS, pages::observers::list),
    route!("/console/observers/{id}", pages::observer::show),
    route!(path::EVENTS, pages::events::search),
    route!("/console/events/{id}", pages::event::show),
    route!(path::LIVE, pages::live::show),
    route!(path::AUDIT, pages::audit::list),
    route!(path::DEAD_LETTERS, pages::dead_letters::list),
    route!("/console/dead-letters/{id}", pages::dead_letters::show),
    route!(path::JOBS, pages::jobs::list),
    route!("/console/jobs/{id}", pages::jobs::show),
    route!(path::BACKFILLS, pages::backfills::list),
    route!(path::CACHES, pages::caches::list),
    act!(Get, pages::acts::confirm),
    act!(Post, pages::acts::run),
];

/// What is known of a route before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct RouteInfo {
    /// Path from the root; `{id}` stands for any text without a slash.
    pub path: &'static str,
    /// Whether it only shows.
    pub is_read: bool,
    /// Whether it needs the role Operate.
    pub operate: bool,
}

/// Returns all routes but the login, the logout and the assets.
pub fn route_list() -> impl Iterator<Item = RouteInfo> {
    ROUTES.iter().map(|route| RouteInfo {
        path: route.path,
        is_read: route.method == Method::Get,
        operate: route.operate,
    })
}
