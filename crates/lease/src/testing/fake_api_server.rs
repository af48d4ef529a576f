//! Fake API server for Leases. Calls take as long as configured, take effect even if the caller has
//! given up on them, and are counted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, future};
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::Status;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, sleep};

use crate::lease::store::{LeaseEvent, LeaseEvents, LeaseStore, LeaseWatch, StoreError};

/// How a call is delayed or fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallBehaviour {
    /// Delay before it takes effect.
    pub(crate) request_delay: Duration,
    /// Delay of the response.
    pub(crate) response_delay: Duration,
    /// Whether it fails at once without effect.
    pub(crate) fails: bool,
}

const NEVER: Duration = Duration::from_hours(10);

/// Has no effect, and gets no response.
pub(crate) const DROP_REQUEST: CallBehaviour = CallBehaviour {
    request_delay: NEVER,
    response_delay: NEVER,
    fails: false,
};

/// Takes effect, but the response is lost.
pub(crate) const DROP_RESPONSE: CallBehaviour = CallBehaviour {
    request_delay: Duration::ZERO,
    response_delay: NEVER,
    fails: false,
};

/// Fails at once without effect.
pub(crate) const FAIL: CallBehaviour = CallBehaviour {
    request_delay: Duration::ZERO,
    response_delay: Duration::ZERO,
    fails: true,
};

/// Kinds of calls, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Get,
    Write,
    Watch,
    Delete,
    List,
    WatchAll,
}

/// Name of a Lease, and its new state.
type StoredChange = (String, Option<Lease>);

/// Number of changes that a watcher may be behind.
const WATCH_BACKLOG: usize = 10_000;

/// State of the fake API server.
struct ServerState {
    leases: BTreeMap<String, Lease>,
    version: u64,
    /// All changes after the version `compacted`.
    history: Vec<(u64, StoredChange)>,
    compacted: u64,
    /// Behaviour of the next calls; all others have the default.
    queued_behaviours: VecDeque<CallBehaviour>,
    default_behaviour: CallBehaviour,
    /// Status code of failing calls.
    failure_code: u16,
    may_watch: bool,
    stalled_watches: bool,
    panics_on_calls: bool,
    calls: Vec<(CallKind, Instant)>,
    changes: broadcast::Sender<StoredChange>,
}

/// Fake API server, shared by its clients.
#[derive(Clone)]
pub(crate) struct FakeApiServer(Arc<Mutex<ServerState>>);

impl FakeApiServer {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(ServerState {
            leases: BTreeMap::new(),
            version: 0,
            history: Vec::new(),
            compacted: 0,
            queued_behaviours: VecDeque::new(),
            default_behaviour: CallBehaviour::default(),
            failure_code: 500,
            may_watch: true,
            stalled_watches: false,
            panics_on_calls: false,
            calls: Vec::new(),
            changes: broadcast::channel(WATCH_BACKLOG).0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the only Lease.
    pub(crate) fn lease(&self) -> Option<Lease> {
        self.state().leases.values().next().cloned()
    }

    pub(crate) fn leases(&self) -> BTreeMap<String, Lease> {
        self.state().leases.clone()
    }

    pub(crate) fn lease_named(&self, name: &str) -> Option<Lease> {
        self.state().leases.get(name).cloned()
    }

    pub(crate) fn holder(&self) -> Option<String> {
        self.lease()?.spec?.holder_identity
    }

    pub(crate) fn holder_of(&self, name: &str) -> Option<String> {
        self.lease_named(name)?.spec?.holder_identity
    }

    pub(crate) fn calls(&self, kind: CallKind) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|(k, _)| *k == kind)
            .count()
    }

    /// Returns when calls of a kind arrived.
    pub(crate) fn call_times(&self, kind: CallKind) -> Vec<Instant> {
        let state = self.state();
        let calls = state.calls.iter().filter(|(k, _)| *k == kind);
        calls.map(|(_, at)| *at).collect()
    }

    pub(crate) fn clear_calls(&self) {
        self.state().calls.clear();
    }

    pub(crate) fn queue_behaviours(
        &self,
        queued_behaviours: impl IntoIterator<Item = CallBehaviour>,
    ) {
        self.state().queued_behaviours.extend(queued_behaviours);
    }

    /// Sets the behaviour of all further calls.
    pub(crate) fn set_behaviour(&self, behaviour: CallBehaviour) {
        self.state().default_behaviour = behaviour;
    }

    /// Sets the status code of failing calls.
    pub(crate) fn fail_with(&self, failure_code: u16) {
        self.state().failure_code = failure_code;
    }

    pub(crate) fn forbid_watching(&self) {
        self.state().may_watch = false;
    }

    /// Makes all further calls panic in the caller's task.
    pub(crate) fn panic_on_calls(&self) {
        self.state().panics_on_calls = true;
    }

    /// Ends all watches.
    pub(crate) fn close_watches(&self) {
        self.state().changes = broadcast::channel(WATCH_BACKLOG).0;
    }

    /// Makes all watches, open and future ones, silently die until reset.
    pub(crate) fn stall_watches(&self, stalled: bool) {
        let mut state = self.state();
        state.stalled_watches = stalled;
        if stalled {
            // The sender is never dropped, so its receivers never see an end.
            let old = std::mem::replace(&mut state.changes, broadcast::channel(WATCH_BACKLOG).0);
            std::mem::forget(old);
        }
    }

