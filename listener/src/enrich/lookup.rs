//! One lookup: asks its source within the limits of its endpoint, and says what a failure means.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{LookupConfig, LookupKind, OnLookupError};
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use tokio::time::Instant;

use super::cache_policy::{self, CachePolicy};
use super::{http, postgres};
use crate::actions::Preview;
use crate::actions::span::server;
use crate::actions::template_source::TemplateSource;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::control::AdmissionControl;
use crate::cache::key::ResultOf;
use crate::cache::{CachedJson, MAX_RESULT_BYTES};
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind, Tells};
use crate::delivery::outcome::Outcome;
use crate::egress::response::{DeliveryError, classify, until_deadline};
use crate::templating::compile_error::CompileError;
use crate::trace::spans::{AttemptSpan, AttemptTrace, Finished};

/// Most bytes of one result.
pub(super) const MAX_RESULT: usize = MAX_RESULT_BYTES;

/// Longest wait that an endpoint may ask for after a failure; the action's retry bounds the rest.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Result of a lookup, as JSON; nothing is a null.
pub(super) type LookupResult = CachedJson;

/// A lookup under way.
pub(super) type LookupFuture<'a> = BoxFuture<'a, Result<LookupResult, DeliveryError>>;

/// Digest of a request, and the asking.
pub(super) type PreparedLookup<'a> = (RequestDigest, LookupFuture<'a>);

/// Digest of all that a source is asked for a delivery.
pub(super) type RequestDigest = [u8; 32];

/// Source of a lookup's results.
pub(super) trait LookupSource: Send + Sync {
    /// Returns its endpoint: a key that tells it from others and may hold a secret, and a host for people.
    fn endpoint(&self) -> (&str, &str);

    /// Renders what would be asked for a delivery, without secrets.
    fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure>;

    /// Renders what is asked for a delivery, and returns a digest of that, and the asking, which the caller
    /// drives and bounds in time.
    fn look_up<'a>(&'a self, request: LookupRequest<'a>) -> Result<PreparedLookup<'a>, Failure>;

    /// Drops a connection after an error that breaks it.
    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A lookup for one delivery.
#[derive(Clone, Copy)]
pub(super) struct LookupRequest<'a> {
    pub(super) runtime: &'a ActionRuntime,
    pub(super) delivery: &'a Delivery,
    pub(super) now: DateTime<Utc>,
}

/// Compiled lookup.
pub(super) struct Lookup {
    name: String,
    source: Box<dyn LookupSource>,
    on_error: OnLookupError,
    cache: Option<CachePolicy>,
    admission: AdmissionControl,
}

/// Returns the templates of a lookup.
pub(super) fn templates(config: &LookupConfig) -> Vec<TemplateSource<'_>> {
    let mut all = match &config.kind {
        LookupKind::Postgres(postgres) => postgres::templates(postgres),
        LookupKind::Http(http) => http::templates(http),
    };
    all.extend(config.cache.iter().flat_map(cache_policy::templates));
    all
}

