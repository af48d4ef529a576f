//! The supervisor of a process: runs sessions by the newest configuration, follows changes of it, and
//! restarts sessions that fail.
//!
//! It is one and the same for files and for bundles. Where these differ, the [`ConfigSource`] says so.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backoff::{Backoff, with_jitter};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::background::{
    first_error, join_all, mark_stopping, serve_api, serve_http, start_logs, start_telemetry,
};
use super::config_source::{ConfigSource, FailurePolicy};
use super::error::RunError;
use super::error_reason::problem;
use super::plan::{PlanChange, RuntimePlan};
use super::session::SessionContext;
use super::startup_log;
use super::tracking_watch::ReportedFindings;
use crate::coordination::membership::MemberIdentity;
use crate::database::{START_PATIENCE, diagnose_url};
use crate::observers::Observers;
use crate::server::{AppState, MetricsAccess};
use crate::telemetry::metrics::Metrics;

/// Backoff of sessions that fail, and of the configuration that cannot be read.
pub(super) const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

/// Interval at which a process that stands by tries to take part again.
const STANDBY_INTERVAL: Duration = Duration::from_secs(2);

/// Identity of a process, and where it can be asked about its state.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// Namespace and name of the listener, which every metric has as a label.
    pub listener: String,
    /// This start of this process.
    pub member: MemberIdentity,
    /// Address of `/healthz`, `/readyz`, `/status` and `/metrics`; none is served if absent.
    pub listen: Option<SocketAddr>,
    /// Address of the HTTP API, served while the listener has one; it is not served if absent. It may be
    /// that of health checks.
    pub api_listen: Option<SocketAddr>,
    /// Whether there is a console whatever the listener says.
    pub console: bool,
    /// Metrics that the caller reads as well; the process has its own if absent.
    pub metrics: Option<Metrics>,
    /// Who may read them over HTTP.
    pub metrics_access: MetricsAccess,
}

/// Runs what the source says until `stop`, or until a failure that is not retried. Observers that change
/// are replaced in place, which loses nothing that is in flight or waits. Nothing is left in flight
/// after a stop.
pub async fn run(
    mut source: impl ConfigSource,
    mut options: ProcessOptions,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut first = None;
    loop {
        // Boxed, since callers' futures would embed it.
        let running = Box::pin(run_named(&mut source, first.take(), &options, &stop));
        let Some(renamed) = running.await? else {
            return Ok(());
        };
        options.listener = renamed.listener.identity();
        options.metrics = None;
        first = Some(renamed);
    }
}

/// Runs listeners of one name. Returns the plan of a listener with another name, which needs metrics of
/// its own; nothing after a stop.
async fn run_named<S: ConfigSource>(
    source: &mut S,
    first: Option<RuntimePlan>,
    options: &ProcessOptions,
    stop: &CancellationToken,
) -> Result<Option<RuntimePlan>, RunError> {
    let metrics = match &options.metrics {
        Some(metrics) => metrics.clone(),
        None => Metrics::new(&options.listener)?,
    };
    let mut sources = AppState::new(metrics, options.member.name.as_str());
    sources.metrics_access = options.metrics_access.clone();
    if options.console {
        sources.api.ask_for_console();
    }
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();
    let done = CancellationToken::new();
    let logs = start_logs(options, &sources);
    let telemetry = start_telemetry(options, &mut sources, &done);
    if let Some(at) = options.listen {
        let with_api = options.api_listen == Some(at);
        serve_http(at, with_api, &mut tasks, &sources, &done).await?;
    }
    if let Some(at) = options.api_listen.filter(|at| options.listen != Some(*at)) {
        tasks.spawn(serve_api(at, sources.api.clone(), done.clone()));
    }
    tasks.spawn(mark_stopping(stop.clone(), done.clone(), sources.clone()));
    let mut supervisor = Supervisor {
        source,
        member: &options.member,
        sources: &sources,
        stop,
    };
    let result = tokio::select! {
        result = supervisor.run(first) => result,
        error = first_error(&mut tasks) => Err(error),
    };
    done.cancel();
    join_all(&mut tasks).await;
    for sending in telemetry {
        // Each bounds its own end.
        let _ended = sending.await;
    }
    if let Ok(None) = &result {
        log_stopped(&options.listener, &sources);
    }
    if let Some(logs) = logs {
        // It bounds its own end.
        logs.end().await;
    }
    result
}

fn log_stopped(listener: &str, sources: &AppState) {
    if sources.health.has_left_unsaved() {
        tracing::warn!(
            listener,
            "stopped; not all that was finished could be saved, and what was not is done again by the next start"
        );
    } else {
        tracing::info!(listener, "stopped; all that was finished is saved");
    }
}

