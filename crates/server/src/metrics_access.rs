//! Who may read metrics: everybody who reaches the port, or the bearer of a token of the cluster that may `get` the
//! path `/metrics`, as of the API server itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use k8s_openapi::api::authorization::v1::NonResourceAttributes;
use kube::Client;
use tokio::time::Instant;

use crate::limiter::{Limiter, LogLimit};
use crate::reviews::{Remembered, ReviewError, Reviewer, Right, bearer, digest};

/// Path of metrics, here and in the rights of the cluster.
pub const METRICS_PATH: &str = "/metrics";

/// How long an answer of the API server counts for metrics.
pub const MAX_AGE: Duration = Duration::from_mins(1);

/// Access to `/metrics`, which is open by default.
#[derive(Clone, Debug, Default)]
pub struct MetricsAccess(Option<Arc<Gate>>);

#[derive(Debug)]
struct Gate {
    reviewer: Reviewer,
    right: Right,
    /// Says what to do if the process may not ask the API server.
    remedy: &'static str,
    unknown: Limiter,
    refused: LogLimit,
    /// Apart from the others, since it names the user who is to be given the right.
    forbidden: LogLimit,
    unavailable: LogLimit,
}

/// Why a request is refused.
#[derive(Debug)]
enum Refusal {
    /// It has no token, or one of nobody.
    Unauthorized,
    /// The user lacks the right.
    Forbidden(Arc<str>),
    /// There are too many of its kind.
    TooMany(Duration),
    /// The API server does not say.
    Unavailable(ReviewError, &'static str),
}

impl MetricsAccess {
    /// Admits the bearers of tokens that have the right to. Answers of the API server count for `max_age`; the remedy
    /// is told where the process may not ask.
    #[must_use]
    pub fn authorized(client: &Client, max_age: Duration, remedy: &'static str) -> Self {
        Self(Some(Arc::new(Gate {
            reviewer: Reviewer::new(client, max_age),
            right: Right::Path(NonResourceAttributes {
                path: Some(METRICS_PATH.to_owned()),
                verb: Some("get".to_owned()),
            }),
            remedy,
            unknown: Limiter::of_unknown_tokens(),
            refused: LogLimit::default(),
            forbidden: LogLimit::default(),
            unavailable: LogLimit::default(),
        })))
    }

    /// Puts the handler of metrics behind it.
    pub fn guard<S: Clone + Send + Sync + 'static>(
        &self,
        metrics: MethodRouter<S>,
    ) -> MethodRouter<S> {
        match &self.0 {
            Some(gate) => metrics.layer(from_fn_with_state(Arc::clone(gate), admit)),
            None => metrics,
        }
    }
}

async fn admit(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    match gate.check(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            gate.log(&refusal);
            refusal.into_response()
        }
    }
}

