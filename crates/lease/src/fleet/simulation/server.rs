//! The API server of the simulation: Leases with versions, and what has become of them.

use std::collections::BTreeMap;

use super::super::core::Refusal;
use super::super::name::{Fact, Id, Name};

/// A Lease's name, and what it became.
pub(super) type News = (Name, Option<Fact>);

#[derive(Clone, Debug)]
pub(super) enum Request {
    Write {
        name: Name,
        over: Option<u64>,
        holder: Option<Id>,
        takes: u16,
    },
    Delete(Name, u64),
    Look(Name),
}

impl Request {
    pub(super) fn name(&self) -> &Name {
        match self {
            Self::Write { name, .. } | Self::Delete(name, _) | Self::Look(name) => name,
        }
    }
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) leases: BTreeMap<Name, Fact>,
    pub(super) version: u64,
    history: Vec<(u64, News)>,
    compacted: u64,
    pub(super) writes: u64,
}

impl Server {
    pub(super) fn set(&mut self, name: &Name, fact: Option<Fact>) -> Option<Fact> {
        self.version += 1;
        let version = self.version;
        let fact = fact.map(|fact| Fact { version, ..fact });
        match fact.clone() {
            Some(fact) => drop(self.leases.insert(name.clone(), fact)),
            None => drop(self.leases.remove(name)),
        }
        self.history.push((version, (name.clone(), fact.clone())));
        fact
    }

    /// Carries a request out; a write tells what it has changed.
    pub(super) fn ask(&mut self, request: Request) -> Result<Option<Fact>, Refusal> {
        let kept = self.leases.get(request.name()).map(|fact| fact.version);
        match request {
            Request::Look(name) => Ok(self.leases.get(&name).cloned()),
            Request::Delete(name, over) => {
                check(kept, Some(over))?;
                Ok(self.set(&name, None))
            }
            Request::Write {
                name,
                over,
                holder,
                takes,
            } => {
                check(kept, over)?;
                self.writes += 1;
                let wait = std::time::Duration::from_secs(15);
                let fact = Fact {
                    version: 0,
                    holder,
                    wait,
                    takes,
                };
                Ok(self.set(&name, Some(fact)))
            }
        }
    }

    /// What has happened since, unless that was forgotten.
    pub(super) fn since(&self, version: u64) -> Option<Vec<News>> {
        let later = self.history.partition_point(|(at, _)| *at <= version);
        let news = self.history.iter().skip(later);
        (version >= self.compacted).then(|| news.map(|(_, news)| news.clone()).collect())
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }
}

fn check(kept: Option<u64>, over: Option<u64>) -> Result<(), Refusal> {
    match (kept, over) {
        (kept, over) if kept == over => Ok(()),
        (None, Some(_)) => Err(Refusal::Missing),
        _ => Err(Refusal::Conflict),
    }
}