struct Supervisor<'a, S> {
    source: &'a mut S,
    member: &'a MemberIdentity,
    sources: &'a AppState,
    stop: &'a CancellationToken,
}

/// The plan that is run, and the one that is to replace it.
struct CurrentPlan {
    plan: RuntimePlan,
    observers: watch::Sender<Arc<Observers>>,
    /// Plan of a listener that has changed, which runs once this one has drained.
    next: Option<RuntimePlan>,
}

/// What has happened to a listener that decides how its next failure is handled.
struct RetryState {
    backoff: Backoff,
    /// Whether a session of it has run.
    has_run: AtomicBool,
    /// Until when a first session may fail because its server answers late.
    start_deadline: Instant,
    /// What was logged when it stood by last.
    standby_message: Option<String>,
}

impl<S: ConfigSource> Supervisor<'_, S> {
    /// Runs one listener after the other. Returns the plan of one with another name; nothing after a stop.
    async fn run(&mut self, first: Option<RuntimePlan>) -> Result<Option<RuntimePlan>, RunError> {
        let mut plan = if let Some(plan) = first {
            plan
        } else {
            let first = self.source.next(self.sources);
            match self.stop.run_until_cancelled(first).await {
                Some(plan) => plan,
                None => return Ok(None),
            }
        };
        loop {
            let name = plan.listener.identity();
            match self.run_listener(plan).await? {
                Some(next) if next.listener.identity() == name => plan = next,
                ended => return Ok(ended),
            }
        }
    }

    /// Runs sessions of one listener until a stop, or until the listener has changed. Returns its new plan.
    async fn run_listener(&mut self, plan: RuntimePlan) -> Result<Option<RuntimePlan>, RunError> {
        startup_log::log_listener(&plan.listener, &plan.observers);
        let listener = Arc::clone(&plan.listener);
        self.sources.api.configure(&listener);
        let findings = ReportedFindings::default();
        let mut current = CurrentPlan {
            observers: watch::Sender::new(Arc::clone(&plan.observers)),
            plan,
            next: None,
        };
        let mut retry = RetryState {
            backoff: RETRY,
            has_run: AtomicBool::new(false),
            start_deadline: Instant::now() + START_PATIENCE,
            standby_message: None,
        };
        loop {
            let coordination = self.source.coordination(&current.plan);
            let session = SessionContext {
                listener: &listener,
                member: self.member,
                coordination: &coordination,
                observers: current.observers.subscribe(),
                sources: self.sources,
                connect_patience: self.source.failure_policy().connect_patience(),
                worker_mode: self.source.worker_mode(&listener),
                findings: findings.clone(),
                has_run: &retry.has_run,
            };
            let started = Instant::now();
            current.report(self.sources);
            let mut failure = self.run_session(&session, &mut current).await.err();
            if started.elapsed() > RETRY.max() {
                retry.backoff.reset();
            }
            if let Some(error) = failure.take() {
                failure = Some(self.explain(error, &current.plan).await);
            }
            if self.stop.is_cancelled() {
                return self.stopped(failure, &retry).map(|()| None);
            }
            let delay = match failure {
                Some(error) => self.recover(error, &mut retry)?,
                None => Duration::ZERO,
            };
            if current.next.is_none() {
                self.wait(delay, &mut current).await;
            }
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            if current.next.is_some() {
                return Ok(current.next);
            }
        }
    }

    /// Runs a session, and takes up configurations that come meanwhile. One of a changed listener ends it.
    async fn run_session(
        &mut self,
        session: &SessionContext<'_>,
        current: &mut CurrentPlan,
    ) -> Result<(), RunError> {
        let end = self.stop.child_token();
        let mut running = pin!(session.run(&end));
        loop {
            tokio::select! {
                result = &mut running => return result,
                plan = self.source.next(self.sources), if !self.stop.is_cancelled() => {
                    current.reload(plan, self.sources);
                    if current.next.is_some() {
                        end.cancel();
                    }
                }
            }
        }
    }

    /// Waits before the next session, for which another configuration is not to wait.
    async fn wait(&mut self, delay: Duration, current: &mut CurrentPlan) {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            plan = self.source.next(self.sources) => current.reload(plan, self.sources),
            () = self.stop.cancelled() => {}
        }
    }

    /// Finds out why no connection came in time, which the pool does not know.
    async fn explain(&self, error: RunError, plan: &RuntimePlan) -> RunError {
        if !error.is_late() || self.stop.is_cancelled() {
            return error;
        }
        let cause = diagnose_url(&plan.listener.database_url).await;
        cause.map_or(error, RunError::Database)
    }

    /// Ends after a stop. A pod's last words are read in its log, so there it is no failure.
    fn stopped(&self, failure: Option<RunError>, retry: &RetryState) -> Result<(), RunError> {
        let Some(error) = failure else {
            return Ok(());
        };
        if self.source.failure_policy() == FailurePolicy::Exit {
            return Err(error);
        }
        tracing::warn!(%error, "could not save while shutting down; what was not saved is done again");
        if retry.has_run.load(Ordering::Relaxed) {
            self.sources.health.left_unsaved();
        }
        Ok(())
    }

    /// Decides after how long a failed session is followed by another, and reports the failure. Fails if
    /// the process is to end.
    fn recover(&self, error: RunError, retry: &mut RetryState) -> Result<Duration, RunError> {
        if error.is_queue_switch() {
            tracing::info!("{error}; reopening the job queue");
            retry.backoff.reset();
            return Ok(Duration::ZERO);
        }
        if let RunError::ConfigOutdated { .. } = error {
            self.stand_by(&error, retry);
            return Ok(STANDBY_INTERVAL);
        }
        let has_run = retry.has_run.load(Ordering::Relaxed);
        let may_pass = error.is_outage()
            && (has_run || error.is_late() && Instant::now() < retry.start_deadline);
        // A mistake in the program is one that a new start may get past.
        let is_fatal = match self.source.failure_policy() {
            FailurePolicy::Exit => !may_pass,
            FailurePolicy::Retry => error.is_internal(),
        };
        if is_fatal {
            return Err(error);
        }
        let delay = with_jitter(retry.backoff.next_delay(), rand::random());
        self.report(&error, delay);
        if has_run {
            self.sources.health.left_unsaved();
        }
        Ok(delay)
    }

    /// Reports why nothing is done until the next attempt.
    fn report(&self, error: &RunError, delay: Duration) {
        let problem = problem(error);
        if error.is_outage() {
            let errors = &self.sources.metrics.database_errors;
            errors.with_label_values(&["begin_session"]).inc();
        }
        let (reason, seconds) = (&problem.reason, delay.as_secs_f64());
        let what = match error {
            RunError::Queue(_) if error.is_outage() => "job queue outage",
            _ if error.is_outage() => "database outage",
            _ => "session failed",
        };
        tracing::warn!(
            reason,
            "{what}: {}; retrying in {seconds:.1} s",
            problem.message
        );
        self.sources.health.cannot_start(problem.clone());
        self.sources.reporter.session_failed(problem);
    }

    /// Reports that this process stands by, and logs it once for each reason.
    fn stand_by(&self, error: &RunError, retry: &mut RetryState) {
        let problem = problem(error);
        if retry.standby_message.as_ref() != Some(&problem.message) {
            tracing::warn!("{}", problem.message);
            retry.standby_message = Some(problem.message.clone());
        }
        self.sources.health.cannot_start(problem);
    }
}

