//! A Postgres snapshot (`pg_snapshot`): which transactions had committed when it was taken.
//!
//! Two snapshots of one server are always ordered: the later one sees all that the earlier one
//! sees. Windows depend on that.

use std::fmt;
use std::str::FromStr;

/// A Postgres snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

/// The text is not a snapshot.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a snapshot of the form xmin:xmax:xid,xid")]
pub struct SnapshotError(String);

impl Snapshot {
    /// Returns the snapshot that sees nothing, before every other.
    #[must_use]
    pub const fn genesis() -> Self {
        Self {
            xmin: 3,
            xmax: 3,
            in_progress: Vec::new(),
        }
    }

    /// Every transaction below this one had ended.
    #[must_use]
    pub const fn xmin(&self) -> u64 {
        self.xmin
    }

    /// No transaction from this one on had ended.
    #[must_use]
    pub const fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Transactions between the two that had not ended, ascending.
    #[must_use]
    pub fn in_progress(&self) -> &[u64] {
        &self.in_progress
    }

    /// Returns whether a committed transaction had committed when the snapshot was taken.
    #[must_use]
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// Returns whether it sees everything that `other` sees.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.xmax >= other.xmax
            && self
                .in_progress
                .iter()
                .all(|xid| *xid >= other.xmax || !other.sees(*xid))
    }

    /// Returns the transactions in progress at `earlier` that had ended when this snapshot was taken.
    #[must_use]
    pub fn ended_since(&self, earlier: &Self) -> Vec<u64> {
        earlier
            .in_progress
            .iter()
            .copied()
            .filter(|xid| self.sees(*xid))
            .collect()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (n, xid) in self.in_progress.iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let parse = || -> Option<Self> {
            let mut parts = text.split(':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            if parts.next().is_some() || xmin > xmax {
                return None;
            }
            let mut in_progress = Vec::new();
            for xid in list.split(',').filter(|xid| !xid.is_empty()) {
                let xid: u64 = xid.parse().ok()?;
                if xid < xmin || xid >= xmax || in_progress.last().is_some_and(|last| *last >= xid)
                {
                    return None;
                }
                in_progress.push(xid);
            }
            Some(Self {
                xmin,
                xmax,
                in_progress,
            })
        };
        parse().ok_or_else(|| SnapshotError(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn text_round_trips() {
        for text in ["3:3:", "10:20:10,14,19", "5:9:7"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_snapshot_is_rejected() {
        for text in [
            "", "1", "1:2", "5:3:", "a:b:c", "1:9:4,4", "1:9:5,4", "1:9:9", "4:9:3", "1:2::",
            "-1:2:",
        ] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    #[test]
    fn snapshot_sees_what_had_committed() {
        let s = snapshot("10:20:10,14");
        assert!(s.sees(9) && s.sees(11) && s.sees(19));
        assert!(!s.sees(10) && !s.sees(14) && !s.sees(20) && !s.sees(21));
        assert!(!Snapshot::genesis().sees(3));
    }

    #[test]
    fn later_snapshots_cover_earlier_ones() {
        let line = [
            "3:3:",
            "10:20:10,14",
            "10:20:10",
            "10:25:10,22",
            "22:25:22",
            "25:25:",
        ]
        .map(snapshot);
        for (i, a) in line.iter().enumerate() {
            for (j, b) in line.iter().enumerate() {
                assert_eq!(b.covers(a), j >= i, "{b} covers {a}");
            }
        }
    }

    #[test]
    fn ended_since_names_those_that_became_visible() {
        assert_eq!(
            snapshot("14:30:14,22").ended_since(&snapshot("10:20:10,14,19")),
            vec![10, 19]
        );
    }
}
