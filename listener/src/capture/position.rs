//! Read positions of shards in the change log, and the choice of what to read next.
//!
//! A window holds every event that the later of two snapshots sees and the earlier does not.
//! It is read in id order. Windows follow each other without gap or overlap, so every
//! committed event is in exactly one, however late its transaction commits.

use std::sync::Arc;

use super::snapshot::Snapshot;

/// A snapshot with bounds on the event ids around it, as `observer.low_watermark()` and
/// `observer.current_bound()` give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBound {
    /// Every event of a transaction from the snapshot's xmax on has a larger id. As xmax only
    /// grows, the `low_id` of an earlier bound is also valid for a later one, if not the tightest.
    pub low_id: i64,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Every event that the snapshot sees has this id or a smaller one.
    pub high_id: i64,
}

impl LogBound {
    /// Returns the bound before every event.
    #[must_use]
    pub const fn genesis() -> Self {
        Self {
            low_id: 0,
            snapshot: Snapshot::genesis(),
            high_id: 0,
        }
    }

    /// Returns whether all that another bound sees is before this one, as for a bound of the same
    /// database that was read later.
    #[must_use]
    pub fn covers(&self, earlier: &Self) -> bool {
        self.snapshot.covers(&earlier.snapshot) && earlier.high_id <= self.high_id
    }
}

/// All events committed between two bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its lower end: what this snapshot sees was read before.
    pub from: Arc<LogBound>,
    /// Its upper end: what this snapshot sees is read once the window is.
    pub to: Arc<LogBound>,
}

impl Window {
    /// Returns whether an event may lie in it: an id was drawn above the lower bound, or a
    /// transaction that was in progress at its lower end has ended.
    #[must_use]
    pub fn may_hold_events(&self) -> bool {
        self.to.high_id > self.from.low_id
            || !self.to.snapshot.ended_since(&self.from.snapshot).is_empty()
    }
}

/// The read position of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Everything that this bound's snapshot sees is behind the position.
    pub from: Arc<LogBound>,
    /// End of the window that is being read; absent between two windows.
    pub to: Option<Arc<LogBound>>,
    /// Everything in that window up to and including this id is behind the position; 0 between two
    /// windows.
    pub last_id: i64,
}

impl Position {
    /// Returns the position between two windows, after all that `bound` sees.
    #[must_use]
    pub fn at(bound: Arc<LogBound>) -> Self {
        Self {
            from: bound,
            to: None,
            last_id: 0,
        }
    }

    /// Returns the position before every event.
    #[must_use]
    pub fn genesis() -> Self {
        Self::at(Arc::new(LogBound::genesis()))
    }

    /// Returns the position inside a window, after `last_id`.
    #[must_use]
    pub fn within(window: &Window, last_id: i64) -> Self {
        Self {
            from: Arc::clone(&window.from),
            to: Some(Arc::clone(&window.to)),
            last_id,
        }
    }

    /// Returns whether the position is past an event with this id, of a transaction that committed
    /// under this xid.
    #[must_use]
    pub fn passes(&self, xid: u64, id: i64) -> bool {
        let in_window = |to: &Arc<LogBound>| id <= self.last_id && to.snapshot.sees(xid);
        self.from.snapshot.sees(xid) || self.to.as_ref().is_some_and(in_window)
    }

    /// Returns the later of its bounds, which sees all that the position is past.
    #[must_use]
    pub fn latest_bound(&self) -> &LogBound {
        self.to.as_ref().unwrap_or(&self.from)
    }

    /// Returns the latest position that is certainly not past any event which one of these
    /// positions is not past; `None` for no positions.
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

    /// Returns how far it is in a window that begins at its lower bound.
    fn progress(&self) -> i64 {
        self.last_id.max(self.from.low_id)
    }

    /// Returns the window that is being read.
    #[must_use]
    pub fn window(&self) -> Option<Window> {
        self.to.as_ref().map(|to| Window {
            from: Arc::clone(&self.from),
            to: Arc::clone(to),
        })
    }
}

/// The range of the log to read next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPlan {
    /// A window whose ends are both known.
    OpenWindow(Window),
    /// A window from this bound to a new one.
    NewWindow(Arc<LogBound>),
}

/// Which shards to read for, of those at different positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOrder {
    /// Those furthest behind, up to where the next ones are, so that they catch up.
    Lagging,
    /// Those furthest ahead, which must not wait for the others.
    Leading,
}

/// Chooses what to read next.
///
/// Shards that begin where a window begins which others have open read that one, so that they do
/// not read the same events separately. Those in one window are read for together where no more
/// than `max_gap` ids lie between them, as what lies between is read once more for those ahead.
///
/// Returns the range and the indexes of the shards to read it for.
#[must_use]
pub fn next_read(
    positions: &[&Position],
    order: ReadOrder,
    max_gap: i64,
) -> Option<(ReadPlan, Vec<usize>)> {
    let all = positions.iter().copied();
    let chosen = match order {
        ReadOrder::Lagging => all.reduce(|a, b| if precedes(b, a, max_gap) { b } else { a })?,
        ReadOrder::Leading => all.reduce(|a, b| if precedes(a, b, max_gap) { b } else { a })?,
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
                && other.progress().abs_diff(chosen.progress()) <= max_gap.unsigned_abs()
        };
        same_start(other) && open.is_none_or(together)
    };
    let shards = (0..positions.len())
        .filter(|n| takes_part(positions[*n]))
        .collect();
    // Between two windows it goes up to where the next shards are.
    let next = || {
        let starts = positions.iter().map(|position| &position.from);
        let later = starts.filter(|bound| {
            !same(bound, &chosen.from) && bound.snapshot.covers(&chosen.from.snapshot)
        });
        later.reduce(earlier)
    };
    let from = Arc::clone(&chosen.from);
    let read = match open.or_else(next) {
        Some(to) => ReadPlan::OpenWindow(Window {
            from,
            to: Arc::clone(to),
        }),
        None => ReadPlan::NewWindow(from),
    };
    Some((read, shards))
}

/// Returns the one of two bounds that the other one covers.
fn earlier<'a>(a: &'a Arc<LogBound>, b: &'a Arc<LogBound>) -> &'a Arc<LogBound> {
    if a.snapshot.covers(&b.snapshot) { b } else { a }
}

/// Returns whether `a` is strictly before `b`, and within one window by more than `max_gap` ids.
fn precedes(a: &Position, b: &Position, max_gap: i64) -> bool {
    if !same(&a.from, &b.from) {
        return b.from.snapshot.covers(&a.from.snapshot);
    }
    match (&a.to, &b.to) {
        (Some(a), Some(b)) if !same(a, b) => b.snapshot.covers(&a.snapshot),
        _ => a.progress().saturating_add(max_gap) < b.progress(),
    }
}

/// Returns whether two bounds see the same transactions.
fn same(a: &Arc<LogBound>, b: &Arc<LogBound>) -> bool {
    Arc::ptr_eq(a, b) || a.snapshot == b.snapshot
}

#[cfg(test)]
mod tests;