impl Gate {
    async fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let token = bearer(headers).ok_or(Refusal::Unauthorized)?;
        let digest = digest(token);
        let user = match self.reviewer.remembered(&digest) {
            Remembered::User(user) => Some(user),
            Remembered::Nobody => None,
            remembered => {
                // A flood of tokens that are not known keeps nobody out who was known a moment ago.
                let limiter = if let Remembered::Stale(own) = &remembered {
                    own
                } else {
                    &self.unknown
                };
                limiter.admit().map_err(Refusal::TooMany)?;
                let reviewed = self.reviewer.review(token, digest).await;
                reviewed.map_err(|error| self.unavailable(error))?
            }
        };
        let user = user.ok_or(Refusal::Unauthorized)?;
        user.limiter.admit().map_err(Refusal::TooMany)?;
        let allowed = self.reviewer.has(&user, &self.right).await;
        if allowed.map_err(|error| self.unavailable(error))? {
            Ok(())
        } else {
            Err(Refusal::Forbidden(user.name()))
        }
    }

    fn unavailable(&self, error: ReviewError) -> Refusal {
        Refusal::Unavailable(error, self.remedy)
    }

    /// Logs a refusal, at most one of a kind in a while.
    fn log(&self, refusal: &Refusal) {
        let limit = match refusal {
            Refusal::Unavailable(..) => &self.unavailable,
            Refusal::Forbidden(_) => &self.forbidden,
            Refusal::Unauthorized | Refusal::TooMany(_) => &self.refused,
        };
        let Some(count) = limit.count(Instant::now()) else {
            return;
        };
        if let Refusal::Unavailable(error, remedy) = refusal {
            let remedy = matches!(error, ReviewError::Forbidden(_)).then_some(*remedy);
            tracing::warn!(
                count,
                %error,
                remedy,
                "metrics refused: the API server does not say who a token is and what they may"
            );
        } else {
            tracing::warn!(count, "metrics refused: {}", refusal.text());
        }
    }
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable(..) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Unauthorized => {
                "send a token of the cluster as `Authorization: Bearer TOKEN`".to_owned()
            }
            Self::Forbidden(user) => format!(
                "user {user} may not get the path {METRICS_PATH}: bind a ClusterRole with nonResourceURLs \
                 [{METRICS_PATH}], such as the chart's metrics-reader"
            ),
            Self::TooMany(_) => "too many requests; make fewer".to_owned(),
            Self::Unavailable(ReviewError::Forbidden(_), remedy) => {
                format!("this process may not ask the API server who you are: {remedy}")
            }
            Self::Unavailable(..) => {
                "the API server cannot be asked who you are; try again".to_owned()
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        let body = format!("{}\n", self.text());
        let mut response = (self.status(), [(CONTENT_TYPE, kind)], body).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Unauthorized => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::TooMany(after) => {
                let seconds = u64::try_from(after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
                headers.insert(RETRY_AFTER, seconds.max(1).into());
            }
            Self::Forbidden(_) | Self::Unavailable(..) => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use axum::Router;
    use axum::body::Body;
    use axum::http::header::AUTHORIZATION;
    use axum::routing::get;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use kube::Config;
    use tokio::net::TcpListener;

    use super::*;

    /// A client of an API server that is not there.
    async fn client() -> Client {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let mut config = Config::new(url.parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    async fn ask(access: &MetricsAccess, token: Option<&str>) -> Response {
        let app = Router::new()
            .route("/healthz", get(async || "ok"))
            .route(METRICS_PATH, access.guard(get(async || "metrics")));
        let mut request = Request::builder().uri(METRICS_PATH);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        TowerToHyperService::new(app).call(request).await.unwrap()
    }

    #[tokio::test]
    async fn metrics_are_open_by_default() {
        let open = MetricsAccess::default();
        assert_eq!(ask(&open, None).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn nobody_is_admitted_while_the_api_server_is_away() {
        let access = MetricsAccess::authorized(&client().await, MAX_AGE, "bind it");
        let nobody = ask(&access, None).await;
        assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(nobody.headers()[WWW_AUTHENTICATE], "Bearer");
        let away = ask(&access, Some("some-token")).await;
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn tokens_that_are_not_known_are_asked_about_at_a_bounded_rate() {
        let access = MetricsAccess::authorized(&client().await, MAX_AGE, "bind it");
        let gate = access.0.clone().unwrap();
        while gate.unknown.admit().is_ok() {}
        let flood = ask(&access, Some("some-token")).await;
        assert_eq!(flood.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(flood.headers()[RETRY_AFTER], "1");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let forbidden = || ReviewError::Forbidden("tokenreviews".to_owned());
        for (refusal, status, words) in [
            (Refusal::Unauthorized, 401, "Bearer TOKEN"),
            (Refusal::Forbidden("joe".into()), 403, "user joe may not"),
            (
                Refusal::Unavailable(forbidden(), "bind it"),
                503,
                ": bind it",
            ),
            (
                Refusal::Unavailable(ReviewError::TimedOut, "bind it"),
                503,
                "try again",
            ),
            (
                Refusal::Unavailable(ReviewError::Busy, "bind it"),
                503,
                "try again",
            ),
        ] {
            assert_eq!(refusal.status().as_u16(), status);
            assert!(refusal.text().contains(words), "{}", refusal.text());
        }
    }
}
