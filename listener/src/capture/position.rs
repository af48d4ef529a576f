//! Where a shard stands in the log, and which stretch to read next.
//!
//! A window holds every event that the later of two snapshots sees and the earlier does not.
//! It is read in id order. Windows follow each other without gap or overlap, so every
//! committed event is in exactly one, however late its transaction commits.

use std::sync::Arc;

use super::snapshot::Snapshot;

/// A snapshot with bounds on the ids around it, as `observer.low_watermark()` and
/// `observer.current_bound()` give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Every event of a transaction from the snapshot's xmax on has a larger id. As xmax only
    /// grows, the floor of an earlier mark is one for a later mark too, if not the best.
    pub floor: i64,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Every event that the snapshot sees has this id or a smaller one.
    pub ceiling: i64,
}

impl Mark {
    /// Before every event.
    #[must_use]
    pub const fn genesis() -> Self {
        Self {
            floor: 0,
            snapshot: Snapshot::genesis(),
            ceiling: 0,
        }
    }
}

/// Everything committed between two marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// What had been read before.
    pub from: Arc<Mark>,
    /// What has been read after.
    pub to: Arc<Mark>,
}

impl Window {
    /// Whether an event may lie in it: an id was drawn above the floor, or a transaction that
    /// the first mark left in progress has ended.
    #[must_use]
    pub fn may_hold_events(&self) -> bool {
        self.to.ceiling > self.from.floor
            || !self.to.snapshot.ended_since(&self.from.snapshot).is_empty()
    }
}

/// How far a shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Everything this mark's snapshot sees is behind.
    pub from: Arc<Mark>,
    /// End of the window that is being read; absent between two windows.
    pub to: Option<Arc<Mark>>,
    /// Everything in that window up to and including this id is behind; 0 between two windows.
    pub last_id: i64,
}

impl Position {
    /// Between two windows, with all that `mark` sees behind.
    #[must_use]
    pub fn at(mark: Arc<Mark>) -> Self {
        Self {
            from: mark,
            to: None,
            last_id: 0,
        }
    }

    /// Inside a window.
    #[must_use]
    pub fn within(window: &Window, last_id: i64) -> Self {
        Self {
            from: Arc::clone(&window.from),
            to: Some(Arc::clone(&window.to)),
            last_id,
        }
    }

    /// Whether an event is behind: one with this id, of a transaction that committed under this xid.
    #[must_use]
    pub fn passes(&self, xid: u64, id: i64) -> bool {
        let in_window = |to: &Arc<Mark>| id <= self.last_id && to.snapshot.sees(xid);
        self.from.snapshot.sees(xid) || self.to.as_ref().is_some_and(in_window)
    }

    /// The later of its marks: it sees all that the position passes.
    #[must_use]
    pub fn furthest(&self) -> &Mark {
        self.to.as_ref().unwrap_or(&self.from)
    }

    /// The latest of which it is certain that none of these positions passes an event which it
    /// does not lie before. Nothing where there are none.
    #[must_use]
    pub fn earliest<'a>(positions: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let positions: Vec<&Self> = positions.into_iter().collect();
        let behind = positions
            .iter()
            .copied()
            .reduce(|a, b| if precedes(b, a, 0) { b } else { a })?;
        let together = |other: &Self| {
            other.from.snapshot == behind.from.snapshot
                && other.to.as_ref().map(|to| &to.snapshot)
                    == behind.to.as_ref().map(|to| &to.snapshot)
        };
        if positions.iter().all(|other| together(other)) {
            let last_id = positions.iter().map(|other| other.last_id).min();
            return Some(Self {
                last_id: last_id.unwrap_or(0),
                ..behind.clone()
            });
        }
        // Of windows that differ, an id says nothing about the keys of the other shards.
        Some(Self::at(Arc::clone(&behind.from)))
    }

    /// How far it is in a window that begins at its mark.
    fn progress(&self) -> i64 {
        self.last_id.max(self.from.floor)
    }

    /// The window being read.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        self.to.as_ref().map(|to| Window {
            from: Arc::clone(&self.from),
            to: Arc::clone(to),
        })
    }
}

/// What to read next, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A window whose both ends are known.
    Known(Window),
    /// From this mark to a new one.
    Fresh(Arc<Mark>),
}

/// Which of the shards that stand at different places are to be read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Those furthest behind, up to where the next ones stand, so that they come together.
    Last,
    /// Those furthest ahead, which are not to wait for the others.
    First,
}

/// Chooses what to read next.
///
/// Shards that begin where a window begins which others have open read that one, so that they do
/// not go through the same events apart. Those in one window are read for together where no more
/// than `apart` ids lie between them, as what lies between is read once more for those ahead.
///
/// Returns the stretch and the indexes of the shards that take part in it.
#[must_use]
pub fn next_read(positions: &[&Position], turn: Turn, apart: i64) -> Option<(Read, Vec<usize>)> {
    let all = positions.iter().copied();
    let chosen = match turn {
        Turn::Last => all.reduce(|a, b| if precedes(b, a, apart) { b } else { a })?,
        Turn::First => all.reduce(|a, b| if precedes(a, b, apart) { b } else { a })?,
    };
    let same_start = |other: &Position| same(&other.from, &chosen.from);
    let open = || {
        let begun = positions.iter().filter(|other| same_start(other));
        let ends = begun.filter_map(|other| other.to.as_ref());
        ends.reduce(earlier)
    };
    let open = chosen.to.as_ref().or_else(open);
    let takes_part = |other: &Position| {
        let together = |to| {
            other.to.as_ref().is_none_or(|other| same(other, to))
                && other.progress().abs_diff(chosen.progress()) <= apart.unsigned_abs()
        };
        same_start(other) && open.is_none_or(together)
    };
    let shards = (0..positions.len())
        .filter(|n| takes_part(positions[*n]))
        .collect();
    // Between two windows it goes up to where the next ones stand.
    let next = || {
        let starts = positions.iter().map(|position| &position.from);
        let later = starts.filter(|mark| {
            !same(mark, &chosen.from) && mark.snapshot.covers(&chosen.from.snapshot)
        });
        later.reduce(earlier)
    };
    let from = Arc::clone(&chosen.from);
    let read = match open.or_else(next) {
        Some(to) => Read::Known(Window {
            from,
            to: Arc::clone(to),
        }),
        None => Read::Fresh(from),
    };
    Some((read, shards))
}

/// That of two marks which the other one covers.
fn earlier<'a>(a: &'a Arc<Mark>, b: &'a Arc<Mark>) -> &'a Arc<Mark> {
    if a.snapshot.covers(&b.snapshot) { b } else { a }
}

/// Whether `a` stands strictly before `b`, and within one window by more than `apart` ids.
fn precedes(a: &Position, b: &Position, apart: i64) -> bool {
    if !same(&a.from, &b.from) {
        return b.from.snapshot.covers(&a.from.snapshot);
    }
    match (&a.to, &b.to) {
        (Some(a), Some(b)) if !same(a, b) => b.snapshot.covers(&a.snapshot),
        _ => a.progress().saturating_add(apart) < b.progress(),
    }
}

/// Whether two marks see the same.
fn same(a: &Arc<Mark>, b: &Arc<Mark>) -> bool {
    Arc::ptr_eq(a, b) || a.snapshot == b.snapshot
}

#[cfg(test)]
mod tests;