    /// Discards the history of changes.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.version;
        state.history.clear();
    }

    /// Modifies or deletes the Lease as another program would.
    pub(crate) fn modify_externally(&self, change: impl FnOnce(&mut Lease) -> bool) {
        let name = self.state().leases.keys().next().cloned().unwrap();
        self.modify_lease_externally(&name, change);
    }

    pub(crate) fn modify_lease_externally(
        &self,
        name: &str,
        change: impl FnOnce(&mut Lease) -> bool,
    ) {
        let mut state = self.state();
        let mut lease = state.leases.get(name).cloned().unwrap();
        let keep = change(&mut lease);
        state.store(name, keep.then_some(lease));
    }

    /// Executes a call with its behaviour, whether or not the caller still waits.
    async fn call<T: Send + 'static>(
        &self,
        kind: CallKind,
        effect: impl FnOnce(&mut ServerState) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let behaviour = {
            let mut state = self.state();
            assert!(!state.panics_on_calls, "requested by the test");
            state.calls.push((kind, Instant::now()));
            let default_behaviour = state.default_behaviour;
            state
                .queued_behaviours
                .pop_front()
                .unwrap_or(default_behaviour)
        };
        let (response, responded) = oneshot::channel();
        let server = self.clone();
        tokio::spawn(async move {
            sleep(behaviour.request_delay).await;
            let result = if behaviour.fails {
                let failure_code = server.state().failure_code;
                Err(failure(failure_code, reason(failure_code)))
            } else {
                effect(&mut server.state())
            };
            sleep(behaviour.response_delay).await;
            // The caller may have given up.
            let _gone = response.send(result);
        });
        responded.await.unwrap()
    }
}

fn failure(failure_code: u16, reason: &str) -> StoreError {
    kube::Error::Api(
        Status::failure("requested by the test", reason)
            .with_code(failure_code)
            .boxed(),
    )
    .into()
}

fn reason(failure_code: u16) -> &'static str {
    match failure_code {
        403 => "Forbidden",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    }
}

impl ServerState {
    /// Stores or removes a Lease under a new version, and sends the change to all watchers.
    fn store(&mut self, name: &str, lease: Option<Lease>) -> Option<Lease> {
        self.version += 1;
        let lease = lease.map(|mut lease| {
            lease.metadata.resource_version = Some(self.version.to_string());
            lease
        });
        match lease.clone() {
            Some(lease) => drop(self.leases.insert(name.to_owned(), lease)),
            None => drop(self.leases.remove(name)),
        }
        let change = (name.to_owned(), lease.clone());
        self.history.push((self.version, change.clone()));
        // There may be no watcher.
        let _nobody = self.changes.send(change);
        lease
    }

    /// Checks that the version is the current one.
    fn check_version(&self, name: &str, version: Option<&str>) -> Result<(), StoreError> {
        match self.leases.get(name) {
            None => Err(failure(404, "NotFound")),
            Some(lease) if lease.metadata.resource_version.as_deref() != version => {
                Err(failure(409, "Conflict"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Streams all changes after `version`.
    fn changes_since(&self, version: u64) -> Result<BoxStream<'static, StoredChange>, StoreError> {
        if !self.may_watch {
            return Err(failure(403, "Forbidden"));
        }
        if version < self.compacted {
            return Err(failure(410, "Expired"));
        }
        if self.stalled_watches {
            return Ok(stream::pending().boxed());
        }
        let missed = self.history.iter().filter(|(at, _)| *at > version);
        let missed: Vec<StoredChange> = missed.map(|(_, change)| change.clone()).collect();
        let changes = stream::unfold(self.changes.subscribe(), |mut changes| async {
            Some((changes.recv().await.ok()?, changes))
        });
        Ok(stream::iter(missed).chain(changes).boxed())
    }
}

impl LeaseStore for FakeApiServer {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        let name = name.to_owned();
        Box::pin(self.call(CallKind::Get, move |state| {
            Ok(state.leases.get(&name).cloned())
        }))
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let (name, lease) = (lease.metadata.name.clone().unwrap(), lease.clone());
        Box::pin(self.call(
            CallKind::Write,
            move |state| match state.leases.get(&name) {
                Some(_) => Err(failure(409, "AlreadyExists")),
                None => Ok(state.store(&name, Some(lease)).unwrap()),
            },
        ))
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let (name, lease) = (name.to_owned(), lease.clone());
        Box::pin(self.call(CallKind::Write, move |state| {
            state.check_version(&name, lease.metadata.resource_version.as_deref())?;
            Ok(state.store(&name, Some(lease)).unwrap())
        }))
    }

    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>> {
        let (name, version) = (name.to_owned(), version.parse().unwrap());
        Box::pin(self.call(CallKind::Watch, move |state| {
            let of_one = move |(changed, lease): StoredChange| {
                future::ready((changed == name).then_some(Ok(lease)))
            };
            Ok(state.changes_since(version)?.filter_map(of_one).boxed())
        }))
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (name, version) = (name.to_owned(), version.to_owned());
        Box::pin(self.call(CallKind::Delete, move |state| {
            state.check_version(&name, Some(&version))?;
            state.store(&name, None);
            Ok(())
        }))
    }

    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>> {
        Box::pin(self.call(CallKind::List, |state| {
            let leases = state.leases.values().cloned().collect();
            Ok((leases, state.version.to_string()))
        }))
    }

    fn watch_all<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>> {
        let version = version.parse().unwrap();
        Box::pin(self.call(CallKind::WatchAll, move |state| {
            let change = |(name, lease): StoredChange| {
                Ok(lease.map_or(LeaseEvent::Deleted(name), LeaseEvent::Applied))
            };
            Ok(state.changes_since(version)?.map(change).boxed())
        }))
    }
}