impl Lookup {
    /// Compiles a lookup; needs no network.
    pub(super) fn compile(
        config: &LookupConfig,
        spec: [u8; 32],
        runtime: &ActionRuntime,
    ) -> Result<Self, CompileError> {
        let (source, secrets): (Box<dyn LookupSource>, _) = match &config.kind {
            LookupKind::Postgres(postgres) => (
                Box::new(postgres::PostgresLookup::compile(postgres, config.timeout)?),
                postgres::secrets(postgres),
            ),
            LookupKind::Http(http) => (
                Box::new(http::HttpLookup::compile(http)?),
                http::secrets(http),
            ),
        };
        let endpoint = Some(source.endpoint());
        let admission = AdmissionControl::new(
            runtime,
            (endpoint, None, MAX_RETRY_AFTER),
            config.timeout,
            secrets,
        );
        let of = (ResultOf::Lookup, config.name.as_str(), spec);
        let cache = config
            .cache
            .as_ref()
            .map(|cache| CachePolicy::compile(cache, of, runtime.cache_ttl));
        Ok(Self {
            name: config.name.clone(),
            on_error: config.on_error,
            cache: cache.transpose()?,
            admission,
            source,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        self.source.preview(delivery)
    }

    /// Makes the lookup for a delivery, or returns the outcome of the attempt.
    pub(super) async fn run(
        &self,
        delivery: &Delivery,
        now: DateTime<Utc>,
    ) -> Result<LookupResult, Outcome> {
        let request = LookupRequest {
            runtime: &self.admission.runtime,
            delivery,
            now,
        };
        let result = match (self.source.look_up(request), &self.cache) {
            (Err(failure), _) => Err(Outcome::Rejected(failure)),
            (Ok((_, asking)), None) => self.ask(delivery, asking).await,
            (Ok((request, asking)), Some(cache)) => {
                self.ask_cached(cache, delivery, &request, asking).await
            }
        };
        match (result, self.on_error) {
            (Ok(result), _) => Ok(result),
            (Err(_), OnLookupError::Null) => Ok(None),
            // What is left of before was used, if there was something.
            (Err(outcome), OnLookupError::Fail | OnLookupError::Stale) => {
                Err(self.name_in(outcome))
            }
        }
    }

    async fn ask_cached(
        &self,
        cache: &CachePolicy,
        delivery: &Delivery,
        digest: &RequestDigest,
        asking: LookupFuture<'_>,
    ) -> Result<LookupResult, Outcome> {
        let (runtime, timeout) = (&self.admission.runtime, self.admission.timeout);
        let request = cache.request(&runtime.listener, delivery, digest, timeout);
        let request = request.map_err(Outcome::Rejected)?;
        let (result, _) = runtime
            .results
            .get(request, self.ask(delivery, asking))
            .await;
        result
    }

    /// Asks the source once that is admitted.
    async fn ask(
        &self,
        delivery: &Delivery,
        asking: LookupFuture<'_>,
    ) -> Result<LookupResult, Outcome> {
        let mut result = None;
        let ask = async {
            match self.ask_source(asking).await {
                Ok(found) => {
                    result = found;
                    Outcome::Delivered
                }
                Err(outcome) => outcome,
            }
        };
        let begun = Instant::now();
        let span = match &delivery.trace {
            AttemptTrace::Recorded(attempt) => Some(attempt.begin_part()),
            AttemptTrace::Dropped | AttemptTrace::Off => None,
        };
        let outcome = self.admission.run(delivery, ask).await;
        if let Some(span) = span {
            self.end_span(&span, delivery, &outcome);
        }
        let metrics = &self.admission.runtime.lookups;
        metrics.record(&delivery.observer, &self.name, &outcome, begun.elapsed());
        match outcome {
            Outcome::Delivered => Ok(result),
            outcome => Err(outcome),
        }
    }

    /// Records the span of a lookup.
    fn end_span(&self, span: &AttemptSpan, delivery: &Delivery, outcome: &Outcome) {
        let failure = match outcome {
            Outcome::Deferred(_) => return,
            Outcome::Retry { failure, .. } | Outcome::Rejected(failure) => Some(failure),
            Outcome::Delivered | Outcome::Skipped | Outcome::Cached => None,
        };
        let mut attributes = vec![
            KeyValue::new("observer.name", Arc::clone(&delivery.observer)),
            KeyValue::new("observer.lookup", self.name.clone()),
        ];
        attributes.extend(server(self.source.endpoint().1));
        attributes
            .extend(failure.map(|failure| KeyValue::new("error.type", failure.kind.as_str())));
        span.end(Finished {
            name: Cow::Owned(format!("lookup {}", self.name)),
            kind: SpanKind::Client,
            attributes,
            error: failure.map(|failure| failure.kind.as_str().to_owned()),
        });
    }

    async fn ask_source(&self, asking: LookupFuture<'_>) -> Result<LookupResult, Outcome> {
        let timeout = self.admission.timeout;
        let until = (Instant::now() + timeout, timeout);
        let error = match until_deadline(until, asking).await {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        if error.breaks_connection() {
            self.source.disconnect().await;
        }
        Err(classify(self.source.endpoint().1, error))
    }

    /// Names the lookup in the failure, which says nothing of the endpoint of the action.
    fn name_in(&self, outcome: Outcome) -> Outcome {
        let named = |failure: Failure| Failure {
            kind: FailureKind::Lookup,
            message: format!("lookup {}: {}", self.name, failure.message),
            status: failure.status,
            tells: Tells::Nothing,
        };
        match outcome {
            Outcome::Retry { failure, after } => Outcome::Retry {
                failure: named(failure),
                after,
            },
            Outcome::Rejected(failure) => Outcome::Rejected(named(failure)),
            other => other,
        }
    }
}
