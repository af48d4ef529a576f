//! Who makes a request, and whether they may.

use std::sync::Arc;

use axum::http::HeaderMap;
use crds::config::{ApiConfig, ApiRole, ListenerConfig};
use server::limiter::{Limiter, LogLimit};
use server::reviews::{ClusterUser, Remembered, bearer, digest};
use tokio::time::Instant;

use super::kubernetes::ApiReviewer;
use super::problem::Problem;
use super::tokens::{self, KnownToken};
use crate::coordination::membership::Coordination;

/// Caller of a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Name of the token or of the user.
    pub(super) name: Arc<str>,
    /// The only tenant that it may see; all where absent.
    pub(super) tenant: Option<Arc<str>>,
    source: Source,
    limiter: Limiter,
}

#[derive(Clone, Debug)]
enum Source {
    Token(ApiRole),
    Cluster(ClusterUser),
}

/// Those who are admitted to a listener's API.
#[derive(Debug)]
pub(super) struct Auth {
    tokens: Vec<KnownToken>,
    /// Asks the API server, if users of the cluster are admitted.
    reviewer: Option<Arc<ApiReviewer>>,
    /// What asks the API server where they may be.
    cluster: Option<Arc<ApiReviewer>>,
    unknown: Limiter,
    failures: Arc<LogLimit>,
}

impl Auth {
    pub(super) fn new(
        config: &ApiConfig,
        listener: &ListenerConfig,
        coordination: &Coordination,
    ) -> Self {
        let cluster = match coordination {
            Coordination::Cluster { client, .. } => {
                let reviewer = ApiReviewer::new(client, &listener.namespace, &listener.name);
                Some(Arc::new(reviewer))
            }
            Coordination::Database => None,
        };
        let nobody = Self {
            tokens: Vec::new(),
            reviewer: None,
            cluster,
            unknown: Limiter::of_unknown_tokens(),
            failures: Arc::default(),
        };
        nobody.changed_to(config)
    }

    /// Returns those who are admitted by another configuration of the listener. Limits of tokens that stay go on.
    pub(super) fn changed_to(&self, config: &ApiConfig) -> Self {
        let token = |token| {
            let new = KnownToken::new(token);
            let limiter = tokens::find(&self.tokens, &new.digest).map(|old| old.limiter.clone());
            KnownToken {
                limiter: limiter.unwrap_or_else(|| new.limiter.clone()),
                ..new
            }
        };
        Self {
            tokens: config.tokens.iter().map(token).collect(),
            reviewer: self.cluster.clone().filter(|_| config.kubernetes),
            cluster: self.cluster.clone(),
            unknown: self.unknown.clone(),
            failures: Arc::clone(&self.failures),
        }
    }

    /// Returns who makes a request, by its bearer token.
    pub(super) async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        let Some(token) = bearer(headers) else {
            return Err(Problem::unauthorized());
        };
        let caller = self.caller(token).await?;
        admit(&caller.limiter)?;
        Ok(caller)
    }

    async fn caller(&self, token: &str) -> Result<Caller, Problem> {
        let digest = digest(token);
        if let Some(known) = tokens::find(&self.tokens, &digest) {
            return Ok(Caller {
                name: Arc::clone(&known.name),
                tenant: known.tenant.clone(),
                source: Source::Token(known.role),
                limiter: known.limiter.clone(),
            });
        }
        let remembered = self.reviewer.as_ref().map(|one| one.remembered(&digest));
        let user = match (remembered, &self.reviewer) {
            (Some(Remembered::User(user)), _) => Some(user),
            (Some(Remembered::Nobody), _) => None,
            (remembered, reviewer) => {
                // A flood of tokens that are not known keeps nobody out who was known a moment ago.
                if let Some(Remembered::Stale(own)) = &remembered {
                    admit(own)?;
                } else {
                    self.unknown.admit().map_err(|delay| {
                        self.note_failure();
                        let detail = "too many requests with tokens that are not known";
                        Problem::too_many(detail, delay)
                    })?;
                }
                match reviewer {
                    Some(reviewer) => reviewer.review(token, digest).await?,
                    None => None,
                }
            }
        };
        let Some(user) = user else {
            self.note_failure();
            return Err(Problem::unauthorized());
        };
        Ok(Caller {
            name: user.name(),
            tenant: None,
            limiter: user.limiter.clone(),
            source: Source::Cluster(user),
        })
    }

    /// Checks that a caller has a role.
    pub(super) async fn authorize(&self, caller: &Caller, role: ApiRole) -> Result<(), Problem> {
        match (&caller.source, &self.reviewer) {
            (Source::Token(has), _) if *has >= role => Ok(()),
            (Source::Token(_), _) => Err(Problem::forbidden(format!(
                "token {} has the role Read, and this needs Operate",
                caller.name
            ))),
            (Source::Cluster(user), Some(reviewer)) => {
                if reviewer.has_role(user, role).await? {
                    return Ok(());
                }
                Err(Problem::forbidden(reviewer.lacks(user, role)))
            }
            (Source::Cluster(_), None) => Err(Problem::unauthorized()),
        }
    }

    /// Logs failed authentications, at most one line in a while.
    fn note_failure(&self) {
        if let Some(count) = self.failures.count(Instant::now()) {
            tracing::warn!(count, "HTTP API: requests with a token that is not known");
        }
    }
}

/// Counts a request with a token that is known.
fn admit(limiter: &Limiter) -> Result<(), Problem> {
    limiter
        .admit()
        .map_err(|delay| Problem::too_many("too many requests with this token; make fewer", delay))
}
