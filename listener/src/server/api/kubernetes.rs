//! Users and service accounts of the cluster: who they are by `TokenReview`, and what they may by
//! `SubjectAccessReview`. Both are remembered for a short time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::config::ApiRole;
use crds::v1alpha1::GROUP;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, timeout};

use super::problem::Problem;
use super::tokens::{Limiter, TokenDigest};
use crate::sync::lock;

/// How long an answer of the API server counts.
const MAX_AGE: Duration = Duration::from_secs(10);

/// How long a user counts as known.
const MAX_STALE: Duration = Duration::from_mins(10);

/// Maximum number of tokens whose answers are remembered.
const MAX_REMEMBERED: usize = 1000;

/// How long the API server may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Resource and subresource that stand for the API.
const RESOURCE: &str = "observerlisteners";
const SUBRESOURCE: &str = "events";

/// A user of the cluster, as `TokenReview` tells it.
#[derive(Clone, Debug)]
pub(super) struct ClusterUser {
    digest: TokenDigest,
    info: Arc<UserInfo>,
    /// Requests of the token.
    pub(super) limiter: Limiter,
}

impl ClusterUser {
    /// Returns the user's name.
    pub(super) fn name(&self) -> Arc<str> {
        self.info.username.as_deref().unwrap_or_default().into()
    }
}

/// What is remembered of a token.
#[derive(Debug)]
pub(super) enum Remembered {
    /// Nothing: the API server has to be asked.
    Nothing,
    /// It was a user's a while ago: the API server has to be asked again.
    Stale,
    /// It is nobody's.
    Nobody,
    /// It is a user's.
    User(ClusterUser),
}

/// What the API server said about a token.
#[derive(Clone, Debug)]
struct Answer {
    until: Instant,
    /// Nobody, if the token is none.
    user: Option<ClusterUser>,
    /// By role: whether the user has it.
    may_read: Option<bool>,
    may_operate: Option<bool>,
}

/// Asks the API server about tokens.
#[derive(Debug)]
pub(super) struct Reviewer {
    reviews: Reviews,
    namespace: String,
    name: String,
    remembered: Mutex<HashMap<TokenDigest, Answer>>,
}

struct Reviews {
    tokens: Api<TokenReview>,
    access: Api<SubjectAccessReview>,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reviews")
    }
}

impl Reviewer {
    /// Creates the reviewer of a listener, by the namespace and the name of its resource.
    pub(super) fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self {
            reviews: Reviews {
                tokens: Api::all(client.clone()),
                access: Api::all(client.clone()),
            },
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            remembered: Mutex::default(),
        }
    }

    /// Returns what is remembered of a token.
    pub(super) fn remembered(&self, digest: &TokenDigest) -> Remembered {
        let remembered = lock(&self.remembered);
        let now = Instant::now();
        let Some(answer) = remembered.get(digest) else {
            return Remembered::Nothing;
        };
        match &answer.user {
            Some(user) if answer.until > now => Remembered::User(user.clone()),
            Some(_) if answer.until + MAX_STALE > now => Remembered::Stale,
            None if answer.until > now => Remembered::Nobody,
            _ => Remembered::Nothing,
        }
    }

    /// Asks whose a token is.
    pub(super) async fn review(
        &self,
        token: &str,
        digest: TokenDigest,
    ) -> Result<Option<ClusterUser>, Problem> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let asked = self.reviews.tokens.create(&parameters, &review);
        let status = answered(timeout(TIMEOUT, asked).await)?.status;
        let status = status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let now = Instant::now();
        let mut remembered = lock(&self.remembered);
        let before = remembered.get(&digest).and_then(|one| one.user.as_ref());
        let limiter = before.map(|user| user.limiter.clone());
        let user = user.map(|info| ClusterUser {
            digest,
            info: Arc::new(info),
            limiter: limiter.unwrap_or_else(Limiter::of_requests),
        });
        let answer = Answer {
            until: now + MAX_AGE,
            user: user.clone(),
            may_read: None,
            may_operate: None,
        };
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, answer| answer.until > now);
        }
        // With as many at once, answers are not remembered.
        if remembered.len() < MAX_REMEMBERED || remembered.contains_key(&digest) {
            remembered.insert(digest, answer);
        }
        Ok(user)
    }

    /// Returns whether a user has a role.
    pub(super) async fn has_role(
        &self,
        user: &ClusterUser,
        role: ApiRole,
    ) -> Result<bool, Problem> {
        if let Some(known) = self.known(user, role) {
            return Ok(known);
        }
        let info = &user.info;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: info.username.clone(),
                groups: info.groups.clone(),
                uid: info.uid.clone(),
                extra: info.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some(RESOURCE.to_owned()),
                    subresource: Some(SUBRESOURCE.to_owned()),
                    namespace: Some(self.namespace.clone()),
                    name: Some(self.name.clone()),
                    verb: Some(verb(role).to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let parameters = PostParams::default();
        let asked = self.reviews.access.create(&parameters, &review);
        let status = answered(timeout(TIMEOUT, asked).await)?.status;
        let allowed = status.is_some_and(|status| status.allowed);
        if let Some(answer) = lock(&self.remembered).get_mut(&user.digest) {
            *answer.of(role) = Some(allowed);
        }
        Ok(allowed)
    }

    fn known(&self, user: &ClusterUser, role: ApiRole) -> Option<bool> {
        let mut remembered = lock(&self.remembered);
        let answer = remembered.get_mut(&user.digest)?;
        let is_new = answer.until > Instant::now();
        answer.of(role).filter(|_| is_new)
    }

    /// Says what a user lacks.
    pub(super) fn lacks(&self, user: &ClusterUser, role: ApiRole) -> String {
        format!(
            "user {} may not {} {RESOURCE}.{GROUP}/{SUBRESOURCE} of {} in namespace {}",
            user.name(),
            verb(role),
            self.name,
            self.namespace
        )
    }
}

impl Answer {
    fn of(&mut self, role: ApiRole) -> &mut Option<bool> {
        match role {
            ApiRole::Read => &mut self.may_read,
            ApiRole::Operate => &mut self.may_operate,
        }
    }
}

const fn verb(role: ApiRole) -> &'static str {
    match role {
        ApiRole::Read => "get",
        ApiRole::Operate => "update",
    }
}

/// Returns what the API server answered, or that it did not.
fn answered<T>(
    result: Result<Result<T, kube::Error>, tokio::time::error::Elapsed>,
) -> Result<T, Problem> {
    match result {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            tracing::warn!(
                message = status.message,
                "HTTP API: the pods' service account may not ask the API server who a token is: bind \
                 system:auth-delegator to it"
            );
            Err(Problem::unavailable(
                "the listener's pods may not ask the API server who you are: an administrator lets them, with \
                 rbac.tokenReviews of the chart, as docs/reference/http-api.md says",
            ))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "HTTP API: the API server does not say who a token is");
            Err(away())
        }
        Err(_) => {
            tracing::warn!("HTTP API: the API server does not answer in time");
            Err(away())
        }
    }
}

fn away() -> Problem {
    Problem::unavailable("the API server cannot be asked who you are; try again")
}
