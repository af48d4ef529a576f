//! Users and service accounts of the cluster: who they are by `TokenReview`, and what they may by
//! `SubjectAccessReview`. Both are remembered for a short time, by digests of the tokens.

mod answers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Request};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus,
};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::limiter::Limiter;
use crate::registry::lock;
use answers::Answers;

/// How long the API server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of requests to the API server at once. A port has many more connections, so slow answers leave some
/// to the probes.
const MAX_ASKED: usize = 8;

/// Maximum bytes of a token.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Digest of a token. Digests are what is kept and compared, so that the time it takes reveals nothing about tokens.
pub type TokenDigest = [u8; 32];

/// Returns the digest of a token.
#[must_use]
pub fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token).into()
}

/// Returns the bearer token of a request.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = (1..=MAX_TOKEN_BYTES).contains(&token.len());
    (scheme.eq_ignore_ascii_case("bearer") && fits).then_some(token)
}

/// Something that users may be allowed to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Right {
    /// With a resource.
    Resource(Box<ResourceAttributes>),
    /// With a path that is no resource.
    Path(NonResourceAttributes),
}

/// A user of the cluster, as `TokenReview` tells it.
#[derive(Clone, Debug)]
pub struct ClusterUser {
    digest: TokenDigest,
    info: Arc<UserInfo>,
    /// Requests of the token.
    pub limiter: Limiter,
}

impl ClusterUser {
    /// Returns the user's name.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        self.info.username.as_deref().unwrap_or_default().into()
    }
}

/// What is remembered of a token.
#[derive(Debug)]
pub enum Remembered {
    /// Nothing: the API server has to be asked.
    Nothing,
    /// It was a user's a while ago: the API server has to be asked again, as often as the user's limiter admits.
    Stale(Limiter),
    /// It is nobody's.
    Nobody,
    /// It is a user's.
    User(ClusterUser),
}

/// Why the API server did not say.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The service account of this process lacks the right to ask.
    #[error("this service account may not ask: {0}")]
    Forbidden(String),
    /// It answers with something else. What cannot be decoded may hold a token.
    #[error("its answer is no review")]
    Malformed,
    /// It refuses, or cannot be reached.
    #[error(transparent)]
    Failed(kube::Error),
    /// It is being asked as much as it may be.
    #[error("it has not answered other requests yet")]
    Busy,
    /// It does not answer in time.
    #[error("it has not answered within {} s", TIMEOUT.as_secs())]
    TimedOut,
}

impl From<kube::Error> for ReviewError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden(status.message),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Malformed,
            error => Self::Failed(error),
        }
    }
}

/// Asks the API server about tokens.
pub struct Reviewer {
    client: Client,
    asked: Semaphore,
    answers: Mutex<Answers>,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reviewer")
    }
}

impl Reviewer {
    /// Creates a reviewer whose answers count for this long.
    #[must_use]
    pub fn new(client: &Client, max_age: Duration) -> Self {
        Self {
            client: client.clone(),
            asked: Semaphore::new(MAX_ASKED),
            answers: Mutex::new(Answers::new(max_age)),
        }
    }

    /// Returns what is remembered of a token.
    pub fn remembered(&self, digest: &TokenDigest) -> Remembered {
        lock(&self.answers).remembered(digest, Instant::now())
    }

    /// Asks whose a token is.
    pub async fn review(
        &self,
        token: &str,
        digest: TokenDigest,
    ) -> Result<Option<ClusterUser>, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let user = self.ask(&review).await?.status.and_then(user_of);
        Ok(lock(&self.answers).note_user(digest, user, Instant::now()))
    }

    /// Returns whether a user has a right. A process asks for a few rights only, each of which is remembered.
    pub async fn has(&self, user: &ClusterUser, right: &Right) -> Result<bool, ReviewError> {
        if let Some(known) = lock(&self.answers).known(user, right, Instant::now()) {
            return Ok(known);
        }
        let info = &user.info;
        let (resource_attributes, non_resource_attributes) = match right {
            Right::Resource(attributes) => (Some(attributes.as_ref().clone()), None),
            Right::Path(attributes) => (None, Some(attributes.clone())),
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: info.username.clone(),
                groups: info.groups.clone(),
                uid: info.uid.clone(),
                extra: info.extra.clone(),
                resource_attributes,
                non_resource_attributes,
            },
            ..SubjectAccessReview::default()
        };
        let status = self.ask(&review).await?.status;
        let is_allowed = status.is_some_and(|status| is_allowed(&status));
        lock(&self.answers).note_right(user, right, is_allowed, Instant::now());
        Ok(is_allowed)
    }

    /// Sends a review and returns it as answered. It does without `Api::create`, which logs answers that it cannot
    /// decode, and with them the token.
    async fn ask<R>(&self, review: &R) -> Result<R, ReviewError>
    where
        R: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
    {
        let _asked = self.asked.try_acquire().map_err(|_| ReviewError::Busy)?;
        let body = serde_json::to_vec(review).map_err(kube::Error::SerdeError)?;
        let request = Request::post(R::url_path(&(), None))
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        let answer = timeout(TIMEOUT, self.client.request_text(request)).await;
        let text = answer.map_err(|_| ReviewError::TimedOut)??;
        serde_json::from_str(&text).map_err(|_| ReviewError::Malformed)
    }
}

