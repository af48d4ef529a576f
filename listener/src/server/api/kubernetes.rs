//! Users and service accounts of the cluster, and what they may with the API of a listener.

use std::time::Duration;

use crds::config::ApiRole;
use crds::v1alpha1::GROUP;
use k8s_openapi::api::authorization::v1::ResourceAttributes;
use kube::Client;
use server::limiter::LogLimit;
use server::reviews::{ClusterUser, Remembered, ReviewError, Reviewer, Right, TokenDigest};
use tokio::time::Instant;

use super::problem::Problem;

/// How long an answer of the API server counts.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Resource and subresource that stand for the API.
const RESOURCE: &str = "observerlisteners";
const SUBRESOURCE: &str = "events";

/// Asks the API server about callers of a listener's API.
#[derive(Debug)]
pub(super) struct ApiReviewer {
    reviewer: Reviewer,
    unavailable: LogLimit,
    namespace: String,
    name: String,
}

impl ApiReviewer {
    /// Creates the reviewer of a listener, by the namespace and the name of its resource.
    pub(super) fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self {
            reviewer: Reviewer::new(client, MAX_AGE),
            unavailable: LogLimit::default(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Returns what is remembered of a token.
    pub(super) fn remembered(&self, digest: &TokenDigest) -> Remembered {
        self.reviewer.remembered(digest)
    }

    /// Asks whose a token is.
    pub(super) async fn review(
        &self,
        token: &str,
        digest: TokenDigest,
    ) -> Result<Option<ClusterUser>, Problem> {
        let reviewed = self.reviewer.review(token, digest).await;
        reviewed.map_err(|error| self.unavailable(&error))
    }

    /// Returns whether a user has a role.
    pub(super) async fn has_role(
        &self,
        user: &ClusterUser,
        role: ApiRole,
    ) -> Result<bool, Problem> {
        let right = Right::Resource(Box::new(ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some(RESOURCE.to_owned()),
            subresource: Some(SUBRESOURCE.to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            verb: Some(verb(role).to_owned()),
            ..ResourceAttributes::default()
        }));
        let allowed = self.reviewer.has(user, &right).await;
        allowed.map_err(|error| self.unavailable(&error))
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

    /// Logs that the API server did not say, at most one line in a while, and says so.
    fn unavailable(&self, error: &ReviewError) -> Problem {
        let count = self.unavailable.count(Instant::now());
        if let ReviewError::Forbidden(message) = error {
            if let Some(count) = count {
                tracing::warn!(
                    count,
                    message,
                    "HTTP API: the pods' service account may not ask the API server who a token is: bind \
                     system:auth-delegator to it"
                );
            }
            return Problem::unavailable(
                "the listener's pods may not ask the API server who you are: an administrator lets them, with \
                 rbac.tokenReviews of the chart, as docs/reference/http-api.md says",
            );
        }
        if let Some(count) = count {
            tracing::warn!(count, %error, "HTTP API: the API server does not say who a token is");
        }
        Problem::unavailable("the API server cannot be asked who you are; try again")
    }
}

const fn verb(role: ApiRole) -> &'static str {
    match role {
        ApiRole::Read => "get",
        ApiRole::Operate => "update",
    }
}
