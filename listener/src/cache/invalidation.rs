//! Which results no longer hold, by what has changed since they were looked up.
//!
//! A result keeps the progress of the change log that this process had seen before the lookup began, and so
//! holds all that was committed until then. A change that is seen later makes older results of its tag
//! useless. Nothing is deleted, so a lookup that races with a change cannot leave the old value behind,
//! wherever it is stored: its progress is that of before.
//!
//! It is pure: the change log is read by [`super::follower`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::capture::changed_keys::MAX_KEY_BYTES;
use crate::capture::snapshot::Snapshot;

/// Most keys of changed rows that are remembered. Of more, the oldest stand for all keys of their entity.
const MAX_KEYS: usize = 65_536;

/// Most observers, lookups and actions whose results were dropped by hand. Of more, all results are dropped.
const MAX_SCOPES: usize = 1024;

/// How much of the change log is seen: the number of transactions that have ended, as a snapshot counts them.
/// Of two snapshots of one life of a server the later one sees all that the earlier one does, so it counts
/// more, or is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Progress(pub(crate) u64);

impl Progress {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let in_progress = snapshot.in_progress().len() as u64;
        Self(snapshot.xmax().saturating_sub(in_progress))
    }

    /// Returns the least progress that has seen a transaction which took this snapshot and committed.
    pub(crate) fn after(snapshot: &Snapshot) -> Self {
        Self(Self::of(snapshot).0 + 1)
    }
}

/// What a result depends on: an entity, and the key of one of its rows or all of them.
pub(crate) type Tag = (Arc<str>, Option<String>);

/// A change that makes results useless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A row with this key, of all rows where there is none.
    Row { entity: String, key: Option<String> },
    /// Results of an observer, of one of its lookups or actions, or all of them were dropped by hand.
    Scope(Scope),
}

/// Whose results are dropped by hand; all where nothing is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) observer: Option<String>,
    /// The lookup or action.
    pub(crate) name: Option<String>,
}

/// What has changed, as far as this process has seen.
#[derive(Debug, Default)]
pub(crate) struct Invalidations {
    /// The life of the log in which progress is counted; nothing before it is known.
    life: Option<Arc<str>>,
    progress: Progress,
    /// Every change that was committed before an event that is at hand has been seen.
    is_current: bool,
    /// Results of before do not hold.
    all: Progress,
    scopes: HashMap<Scope, Progress>,
    entities: HashMap<Arc<str>, EntityChanges>,
    /// Keys in the order in which their changes were seen.
    order: VecDeque<(Arc<str>, Arc<str>, Progress)>,
}

/// Changes of one entity.
#[derive(Debug, Default)]
struct EntityChanges {
    /// Results of any key from before this do not hold.
    floor: Progress,
    /// The last change of any key.
    last: Progress,
    keys: HashMap<Arc<str>, Progress>,
}

impl Invalidations {
    /// Begins with what is seen from now on in this life of the log, of these entities.
    pub(crate) fn begin(
        life: Arc<str>,
        progress: Progress,
        entities: impl IntoIterator<Item = Arc<str>>,
    ) -> Self {
        let mut begun = Self {
            life: Some(life),
            progress,
            is_current: true,
            ..Self::default()
        };
        begun.follow(entities);
        begun
    }

    /// Returns whether it is known what changes.
    pub(crate) const fn has_begun(&self) -> bool {
        self.life.is_some()
    }

    /// Follows these entities from now on, and no others.
    pub(crate) fn follow(&mut self, entities: impl IntoIterator<Item = Arc<str>>) {
        let mut before = std::mem::take(&mut self.entities);
        for entity in entities {
            let changes = before.remove(&entity).unwrap_or(EntityChanges {
                floor: self.progress,
                ..EntityChanges::default()
            });
            self.entities.insert(entity, changes);
        }
        let entities = &self.entities;
        self.order
            .retain(|(entity, ..)| entities.contains_key(entity));
    }

    /// Returns the progress that a result has which is looked up from now on.
    pub(crate) const fn progress(&self) -> Progress {
        self.progress
    }

    /// Adds changes that a snapshot with this progress sees and the last one did not.
    pub(crate) fn add(
        &mut self,
        progress: Progress,
        changes: impl IntoIterator<Item = (Change, Progress)>,
    ) {
        for (change, since) in changes {
            match change {
                Change::Row { entity, key } => self.changed(&entity, key.as_deref(), since),
                Change::Scope(scope) => self.dropped(scope, since),
            }
        }
        self.progress = self.progress.max(progress);
        self.is_current = true;
    }

    fn changed(&mut self, entity: &str, key: Option<&str>, since: Progress) {
        let Some((entity, _)) = self.entities.get_key_value(entity) else {
            return;
        };
        let entity = Arc::clone(entity);
        let Some(changes) = self.entities.get_mut(&*entity) else {
            return;
        };
        changes.last = changes.last.max(since);
        match key.filter(|key| key.len() <= usize::from(MAX_KEY_BYTES)) {
            None => changes.floor = changes.floor.max(since),
            Some(key) => {
                let key: Arc<str> = Arc::from(key);
                let known = changes.keys.entry(Arc::clone(&key)).or_default();
                *known = since.max(*known);
                self.order.push_back((entity, key, since));
            }
        }
        while self.order.len() > MAX_KEYS {
            self.forget_oldest();
        }
    }

    /// Forgets the key that was seen first, which then stands for all keys of its entity.
    fn forget_oldest(&mut self) {
        let Some((entity, key, since)) = self.order.pop_front() else {
            return;
        };
        let Some(changes) = self.entities.get_mut(&entity) else {
            return;
        };
        // It is there again further back if it has changed since.
        if changes.keys.get(&key).is_some_and(|last| *last <= since) {
            changes.keys.remove(&key);
            changes.floor = changes.floor.max(since);
        }
    }

    fn dropped(&mut self, scope: Scope, since: Progress) {
        if scope == Scope::default() || self.scopes.len() >= MAX_SCOPES {
            self.all = self.all.max(since);
            return;
        }
        let known = self.scopes.entry(scope).or_default();
        *known = since.max(*known);
    }

    /// Notes that changes could not be read which may have been committed before an event that is at hand.
    pub(crate) fn fall_behind(&mut self) {
        self.is_current = false;
    }

    /// Notes that changes were missed: no result of before that depends on an entity holds.
    pub(crate) fn skip_to(&mut self, progress: Progress) {
        for changes in self.entities.values_mut() {
            changes.floor = changes.floor.max(progress);
            changes.last = changes.last.max(progress);
        }
        self.add(progress, []);
    }

    /// Returns the least progress with which a result holds, and the life of the log in which it counts;
    /// `None` where that is not known, so that none can be used.
    pub(crate) fn required(
        &self,
        observer: &str,
        name: &str,
        tags: &[Tag],
    ) -> Option<(Arc<str>, Progress)> {
        let life = self.life.as_ref()?;
        let mut least = self.all;
        if !self.scopes.is_empty() {
            let scope = |name: Option<&str>| Scope {
                observer: Some(observer.to_owned()),
                name: name.map(str::to_owned),
            };
            for scope in [scope(None), scope(Some(name))] {
                least = least.max(self.scopes.get(&scope).copied().unwrap_or_default());
            }
        }
        for (entity, key) in tags {
            let changes = self.entities.get(entity).filter(|_| self.is_current)?;
            let by_key = match key {
                Some(key) => changes.keys.get(&**key).copied().unwrap_or_default(),
                None => changes.last,
            };
            least = least.max(changes.floor).max(by_key);
        }
        Some((Arc::clone(life), least))
    }
}

#[cfg(test)]
mod tests;
