//! What a pod does: it works by the plan of the moment, changes to a newer one as gently as that
//! allows, and tries again what fails.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cluster::Plans;
use super::error::RunError;
use super::error_reason::{LONGEST_PAUSE, pause, trouble};
use super::plan::{Change, Plan};
use super::session::{Job, Jobs, tend};
use super::startup_log;
use crate::coordination::membership::{Coordination, Member};
use crate::dispatch::DispatchError;
use crate::runtime::tracking_watch::Told;
use crate::server::AppState;

/// A pod, from its start to its end.
pub(crate) struct Work<'a> {
    /// Reaches the API server.
    pub(crate) client: Client,
    /// The pod.
    pub(crate) member: &'a Member,
    /// Who is told.
    pub(crate) sources: &'a AppState,
    /// Asks for the end.
    pub(crate) stop: &'a CancellationToken,
    /// Whether it works on jobs and on no shard.
    pub(crate) only_jobs: bool,
}

impl Work<'_> {
    /// Works until a stop, or until a mistake in the program that a new start may get past.
    pub(crate) async fn go_on(&self, mut plans: Plans) -> Result<(), RunError> {
        let mut failures = 0;
        loop {
            let there = plans.wait_for(Option::is_some);
            let Some(Ok(_)) = self.stop.run_until_cancelled(there).await else {
                return Ok(());
            };
            let plan = plans.borrow_and_update().clone();
            let Some(plan) = plan.filter(|_| !self.stop.is_cancelled()) else {
                return Ok(());
            };
            let begun = Instant::now();
            let result = self.by(plan, &mut plans).await;
            if begun.elapsed() > LONGEST_PAUSE {
                failures = 0;
            }
            match result {
                Ok(()) => failures = 0,
                Err(error) if self.stop.is_cancelled() => {
                    tracing::warn!(%error, "could not save at the end; what was not saved is done again");
                    return Ok(());
                }
                Err(
                    error @ (RunError::Task(_)
                    | RunError::Membership(_)
                    | RunError::Dispatch(DispatchError::Task(_))),
                ) => return Err(error),
                Err(error) if error.is_queue_switch() => {
                    tracing::info!("{error}; opening it again");
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    self.wait(&error, failures, &mut plans).await;
                }
            }
        }
    }

    /// Works by one plan and by those that differ in their observers only.
    async fn by(&self, mut plan: Plan, plans: &mut Plans) -> Result<(), RunError> {
        let listener = Arc::clone(&plan.listener);
        let (observers, latest) = watch::channel(Arc::clone(&plan.observers));
        let coordination = Coordination::Cluster {
            client: self.client.clone(),
            owners: plan.owners.clone(),
        };
        let job = Job {
            listener: &listener,
            member: self.member,
            coordination: &coordination,
            observers: latest,
            sources: self.sources,
            patience: Duration::ZERO,
            jobs: match (self.only_jobs, listener.queue.replicas) {
                (true, _) => Jobs::Only,
                (false, 0) => Jobs::Too,
                (false, _) => Jobs::Elsewhere,
            },
            told: Told::default(),
        };
        let end = self.stop.child_token();
        self.sources.reporter.bundle_applied(plan.bundle.clone());
        startup_log::tell(&listener, &plan.observers);
        let mut tending = std::pin::pin!(tend(&job, &end));
        loop {
            tokio::select! {
                result = &mut tending => return result,
                next = next(plans), if !end.is_cancelled() => match plan.change(&next) {
                    Change::Observers => {
                        // What was found out about those before is forgotten first.
                        self.sources.reporter.bundle_applied(next.bundle.clone());
                        observers.send_replace(Arc::clone(&next.observers));
                        plan = next;
                    }
                    Change::Listener => {
                        tracing::info!("the listener has changed: finishing what is under way to begin anew");
                        end.cancel();
                    }
                },
            }
        }
    }

    /// Tells what is wrong and waits for the next try, or for a bundle that may put it right.
    async fn wait(&self, error: &RunError, failures: u32, plans: &mut Plans) {
        let (trouble, pause) = (trouble(error), pause(failures));
        let (reason, seconds) = (&trouble.reason, pause.as_secs());
        tracing::warn!(reason, "{}; trying again in {seconds} s", trouble.message);
        self.sources.health.cannot_start(trouble.clone());
        self.sources.reporter.session_failed(trouble);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = plans.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            () = self.stop.cancelled() => {}
        }
    }
}

/// The next plan.
async fn next(plans: &mut Plans) -> Plan {
    loop {
        if plans.changed().await.is_err() {
            // The task that loads bundles is gone, which its owner sees.
            std::future::pending::<()>().await;
        }
        if let Some(plan) = plans.borrow_and_update().clone() {
            return plan;
        }
    }
}
