//! A small imitation of the API server, for one Lease. Calls take as long as they are told to,
//! have their effect even when the caller has given up on them, and are counted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::Status;
use tokio::sync::{broadcast, oneshot};
use tokio::time::sleep;

use crate::store::{Changes, Store, StoreError};

/// How a call fares.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// How long it travels before it has its effect.
    pub(crate) there: Duration,
    /// How long the answer travels.
    pub(crate) back: Duration,
    /// Whether it has no effect and fails at once.
    pub(crate) fails: bool,
}

/// The kinds of call, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Write,
    Watch,
}

struct State {
    lease: Option<Lease>,
    version: u64,
    /// The fates of the next calls, then that of all others.
    fates: VecDeque<Fate>,
    otherwise: Fate,
    may_watch: bool,
    panics: bool,
    calls: Vec<Kind>,
    changes: broadcast::Sender<Option<Lease>>,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            lease: None,
            version: 0,
            fates: VecDeque::new(),
            otherwise: Fate::default(),
            may_watch: true,
            panics: false,
            calls: Vec::new(),
            changes: broadcast::channel(64).0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lease(&self) -> Option<Lease> {
        self.state().lease.clone()
    }

    pub(crate) fn holder(&self) -> Option<String> {
        self.lease()?.spec?.holder_identity
    }

    pub(crate) fn calls(&self, kind: Kind) -> usize {
        self.state().calls.iter().filter(|k| **k == kind).count()
    }

    pub(crate) fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state().fates.extend(fates);
    }

    /// All calls from now on.
    pub(crate) fn always(&self, fate: Fate) {
        self.state().otherwise = fate;
    }

    pub(crate) fn forbid_watching(&self) {
        self.state().may_watch = false;
    }

    /// All calls from now on panic in the caller's task.
    pub(crate) fn panic(&self) {
        self.state().panics = true;
    }

    /// Ends all watches.
    pub(crate) fn hang_up(&self) {
        self.state().changes = broadcast::channel(64).0;
    }

    /// Somebody else changes or deletes the Lease.
    pub(crate) fn meddle(&self, change: impl FnOnce(&mut Lease) -> bool) {
        let mut state = self.state();
        let mut lease = state.lease.clone().unwrap();
        let keep = change(&mut lease);
        state.set(keep.then_some(lease));
    }

    /// Carries a call out as its fate wants it, whether or not the caller still waits.
    async fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        effect: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let fate = {
            let mut state = self.state();
            assert!(!state.panics, "told to");
            state.calls.push(kind);
            let otherwise = state.otherwise;
            state.fates.pop_front().unwrap_or(otherwise)
        };
        let (answer, answered) = oneshot::channel();
        let server = self.clone();
        tokio::spawn(async move {
            sleep(fate.there).await;
            let result = if fate.fails {
                Err(failure(500, "InternalError"))
            } else {
                effect(&mut server.state())
            };
            sleep(fate.back).await;
            // The caller may have given up.
            let _gone = answer.send(result);
        });
        answered.await.unwrap()
    }
}

fn failure(code: u16, reason: &str) -> StoreError {
    kube::Error::Api(Status::failure("told to", reason).with_code(code).boxed()).into()
}

impl State {
    fn set(&mut self, lease: Option<Lease>) -> Option<Lease> {
        self.version += 1;
        let version = self.version.to_string();
        self.lease = lease.map(|mut lease| {
            lease.metadata.resource_version = Some(version);
            lease
        });
        // There may be nobody watching.
        let _nobody = self.changes.send(self.lease.clone());
        self.lease.clone()
    }
}

impl Store for Fake {
    fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(self.call(Kind::Get, |state| Ok(state.lease.clone())))
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let lease = lease.clone();
        Box::pin(self.call(Kind::Write, move |state| match state.lease {
            Some(_) => Err(failure(409, "AlreadyExists")),
            None => Ok(state.set(Some(lease)).unwrap()),
        }))
    }

    fn replace<'a>(
        &'a self,
        _: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let lease = lease.clone();
        Box::pin(self.call(Kind::Write, move |state| {
            let version = state.lease.as_ref().map(|l| &l.metadata.resource_version);
            match version {
                None => Err(failure(404, "NotFound")),
                Some(version) if *version != lease.metadata.resource_version => {
                    Err(failure(409, "Conflict"))
                }
                Some(_) => Ok(state.set(Some(lease)).unwrap()),
            }
        }))
    }

    fn watch<'a>(
        &'a self,
        _: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<Changes, StoreError>> {
        let version: u64 = version.parse().unwrap();
        Box::pin(self.call(Kind::Watch, move |state| {
            if !state.may_watch {
                return Err(failure(403, "Forbidden"));
            }
            let missed = (state.version > version).then(|| Ok(state.lease.clone()));
            let changes = stream::unfold(state.changes.subscribe(), |mut changes| async {
                Some((Ok(changes.recv().await.ok()?), changes))
            });
            Ok(stream::iter(missed).chain(changes).boxed())
        }))
    }
}
