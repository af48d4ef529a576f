//! What is cached of one lookup or action, and for how long.

use std::sync::Arc;
use std::time::Duration;

use crds::config::CacheConfig;

use crate::actions::template_source::{TemplateSource, TemplateSources};
use crate::cache::invalidation::Tag;
use crate::cache::key::{CacheKeyBuilder, ResultOf};
use crate::cache::{CacheRequest, ResultTimes};
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::{Format, NULL};
use crate::templating::template::Template;

/// Compiled cache of one lookup or action.
pub(crate) struct CachePolicy {
    of: ResultOf,
    name: String,
    /// Digest of the observer's spec.
    spec: [u8; 32],
    times: ResultTimes,
    invalidate_on: Vec<(Arc<str>, Option<Template>)>,
}

/// Returns the templates of a cache.
pub(crate) fn templates(config: &CacheConfig) -> Vec<TemplateSource<'_>> {
    let changes = config.invalidate_on.iter().enumerate();
    let all = changes.fold(TemplateSources::default(), |all, (n, change)| {
        all.text(format!("cache.invalidateOn[{n}].key"), &change.key)
    });
    all.into_vec()
}

impl CachePolicy {
    /// Compiles the cache of a lookup or an action of an observer, with the digest of its spec.
    pub(crate) fn compile(
        config: &CacheConfig,
        (of, name, spec): (ResultOf, &str, [u8; 32]),
        default_ttl: Duration,
    ) -> Result<Self, CompileError> {
        let mut invalidate_on = Vec::with_capacity(config.invalidate_on.len());
        for (n, change) in config.invalidate_on.iter().enumerate() {
            let field = || format!("cache.invalidateOn[{n}].key");
            let key = change.key.as_deref();
            let key = key.map(|key| Template::compile(field(), key, Format::Parameter));
            invalidate_on.push((Arc::from(change.entity.as_str()), key.transpose()?));
        }
        Ok(Self {
            of,
            name: name.to_owned(),
            spec,
            times: ResultTimes {
                ttl: config.ttl.unwrap_or(default_ttl),
                negative_ttl: config.negative_ttl,
                stale_if_error: config.stale_if_error,
            },
            invalidate_on,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the request of a delivery, with a digest of all that is asked for it.
    pub(crate) fn request<'a>(
        &'a self,
        listener: &str,
        delivery: &'a Delivery,
        digest: &[u8; 32],
        timeout: Duration,
    ) -> Result<CacheRequest<'a>, Failure> {
        let observer = &*delivery.observer;
        let key = CacheKeyBuilder::new(listener, (observer, &self.spec), (self.of, &self.name));
        let tenant = delivery.event.tenant.as_deref().map(str::as_bytes);
        Ok(CacheRequest {
            key: key.optional(tenant).part(digest).finish(),
            observer,
            name: &self.name,
            tags: self.tags(delivery)?,
            times: self.times,
            timeout,
            random: rand::random(),
        })
    }

    /// Returns what the result for a delivery depends on. A key that is null is that of no row, so any row
    /// counts.
    fn tags(&self, delivery: &Delivery) -> Result<Vec<Tag>, Failure> {
        if self.invalidate_on.is_empty() {
            return Ok(Vec::new());
        }
        let input = RenderInput::new(delivery);
        let tag = |(entity, key): &(Arc<str>, Option<Template>)| {
            let key = key.as_ref().map(|key| key.render(&input)).transpose()?;
            Ok((Arc::clone(entity), key.filter(|key| key != NULL)))
        };
        self.invalidate_on.iter().map(tag).collect()
    }
}
