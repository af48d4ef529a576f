//! A small imitation of the API server, for its Leases. Calls take as long as they are told to,
//! have their effect even when the caller has given up on them, and are counted.
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

const NEVER: Duration = Duration::from_hours(10);

/// Has no effect, and is not answered.
pub(crate) const DEAF: Fate = Fate {
    there: NEVER,
    back: NEVER,
    fails: false,
};

/// Has its effect, but the answer is lost.
pub(crate) const MUTE: Fate = Fate {
    there: Duration::ZERO,
    back: NEVER,
    fails: false,
};

/// Has no effect, and fails at once.
pub(crate) const BROKEN: Fate = Fate {
    there: Duration::ZERO,
    back: Duration::ZERO,
    fails: true,
};

/// The kinds of call, as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Write,
    Watch,
    Delete,
    List,
    Follow,
}

/// A Lease's name, and what it became.
type News = (String, Option<Lease>);

/// Changes that a watcher may be behind.
const BACKLOG: usize = 10_000;

struct State {
    leases: BTreeMap<String, Lease>,
    version: u64,
    /// All changes after the version `compacted`.
    history: Vec<(u64, News)>,
    compacted: u64,
    /// The fates of the next calls, then that of all others.
    fates: VecDeque<Fate>,
    otherwise: Fate,
    /// What calls that fail are answered with.
    code: u16,
    may_watch: bool,
    deaf_watches: bool,
    panics: bool,
    calls: Vec<(Kind, Instant)>,
    changes: broadcast::Sender<News>,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            leases: BTreeMap::new(),
            version: 0,
            history: Vec::new(),
            compacted: 0,
            fates: VecDeque::new(),
            otherwise: Fate::default(),
            code: 500,
            may_watch: true,
            deaf_watches: false,
            panics: false,
            calls: Vec::new(),
            changes: broadcast::channel(BACKLOG).0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Lease, where there is only one.
    pub(crate) fn lease(&self) -> Option<Lease> {
        self.state().leases.values().next().cloned()
    }

    pub(crate) fn leases(&self) -> BTreeMap<String, Lease> {
        self.state().leases.clone()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Lease> {
        self.state().leases.get(name).cloned()
    }

    pub(crate) fn holder(&self) -> Option<String> {
        self.lease()?.spec?.holder_identity
    }

    pub(crate) fn holder_of(&self, name: &str) -> Option<String> {
        self.named(name)?.spec?.holder_identity
    }

    pub(crate) fn calls(&self, kind: Kind) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|(k, _)| *k == kind)
            .count()
    }

    /// When calls of that kind came.
    pub(crate) fn moments(&self, kind: Kind) -> Vec<Instant> {
        let state = self.state();
        let calls = state.calls.iter().filter(|(k, _)| *k == kind);
        calls.map(|(_, at)| *at).collect()
    }

    pub(crate) fn forget_calls(&self) {
        self.state().calls.clear();
    }

    pub(crate) fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state().fates.extend(fates);
    }

    /// All calls from now on.
    pub(crate) fn always(&self, fate: Fate) {
        self.state().otherwise = fate;
    }

    /// What calls that fail from now on are answered with.
    pub(crate) fn fail_with(&self, code: u16) {
        self.state().code = code;
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
        self.state().changes = broadcast::channel(BACKLOG).0;
    }

    /// Has all watches silently die, these and those that are opened until told otherwise.
    pub(crate) fn deafen(&self, deaf: bool) {
        let mut state = self.state();
        state.deaf_watches = deaf;
        if deaf {
            // Nobody is ever told of this sender's end.
            let old = std::mem::replace(&mut state.changes, broadcast::channel(BACKLOG).0);
            std::mem::forget(old);
        }
    }

    /// Forgets the changes so far.
    pub(crate) fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.version;
        state.history.clear();
    }

    /// Somebody else changes or deletes the Lease.
    pub(crate) fn meddle(&self, change: impl FnOnce(&mut Lease) -> bool) {
        let name = self.state().leases.keys().next().cloned().unwrap();
        self.meddle_with(&name, change);
    }

    pub(crate) fn meddle_with(&self, name: &str, change: impl FnOnce(&mut Lease) -> bool) {
        let mut state = self.state();
        let mut lease = state.leases.get(name).cloned().unwrap();
        let keep = change(&mut lease);
        state.set(name, keep.then_some(lease));
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
            state.calls.push((kind, Instant::now()));
            let otherwise = state.otherwise;
            state.fates.pop_front().unwrap_or(otherwise)
        };
        let (answer, answered) = oneshot::channel();
        let server = self.clone();
        tokio::spawn(async move {
            sleep(fate.there).await;
            let result = if fate.fails {
                let code = server.state().code;
                Err(failure(code, reason(code)))
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

fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    }
}

impl State {
    fn set(&mut self, name: &str, lease: Option<Lease>) -> Option<Lease> {
        self.version += 1;
        let lease = lease.map(|mut lease| {
            lease.metadata.resource_version = Some(self.version.to_string());
            lease
        });
        match lease.clone() {
            Some(lease) => drop(self.leases.insert(name.to_owned(), lease)),
            None => drop(self.leases.remove(name)),
        }
        let news = (name.to_owned(), lease.clone());
        self.history.push((self.version, news.clone()));
        // There may be nobody watching.
        let _nobody = self.changes.send(news);
        lease
    }

    /// Whether the very version that is named may be written to.
    fn check(&self, name: &str, version: Option<&str>) -> Result<(), StoreError> {
        match self.leases.get(name) {
            None => Err(failure(404, "NotFound")),
            Some(lease) if lease.metadata.resource_version.as_deref() != version => {
                Err(failure(409, "Conflict"))
            }
            Some(_) => Ok(()),
        }
    }

    fn news(&self, version: u64) -> Result<BoxStream<'static, News>, StoreError> {
        if !self.may_watch {
            return Err(failure(403, "Forbidden"));
        }
        if version < self.compacted {
            return Err(failure(410, "Expired"));
        }
        if self.deaf_watches {
            return Ok(stream::pending().boxed());
        }
        let missed = self.history.iter().filter(|(at, _)| *at > version);
        let missed: Vec<News> = missed.map(|(_, news)| news.clone()).collect();
        let changes = stream::unfold(self.changes.subscribe(), |mut changes| async {
            Some((changes.recv().await.ok()?, changes))
        });
        Ok(stream::iter(missed).chain(changes).boxed())
    }
}

