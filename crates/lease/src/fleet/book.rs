//! The Leases as they were last seen, so that a write keeps what others put into them, and the
//! calls that write them, each bounded in time.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::timeout;

use super::Options;
use super::core::{Action, Event, Refusal};
use super::name::{Fact, Id, LABEL, MEMBER, Name, SHARD, SHARDS};
use crate::lease::Identity;
use crate::lease::record::{LeaseWriter, without_holder};
use crate::lease::store::StoreError;

/// What a fleet needs is more than what one Lease needs.
const FORBIDDEN: &str = "the API server forbids it; grant get, list, watch, create, update and \
                         delete on leases";

/// What came of a call about a Lease.
pub(super) struct Answer {
    name: Name,
    result: Result<Option<Lease>, StoreError>,
}

pub(super) struct Book {
    options: Options,
    leases: BTreeMap<Name, (u64, Lease)>,
}

impl Book {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            leases: BTreeMap::new(),
        }
    }

    /// Keeps a Lease, if it is newer than what is kept. What matters of it, if it is of this
    /// fleet and has a version that can be compared.
    pub(super) fn keep(&mut self, lease: Lease) -> Option<(Name, Fact)> {
        let name = Name::of(&lease, &self.options.listener)?;
        Some((name.clone(), self.keep_as(name, lease)?))
    }

    fn keep_as(&mut self, name: Name, lease: Lease) -> Option<Fact> {
        let fact = Fact::of(&lease)?;
        let kept = self.leases.get(&name);
        if kept.is_none_or(|(version, _)| *version <= fact.version) {
            self.leases.insert(name, (fact.version, lease));
        }
        Some(fact)
    }

    /// Keeps all that there is, and nothing else.
    pub(super) fn keep_all(&mut self, leases: Vec<Lease>) -> Vec<(Name, Fact)> {
        self.leases.clear();
        leases
            .into_iter()
            .filter_map(|lease| self.keep(lease))
            .collect()
    }

    /// Forgets a Lease that was deleted. Which that was, if one of this fleet.
    pub(super) fn forget(&mut self, name: &str) -> Name {
        let listener = &self.options.listener;
        let name = Name::shard(name, listener).unwrap_or_else(|| Name::Member(name.into()));
        self.leases.remove(&name);
        name
    }

    /// What the core is told of an answer.
    pub(super) fn told(&mut self, answer: Answer) -> Event {
        let Answer { name, result } = answer;
        let result = match result {
            // It is the one that was asked for, whatever its labels have become.
            Ok(Some(lease)) => match self.keep_as(name.clone(), lease) {
                Some(fact) => Ok(Some(fact)),
                None => Err(Refusal::Failed(
                    "the version of a lease is not a number".to_owned(),
                )),
            },
            Ok(None) => {
                self.leases.remove(&name);
                Ok(None)
            }
            Err(StoreError::Conflict) => Err(Refusal::Conflict),
            Err(StoreError::Missing) => Err(Refusal::Missing),
            Err(error) => Err(Refusal::Failed(text(&error))),
        };
        Event::Answered(name, result)
    }

    /// The call that an action asks for.
    pub(super) fn call(&self, action: Action) -> Option<BoxFuture<'static, Answer>> {
        let (name, call) = match action {
            Action::Write {
                name,
                over,
                holder,
                takes,
            } => {
                let call = self.write(&name, over, holder, takes);
                (name, call)
            }
            Action::Delete(name, version) => {
                let (store, text) = (self.options.store.clone(), self.text(&name));
                let call = async move {
                    store.delete(&text, &version.to_string()).await?;
                    Ok(None)
                };
                (name, call.boxed())
            }
            Action::Look(name) => {
                let (store, text) = (self.options.store.clone(), self.text(&name));
                let call = async move { store.get(&text).await };
                (name, call.boxed())
            }
            _ => return None,
        };
        let limit = self.options.timing.retry_period();
        let bounded = async move {
            let result = timeout(limit, call).await;
            let result = result.unwrap_or(Err(StoreError::Timeout));
            Answer { name, result }
        };
        Some(bounded.boxed())
    }

    fn write(
        &self,
        name: &Name,
        over: Option<u64>,
        holder: Option<Id>,
        takes: u16,
    ) -> BoxFuture<'static, Result<Option<Lease>, StoreError>> {
        let seen = match over {
            None => None,
            Some(version) => match self.leases.get(name) {
                Some((kept, lease)) if *kept == version => Some(lease),
                _ => return futures::future::ready(Err(StoreError::Conflict)).boxed(),
            },
        };
        let mut lease = match (holder, seen) {
            (Some(holder), seen) => self
                .writer(name, &holder)
                .with_holder(seen, SystemTime::now()),
            (None, Some(seen)) => without_holder(seen),
            (None, None) => return futures::future::ready(Err(StoreError::Missing)).boxed(),
        };
        if let (Name::Member(_), 1..) = (name, takes) {
            let annotations = lease.metadata.annotations.get_or_insert_default();
            annotations.insert(SHARDS.to_owned(), takes.to_string());
        } else if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(SHARDS);
        }
        let (store, text, replaces) = (self.options.store.clone(), self.text(name), seen.is_some());
        let call = async move {
            let written = if replaces {
                store.replace(&text, &lease).await?
            } else {
                store.create(&lease).await?
            };
            Ok(Some(written))
        };
        call.boxed()
    }

    fn writer(&self, name: &Name, holder: &str) -> LeaseWriter {
        let options = &self.options;
        let (kind, owners) = match name {
            Name::Member(_) => (MEMBER, &options.member_owners),
            Name::Shard(_) => (SHARD, &options.owners),
        };
        let mut labels = options.labels.clone();
        labels.insert(LABEL.to_owned(), kind.to_owned());
        LeaseWriter {
            name: self.text(name),
            identity: Identity::from_existing(holder),
            duration: options.timing.duration(),
            labels,
            owners: owners.clone(),
        }
    }

    fn text(&self, name: &Name) -> String {
        name.text(&self.options.listener)
    }
}

/// An error with its causes.
pub(super) fn text(error: &StoreError) -> String {
    let mut text = match error {
        StoreError::Forbidden(_) => FORBIDDEN.to_owned(),
        error => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
