//! The two traits that make a kind of action.
//!
//! [`ActionDefinition`] is implemented by its configuration: all that is known before it is compiled.
//! [`DeliverAction`] is implemented by what that compiles to: it renders what is sent for a delivery, and
//! sends it. Admission, timeouts, redaction and the classification of errors are not its concern.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::v1alpha1::DEFAULT_MAX_CONCURRENCY;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::template_source::TemplateSource;
use crate::admission::action_runtime::ActionRuntime;
use crate::admission::control::AdmissionControl;
use crate::admission::host_limits::without_port;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;
use crate::egress::redaction::Secrets;
use crate::egress::response::{DeliveryError, classify, until_deadline};
use crate::templating::compile_error::CompileError;

/// What would be sent: labels, and texts without secrets.
pub type Preview = Vec<(String, String)>;

/// Configuration of an action of one kind.
pub(crate) trait ActionDefinition {
    /// Name of the kind, as an observer spells it.
    fn name(&self) -> &'static str;

    /// Path of the field that holds the address it connects to.
    fn address_field(&self) -> &'static str;

    /// Compiles the action. Needs no network.
    fn compile(&self, context: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError>;

    /// Lists its templates.
    fn templates(&self) -> Vec<TemplateSource<'_>>;

    /// Adds the secrets that no message about it may repeat.
    fn secrets(&self, secrets: &mut Secrets);

    /// Finds what compiles and can never work, beside its templates: a field and what is wrong with it.
    fn lint(&self) -> Option<(String, String)> {
        None
    }
}

/// What an action is compiled for.
#[derive(Clone, Copy)]
pub(crate) struct CompileContext<'a> {
    /// Most batches of it in flight at once.
    pub(crate) max_concurrency: u32,
    /// Identity of the listener that makes its deliveries.
    pub(crate) listener: &'a str,
}

impl CompileContext<'_> {
    /// What it is compiled for where nothing is delivered.
    pub(crate) const CHECK: Self = Self {
        max_concurrency: DEFAULT_MAX_CONCURRENCY,
        listener: "",
    };
}

/// Compiled action of one kind.
pub(crate) trait DeliverAction: Send + Sync {
    /// Returns its endpoint: a key that tells it from others and may hold a secret, and a host for
    /// people. What goes nowhere has none.
    fn endpoint(&self) -> Option<(&str, &str)>;

    /// Returns the method of its requests, if they go by HTTP.
    fn http_method(&self) -> reqwest::Method {
        reqwest::Method::POST
    }

    /// Returns why the egress policy denies its address, where that is known without resolving a name.
    fn egress_denied(&self, runtime: &ActionRuntime) -> Option<String> {
        denied_literal(self.endpoint()?.1, runtime)
    }

    /// Renders what would be sent for a delivery.
    fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure>;

    /// Renders what is sent for a delivery, and returns the sending of it, which the caller drives and
    /// bounds in time.
    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure>;

    /// Returns a better reason why an attempt that began at `begun` failed, where one is known.
    fn explain(&self, error: DeliveryError, _begun: Instant) -> DeliveryError {
        error
    }

    /// Drops a connection after an error that breaks it.
    fn disconnect(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Returns the most deliveries that share one request; nothing where each has its own.
    fn max_batch_size(&self) -> Option<usize> {
        None
    }

    /// Delivers in a batch; nothing where this delivery goes by itself. Called only where there is a
    /// [`DeliverAction::max_batch_size`].
    fn join_batch<'a>(
        self: Arc<Self>,
        _admission: &'a Arc<AdmissionControl>,
        _delivery: &'a Delivery,
        _now: DateTime<Utc>,
    ) -> Option<BoxFuture<'a, Outcome>> {
        None
    }
}

/// One attempt at a delivery.
#[derive(Clone, Copy)]
pub(crate) struct AttemptRequest<'a> {
    pub(crate) runtime: &'a ActionRuntime,
    pub(crate) delivery: &'a Delivery,
    /// The time of the attempt, as the endpoint is told it.
    pub(crate) now: DateTime<Utc>,
    /// Timeout, from when sending begins.
    pub(crate) timeout: Duration,
}

/// Sending of what was rendered.
pub(crate) enum Transmission<'a> {
    /// Over already, without I/O.
    Done,
    /// In flight once it is polled.
    InFlight(BoxFuture<'a, Result<(), DeliveryError>>),
}

impl<'a> Transmission<'a> {
    /// Boxes the sending; its error is what the client of the protocol reports.
    pub(crate) fn of<E: Into<DeliveryError>>(
        sending: impl Future<Output = Result<(), E>> + Send + 'a,
    ) -> Self {
        Self::InFlight(Box::pin(async move { sending.await.map_err(Into::into) }))
    }
}

/// Makes one attempt: renders, sends within the timeout, and classifies why it failed.
pub(crate) async fn deliver(action: &dyn DeliverAction, request: AttemptRequest<'_>) -> Outcome {
    transmit(action, request.timeout, action.attempt(request)).await
}

/// Drives the sending of what was rendered, within the timeout, and classifies why it failed.
pub(crate) async fn transmit(
    action: &dyn DeliverAction,
    timeout: Duration,
    rendered: Result<Transmission<'_>, Failure>,
) -> Outcome {
    let sending = match rendered {
        Ok(Transmission::InFlight(sending)) => sending,
        Ok(Transmission::Done) => return Outcome::Delivered,
        Err(failure) => return Outcome::Rejected(failure),
    };
    let begun = Instant::now();
    let until = (begun + timeout, timeout);
    let Err(error) = until_deadline(until, sending).await else {
        return Outcome::Delivered;
    };
    let error = action.explain(error, begun);
    if error.breaks_connection() {
        action.disconnect().await;
    }
    let host = action.endpoint().map_or("", |(_, host)| host);
    classify(host, error)
}

/// Returns why the egress policy denies a host that is an address by itself, if so.
pub(super) fn denied_literal(host: &str, runtime: &ActionRuntime) -> Option<String> {
    let denied = runtime.egress.denied_literal(without_port(host))?;
    Some(denied.to_string())
}