impl LeaseStore for Fake {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        let name = name.to_owned();
        Box::pin(self.call(Kind::Get, move |state| Ok(state.leases.get(&name).cloned())))
    }

    fn create<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let (name, lease) = (lease.metadata.name.clone().unwrap(), lease.clone());
        Box::pin(
            self.call(Kind::Write, move |state| match state.leases.get(&name) {
                Some(_) => Err(failure(409, "AlreadyExists")),
                None => Ok(state.set(&name, Some(lease)).unwrap()),
            }),
        )
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let (name, lease) = (name.to_owned(), lease.clone());
        Box::pin(self.call(Kind::Write, move |state| {
            state.check(&name, lease.metadata.resource_version.as_deref())?;
            Ok(state.set(&name, Some(lease)).unwrap())
        }))
    }

    fn watch<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<LeaseWatch, StoreError>> {
        let (name, version) = (name.to_owned(), version.parse().unwrap());
        Box::pin(self.call(Kind::Watch, move |state| {
            let of_one =
                move |(changed, lease): News| future::ready((changed == name).then_some(Ok(lease)));
            Ok(state.news(version)?.filter_map(of_one).boxed())
        }))
    }

    fn delete<'a>(
        &'a self,
        name: &'a str,
        version: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (name, version) = (name.to_owned(), version.to_owned());
        Box::pin(self.call(Kind::Delete, move |state| {
            state.check(&name, Some(&version))?;
            state.set(&name, None);
            Ok(())
        }))
    }

    fn list(&self) -> BoxFuture<'_, Result<(Vec<Lease>, String), StoreError>> {
        Box::pin(self.call(Kind::List, |state| {
            let leases = state.leases.values().cloned().collect();
            Ok((leases, state.version.to_string()))
        }))
    }

    fn watch_all<'a>(&'a self, version: &'a str) -> BoxFuture<'a, Result<LeaseEvents, StoreError>> {
        let version = version.parse().unwrap();
        Box::pin(self.call(Kind::Follow, move |state| {
            let change = |(name, lease): News| {
                Ok(lease.map_or(LeaseEvent::Deleted(name), LeaseEvent::Applied))
            };
            Ok(state.news(version)?.map(change).boxed())
        }))
    }
}
