//! HTTP API under `/api/observers`: the history, dead letters and jobs of a listener, with the names and the
//! JSON of the commands. Requests need a token of `spec.api`, or in a cluster the rights of a user; errors are
//! problem details as in RFC 9457.
//!
//! What there is, is listed in [`endpoints`]: routes, checks and the `OpenAPI` document follow from that list.

mod activity;
mod audit;
mod auth;
mod backfills;
mod breakers;
mod cache;
mod caller;
mod console_host;
mod cursor;
mod dead_letters;
mod endpoint;
mod endpoints;
mod events;
mod jobs;
mod kubernetes;
mod limits;
mod openapi;
mod overview;
mod parameters;
mod problem;
mod queries;
mod search;
mod selection;
mod tail;
mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ::queue::JobQueue;
use ::search::SearchIndex;
use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crds::config::{ApiConfig, ApiRole, ApiToken, ListenerConfig, Redacted, SourceConfig};
use sqlx::PgPool;
use tokio::sync::{OnceCell, watch};

use crate::coordination::membership::Coordination;
use crate::database::{self, DatabaseError};
use crate::history::compose::Composer;
use crate::live_tail::LiveTail;
use crate::observers::Observers;
use crate::sync::lock;
use auth::{Auth, Caller};
use console_host::ConsoleHost;
use cursor::CursorKey;
use endpoint::{Endpoint, Method};
use endpoints::ENDPOINTS;
use limits::{ResponseLimit, SearchLimit};
use problem::Problem;

/// Where all paths begin.
const BASE: &str = "/api/observers";

/// Maximum length of a request's path and query.
const MAX_URI_BYTES: usize = 8 * 1024;

/// Name of the token of whoever started the process.
const OWN_TOKEN_NAME: &str = "console";

/// Timeout of a request, but for the body of its response. It is shorter than that of the server.
const TIMEOUT: Duration = Duration::from_secs(28);

/// What the API is opened with.
#[derive(Debug)]
pub(crate) struct ApiParts<'a> {
    /// The listener.
    pub(crate) listener: &'a ListenerConfig,
    /// Its job queue.
    pub(crate) queue: &'a Arc<dyn JobQueue>,
    /// Its observers, which may be replaced.
    pub(crate) observers: watch::Receiver<Arc<Observers>>,
    /// Where users of the cluster are known, if it runs in one.
    pub(crate) coordination: &'a Coordination,
    /// Its history, if it keeps one.
    pub(crate) search: Option<Arc<dyn SearchIndex>>,
}

/// Context of requests while the listener runs.
#[derive(Clone, Debug)]
struct ApiContext {
    pool: PgPool,
    queue: Arc<dyn JobQueue>,
    listener: Arc<str>,
    observers: watch::Receiver<Arc<Observers>>,
    search: Option<Arc<dyn SearchIndex>>,
    /// The source of the change log, if it is not filled by triggers.
    source: Arc<SourceConfig>,
    /// Makes documents of events that the history does not have.
    composer: Arc<Composer>,
    auth: Arc<Auth>,
    searches: Arc<SearchLimit>,
    responses: ResponseLimit,
    cursors: Arc<OnceCell<CursorKey>>,
    /// Key of the console's sessions.
    sessions: Arc<OnceCell<[u8; 32]>>,
    live: Arc<LiveTail>,
}

impl ApiContext {
    async fn cursors(&self) -> Result<&CursorKey, Problem> {
        let key = self.cursors.get_or_try_init(|| CursorKey::load(&self.pool));
        Ok(key.await?)
    }
}

/// HTTP API, which answers while a context is set.
#[derive(Clone, Debug, Default)]
pub struct HttpApi(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    context: Mutex<Option<ApiContext>>,
    /// Who may use it, if the listener has one.
    access: watch::Sender<Option<Arc<ApiConfig>>>,
    /// The token of whoever started the process, if it was asked for a console.
    own_token: OnceLock<Redacted>,
}

/// Link to the console.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum ConsoleLink {
    /// One that asks for a token.
    Open(String),
    /// One that holds a token, behind `#`, where browsers keep it to themselves.
    LogsIn(String),
}

/// Guard that turns the API off when it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct ApiGuard(HttpApi);

impl Drop for ApiGuard {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

impl HttpApi {
    /// Takes note of whether the listener has an API, which is served while it does, and of who may use it.
    pub(crate) fn configure(&self, listener: &ListenerConfig) {
        let access = self.access_of(listener).map(Arc::new);
        if let (Some(context), Some(access)) = (&mut *lock(&self.0.context), &access) {
            context.auth = Arc::new(context.auth.changed_to(access));
        }
        self.0.access.send_replace(access);
    }

    /// Asks for a console, with whatever listener. One without `spec.api` gets it too, for the token that is
    /// returned by [`HttpApi::own_token`].
    pub(crate) fn ask_for_console(&self) {
        let random: [u8; 32] = rand::random();
        let token = Redacted::new(URL_SAFE_NO_PAD.encode(random));
        self.0.own_token.get_or_init(|| token);
    }

    /// Returns who may use the API of a listener.
    fn access_of(&self, listener: &ListenerConfig) -> Option<ApiConfig> {
        let Some(token) = self.0.own_token.get() else {
            return listener.api.clone();
        };
        let mut access = listener.api.clone().unwrap_or_else(|| ApiConfig {
            tokens: vec![ApiToken {
                name: OWN_TOKEN_NAME.to_owned(),
                token: token.clone(),
                role: ApiRole::Operate,
                tenant: None,
            }],
            kubernetes: false,
            console: None,
        });
        access.console.get_or_insert_default();
        Some(access)
    }

