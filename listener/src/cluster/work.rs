//! What the pod that holds the Lease does: it works by the plan of the moment, changes to a newer
//! one as gently as that allows, and tries again what fails.

use std::sync::Arc;

use crds::config::LeaseConfig;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Plans;
use super::plan::{Change, Plan};
use super::trouble::{LONGEST_PAUSE, pause, trouble};
use crate::api::Sources;
use crate::dispatch::DispatchError;
use crate::run::{Job, RunError, tend};

/// Why the work ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// It was asked to; all that was finished is saved.
    Stopped,
    /// Another may hold the Lease now.
    Lost,
    /// The Lease is to be held by other times.
    OtherTimes,
    /// By a mistake in the program, which a new start may get past.
    Broken(RunError),
}

/// One time of holding the Lease.
#[derive(Debug)]
pub(super) struct Work<'a> {
    /// Names this process.
    pub(super) holder: &'a str,
    /// Who is told.
    pub(super) sources: &'a Sources,
    /// The times by which the Lease is held.
    pub(super) times: LeaseConfig,
    /// Asks for the end.
    pub(super) stop: &'a CancellationToken,
}

impl Work<'_> {
    /// Works until there is a reason not to. To be dropped when the Lease is lost.
    pub(super) async fn go_on(&self, plans: &mut Plans) -> Ending {
        let mut failures = 0;
        loop {
            let plan = plans.borrow_and_update().clone();
            let Some(plan) = plan.filter(|_| !self.stop.is_cancelled()) else {
                return Ending::Stopped;
            };
            if plan.listener.lease != self.times {
                return Ending::OtherTimes;
            }
            let begun = Instant::now();
            let result = self.by(plan, plans).await;
            if begun.elapsed() > LONGEST_PAUSE {
                failures = 0;
            }
            match result {
                Ok(()) => failures = 0,
                Err(error) if self.stop.is_cancelled() => {
                    tracing::warn!(%error, "could not save at the end; what was not saved is done again");
                    return Ending::Stopped;
                }
                Err(error @ (RunError::Task(_) | RunError::Dispatch(DispatchError::Task(_)))) => {
                    return Ending::Broken(error);
                }
                Err(error) => {
                    failures += 1;
                    self.wait(&error, failures, plans).await;
                }
            }
        }
    }

    /// Works by one plan and by those that differ in their observers only.
    async fn by(&self, mut plan: Plan, plans: &mut Plans) -> Result<(), RunError> {
        let listener = Arc::clone(&plan.listener);
        let (observers, latest) = watch::channel(Arc::clone(&plan.observers));
        let job = Job {
            listener: &listener,
            holder: self.holder,
            observers: latest,
            sources: self.sources,
            patience: std::time::Duration::ZERO,
        };
        let end = self.stop.child_token();
        self.sources.reporter.runs(plan.bundle.clone());
        let mut tending = std::pin::pin!(tend(&job, &end));
        loop {
            tokio::select! {
                result = &mut tending => return result,
                next = next(plans), if !end.is_cancelled() => match plan.change(&next) {
                    Change::Observers => {
                        observers.send_replace(Arc::clone(&next.observers));
                        self.sources.reporter.runs(next.bundle.clone());
                        plan = next;
                    }
                    Change::Listener | Change::Lease => {
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
        self.sources.reporter.let_go();
        // A server that has recovered is gone on with at once, and all is well.
        if !error.is_new_life() {
            self.sources.health.waits_for(trouble.clone());
            self.sources.reporter.work_trouble(trouble);
        }
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