/// Returns the user that a review found.
fn user_of(status: TokenReviewStatus) -> Option<UserInfo> {
    status.user.filter(|_| status.authenticated == Some(true))
}

/// Returns whether a review found that a user has the right.
fn is_allowed(status: &SubjectAccessReviewStatus) -> bool {
    status.allowed && status.denied != Some(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use axum::Router;
    use kube::Config;
    use tokio::net::TcpListener;
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// A reviewer, and the socket of its API server.
    async fn reviewer() -> (Arc<Reviewer>, TcpListener) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", socket.local_addr().unwrap());
        let mut config = Config::new(url.parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        let reviewer = Reviewer::new(&client, Duration::from_mins(1));
        (Arc::new(reviewer), socket)
    }

    #[tokio::test]
    async fn slow_answers_are_awaited_by_few() {
        let (reviewer, socket) = reviewer().await;
        let mut tasks = JoinSet::new();
        // Accepts, and never answers.
        tasks.spawn(async move {
            let mut connections = Vec::new();
            while let Ok(connection) = socket.accept().await {
                connections.push(connection);
            }
        });
        for n in 0..MAX_ASKED {
            let reviewer = Arc::clone(&reviewer);
            tasks.spawn(async move {
                let token = format!("token {n}");
                drop(reviewer.review(&token, digest(&token)).await);
            });
        }
        while reviewer.asked.available_permits() > 0 {
            yield_now().await;
        }
        let asked = reviewer.review("one more", digest("one more"));
        let refused = timeout(Duration::from_secs(1), asked).await.unwrap();
        assert!(matches!(refused, Err(ReviewError::Busy)));
        tasks.shutdown().await;
        assert_eq!(reviewer.asked.available_permits(), MAX_ASKED);
    }

    #[tokio::test]
    async fn answers_that_are_no_reviews_are_errors() {
        let (reviewer, socket) = reviewer().await;
        let app = Router::new().fallback(async || r#"{"spec": {"token": "secret"}, "status": 1}"#);
        let server = tokio::spawn(async move { axum::serve(socket, app).await });
        let answered = reviewer.review("secret", digest("secret")).await;
        assert!(matches!(answered, Err(ReviewError::Malformed)));
        server.abort();
    }

    #[test]
    fn bearer_tokens_are_found_and_nothing_else() {
        let found = |text: &str| {
            let headers = [(AUTHORIZATION, text.parse().unwrap())];
            bearer(&headers.into_iter().collect()).map(ToOwned::to_owned)
        };
        for (text, token) in [
            ("Bearer abc", "abc"),
            ("bearer abc", "abc"),
            ("Bearer  abc ", "abc"),
        ] {
            assert_eq!(found(text).as_deref(), Some(token), "{text}");
        }
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1));
        for text in ["", "Bearer", "Bearer ", "Basic YTpi", "abc", &long] {
            assert_eq!(found(text), None, "{text:.20}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn only_plain_yes_admits() {
        let user = || UserInfo {
            username: Some("scraper".to_owned()),
            ..UserInfo::default()
        };
        let status = |authenticated, user: Option<UserInfo>| TokenReviewStatus {
            authenticated,
            user,
            ..TokenReviewStatus::default()
        };
        assert_eq!(user_of(status(Some(true), Some(user()))), Some(user()));
        for nobody in [
            status(None, Some(user())),
            status(Some(false), Some(user())),
            status(Some(true), None),
        ] {
            assert_eq!(user_of(nobody), None);
        }
        let allowed = |allowed, denied| {
            is_allowed(&SubjectAccessReviewStatus {
                allowed,
                denied,
                ..SubjectAccessReviewStatus::default()
            })
        };
        assert!(allowed(true, None) && allowed(true, Some(false)));
        assert!(!allowed(true, Some(true)) && !allowed(false, None));
    }
}