    /// Returns the link to the console on an address that this process listens on, if there is one.
    pub(crate) fn console_link(&self, mut at: SocketAddr) -> Option<ConsoleLink> {
        let access = self.0.access.borrow().clone()?;
        access.console?;
        if at.ip().is_unspecified() {
            at.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let base = console::BASE;
        let own = self.0.own_token.get();
        Some(
            match own.filter(|own| access.tokens.iter().any(|one| one.token == **own)) {
                Some(token) => {
                    ConsoleLink::LogsIn(format!("http://{at}{base}/login#token={}", token.reveal()))
                }
                None => ConsoleLink::Open(format!("http://{at}{base}")),
            },
        )
    }

    /// Returns who may use the API, if the listener has one, as that changes.
    pub(crate) fn access(&self) -> watch::Receiver<Option<Arc<ApiConfig>>> {
        self.0.access.subscribe()
    }

    /// Turns the API on if the listener has one, with a connection pool of its own.
    pub(crate) fn open(&self, parts: ApiParts<'_>) -> Result<ApiGuard, DatabaseError> {
        let listener = parts.listener;
        if let Some(access) = &*self.0.access.borrow() {
            let pool = database::admin_pool(&listener.database_url)?;
            self.set(Some(ApiContext {
                live: Arc::new(LiveTail::new(pool.clone(), listener.identity())),
                pool,
                queue: Arc::clone(parts.queue),
                listener: listener.identity().into(),
                observers: parts.observers,
                search: parts.search,
                source: Arc::new(listener.source.clone()),
                composer: Arc::new(composer(listener)),
                auth: Arc::new(Auth::new(access, listener, parts.coordination)),
                searches: Arc::default(),
                responses: ResponseLimit::default(),
                cursors: Arc::default(),
                sessions: Arc::default(),
            }));
        }
        Ok(ApiGuard(self.clone()))
    }

    fn set(&self, context: Option<ApiContext>) {
        let before = std::mem::replace(&mut *lock(&self.0.context), context);
        if let Some(before) = before {
            before.live.close();
        }
    }

    fn context(&self) -> Option<ApiContext> {
        lock(&self.0.context).clone()
    }
}

/// Returns what makes documents: without the columns that never reach the history, where there is one.
fn composer(listener: &ListenerConfig) -> Composer {
    match &listener.search {
        Some(config) => Composer::new(listener.identity(), config),
        None => Composer::without_history(listener.identity()),
    }
}

/// Returns the routes of the API and of the console.
pub(super) fn routes(api: HttpApi) -> Router {
    let api_routes = api_routes(api.clone());
    let host: Arc<dyn console::Host> = Arc::new(ConsoleHost::new(api, api_routes.clone()));
    api_routes.merge(console::router(&host))
}

/// Returns the routes of the API, all of which need a token.
fn api_routes(api: HttpApi) -> Router {
    let mut all = Router::new();
    for path in paths() {
        let of_path = ENDPOINTS.iter().filter(|one| one.path == path);
        let methods = of_path.fold(MethodRouter::new(), route);
        all = all.route(path, methods);
    }
    let unknown = async || {
        Problem::not_found("there is no such path; docs/reference/http-api.md lists the paths")
    };
    let all = all.fallback(unknown).method_not_allowed_fallback(async || {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "the path does not take this method; the header Allow lists the methods that it takes",
        )
    });
    Router::new()
        .nest(BASE, all)
        .route(&format!("{BASE}/"), any(unknown))
        .layer(from_fn_with_state(api, admit))
}

/// Returns the routes for a port of their own.
pub(super) fn routes_alone(api: HttpApi) -> Router {
    routes(api).fallback(async || {
        Problem::not_found(format!(
            "there is no such path; all paths begin with {BASE}, and health checks and metrics have another port"
        ))
    })
}

/// Returns all paths, each once.
fn paths() -> Vec<&'static str> {
    let mut paths: Vec<_> = ENDPOINTS.iter().map(|one| one.path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn route(methods: MethodRouter, endpoint: &'static Endpoint) -> MethodRouter {
    let handler = |Extension(context): Extension<ApiContext>,
                   Extension(caller): Extension<Caller>,
                   request: Request| endpoint.respond(context, caller, request);
    methods.merge(match endpoint.method {
        Method::Get => get(handler),
        Method::Post => post(handler),
    })
}

/// Finds out who makes a request, adds that and the context to it, and limits its time.
async fn admit(State(api): State<HttpApi>, request: Request, next: Next) -> Response {
    let mut response = admitted(&api, request, next).await;
    // Responses hold data of rows.
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}

async fn admitted(api: &HttpApi, mut request: Request, next: Next) -> Response {
    let uri = request.uri();
    let length = uri.path_and_query().map_or(0, |both| both.as_str().len());
    if length > MAX_URI_BYTES {
        let detail = format!("path and query have more than {MAX_URI_BYTES} bytes");
        return Problem::new(StatusCode::URI_TOO_LONG, detail).into_response();
    }
    let Some(context) = api.context() else {
        return Problem::unavailable(
            "the API is off, or the listener is not running: set spec.api of the ObserverListener, and see /readyz",
        )
        .into_response();
    };
    let method = request.method().clone();
    let answer = async {
        let caller = match context.auth.authenticate(request.headers()).await {
            Ok(caller) => caller,
            Err(problem) => return problem.into_response(),
        };
        request.extensions_mut().insert(context);
        request.extensions_mut().insert(caller);
        next.run(request).await
    };
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(response) => response,
        Err(_) => Problem::timed_out(&method).into_response(),
    }
}