impl CurrentPlan {
    /// Replaces the observers in place, or leaves the plan of a changed listener to the next session.
    fn reload(&mut self, plan: RuntimePlan, sources: &AppState) {
        sources.metrics.config.reloads.inc();
        // Files are rejected as a whole, and of a bundle only the observers that do not compile.
        let rejected = plan.bundle.as_ref().map_or(0, |one| one.refused.len());
        let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
        sources.metrics.config.rejected.set(rejected);
        if self.next.is_none() && self.plan.change_to(&plan) == PlanChange::Observers {
            let observers = plan.observers.len();
            tracing::info!(observers, "configuration reloaded: observers replaced");
            self.plan = plan;
            // Findings about the observers before are forgotten first.
            self.report(sources);
            self.observers
                .send_replace(Arc::clone(&self.plan.observers));
            sources.api.configure(&self.plan.listener);
        } else {
            tracing::info!(
                "configuration reloaded: the listener has changed, draining to restart it"
            );
            self.next = Some(plan);
        }
    }

    /// Reports which bundle is run, if it is one, and forgets what was counted of observers that are no more.
    fn report(&self, sources: &AppState) {
        let observers = &self.plan.observers;
        let known = observers.action_names();
        let keep = |observer: &str, action: Option<&str>| known.contains(&(observer, action));
        sources.metrics.retain(&keep);
        observers.retain_series(&keep);
        if let Some(bundle) = &self.plan.bundle {
            sources.reporter.bundle_applied(bundle.clone());
        }
    }
}
