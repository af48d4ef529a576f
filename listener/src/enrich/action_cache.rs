//! Cache of an action: an equal request is not sent again for a while.

use std::sync::Arc;
use std::time::Duration;

use crds::config::ActionConfig;
use serde_json::value::RawValue;

use super::cache_policy::CachePolicy;
use crate::actions;
use crate::admission::action_runtime::ActionRuntime;
use crate::cache::ResultCache;
use crate::cache::key::{CacheKeyBuilder, ResultOf};
use crate::cache::metrics::Served;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Compiled cache of an action.
pub(crate) struct ActionCache {
    policy: CachePolicy,
    /// All that the action renders. What else it sends depends on its spec.
    templates: Vec<Template>,
    /// Tells its endpoint from others.
    endpoint: Option<String>,
    results: ResultCache,
    listener: Arc<str>,
    timeout: Duration,
}

impl std::fmt::Debug for ActionCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ActionCache({})", self.policy.name())
    }
}

impl ActionCache {
    /// Compiles the cache of an action, if it has one, with the digest of its observer's spec and what tells
    /// its endpoint from others.
    pub(crate) fn compile(
        action: &ActionConfig,
        (spec, endpoint): ([u8; 32], Option<&str>),
        runtime: &ActionRuntime,
    ) -> Result<Option<Self>, CompileError> {
        let Some(config) = &action.cache else {
            return Ok(None);
        };
        let of = (ResultOf::Action, action.name.as_str(), spec);
        let templates = actions::templates(&action.kind);
        // As JSON a null differs from the text of that name.
        let templates = templates
            .into_iter()
            .map(|one| Template::compile(one.field, one.source, Format::Json));
        Ok(Some(Self {
            policy: CachePolicy::compile(config, of, runtime.cache_ttl)?,
            templates: templates.collect::<Result<_, _>>()?,
            endpoint: endpoint.map(str::to_owned),
            results: runtime.results.clone(),
            listener: Arc::clone(&runtime.listener),
            timeout: action.timeout,
        }))
    }

    /// Makes an attempt, unless an equal one was delivered a while ago or is under way.
    pub(crate) async fn attempt(
        &self,
        delivery: &Delivery,
        attempt: impl Future<Output = Outcome>,
    ) -> Outcome {
        // A replay is to be sent again.
        if delivery.replay.is_some() {
            return attempt.await;
        }
        let digest = match self.digest(delivery) {
            Ok(digest) => digest,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let policy = &self.policy;
        let request = match policy.request(&self.listener, delivery, &digest, self.timeout) {
            Ok(request) => request,
            Err(failure) => return Outcome::Rejected(failure),
        };
        let fetch = async {
            match attempt.await {
                Outcome::Delivered => Ok(Some(Arc::from(RawValue::TRUE.to_owned()))),
                other => Err(other),
            }
        };
        match self.results.get(request, fetch).await {
            (Ok(_), Served::Miss | Served::Refreshed | Served::Bypassed) => Outcome::Delivered,
            (Ok(_), _) => Outcome::Cached,
            (Err(outcome), _) => outcome,
        }
    }

    fn digest(&self, delivery: &Delivery) -> Result<[u8; 32], Failure> {
        let input = RenderInput::new(delivery);
        let endpoint = self.endpoint.as_deref().map(str::as_bytes);
        let mut key = CacheKeyBuilder::empty().optional(endpoint);
        for template in &self.templates {
            key = key.part(template.render(&input)?.as_bytes());
        }
        Ok(key.digest())
    }
}
