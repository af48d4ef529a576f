//! Which rows of a backfill's page have changed since it was read. Pure.
//!
//! The changes of a table are noted from before a page's snapshot is taken until the page is in the log. A change
//! that the snapshot has not seen and that is in the log already is newer than the row: the row is left out.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use super::envelope::fields;
use super::rows::LogRow;
use crate::capture::snapshot::Snapshot;

/// Most changes that are noted for a page; with more, the page is read again.
const MAX_NOTED: usize = 1_000_000;

/// Transactions that are remembered.
const MAX_RECENT: usize = 4096;

/// A row, by a digest of its key and of what tells it from others of that, and one of its tenant where that is known.
type RowId = (u64, Option<u64>);

/// What was read since a page was begun.
#[derive(Debug)]
struct Noted {
    entity: Arc<str>,
    /// What tells rows of one key apart; nothing where the key does.
    row_columns: Option<Vec<String>>,
    /// Transactions whose changes may not be noted, as they came before.
    before: Vec<u32>,
    changed: Vec<(u32, RowId)>,
    /// Transactions that emptied the table.
    emptied: Vec<u32>,
    /// Whether something could not be noted: it is too much, or it is not known which row changed.
    is_incomplete: bool,
}

impl Noted {
    /// Takes note of each row that a change is of: the one before it and the one after.
    fn change(&mut self, xid: u32, row: &LogRow) {
        let images = match row.operation {
            'i' => [None, Some(&row.new)],
            'd' => [Some(&row.old), None],
            _ => [Some(&row.old), Some(&row.new)],
        };
        let of_key = self.row_columns.is_none();
        for image in images
            .into_iter()
            .flatten()
            .take(if of_key { 1 } else { 2 })
        {
            match self.row_id(row, image.as_deref()) {
                Some(id) if self.changed.len() < MAX_NOTED => self.changed.push((xid, id)),
                _ => self.is_incomplete = true,
            }
        }
    }

    /// Returns which row an image is of; nothing if it does not say so.
    fn row_id(&self, row: &LogRow, image: Option<&str>) -> Option<RowId> {
        let mut hasher = DefaultHasher::new();
        row.key.hash(&mut hasher);
        if let Some(columns) = &self.row_columns {
            let fields = fields(image?)?;
            for column in columns {
                fields.get(column.as_str())?.get().hash(&mut hasher);
            }
        }
        let tenant = row.tenant.as_ref().map(|tenant| {
            let mut hasher = DefaultHasher::new();
            tenant.hash(&mut hasher);
            hasher.finish()
        });
        Some((hasher.finish(), tenant))
    }
}

/// Notes of changes for the page of a backfill.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    /// Transactions that were read lately.
    recent: VecDeque<u32>,
    noted: Option<Noted>,
}

/// What to do with a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Append it without the rows at these places.
    Append(Vec<usize>),
    /// Read it again.
    Discard,
}

impl Strikes {
    /// Takes note of a transaction that is read.
    pub(crate) fn transaction(&mut self, xid: u32) {
        if self.recent.len() >= MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(xid);
    }

    /// Takes note of a change by a transaction.
    pub(crate) fn change(&mut self, xid: u32, row: &LogRow) {
        let Some(noted) = self
            .noted
            .as_mut()
            .filter(|noted| noted.entity == row.entity)
        else {
            return;
        };
        match row.operation {
            't' => noted.emptied.push(xid),
            // Events of applications say nothing of a row.
            'c' => {}
            _ => noted.change(xid, row),
        }
    }

    /// Begins to take note of changes of a table, before a page of it is read. Where rows share a key, `row_columns`
    /// tell them apart.
    pub(crate) fn begin(&mut self, entity: Arc<str>, row_columns: Option<Vec<String>>) {
        self.noted = Some(Noted {
            entity,
            row_columns,
            before: self.recent.iter().copied().collect(),
            changed: Vec::new(),
            emptied: Vec::new(),
            is_incomplete: false,
        });
    }

    /// Ends that.
    pub(crate) fn end(&mut self) {
        self.noted = None;
    }

    /// Judges the rows of a page that was read with a snapshot.
    pub(crate) fn judge(&self, snapshot: &Snapshot, rows: &[LogRow]) -> Verdict {
        let unseen = |xid: &u32| !sees(snapshot, *xid);
        let Some(noted) = self.noted.as_ref().filter(|noted| !noted.is_incomplete) else {
            return Verdict::Discard;
        };
        // A commit is sent when it is on the disk, and seen when those have it that it waits for.
        if noted.before.iter().any(unseen) {
            return Verdict::Discard;
        }
        if noted.emptied.iter().any(unseen) {
            return Verdict::Append((0..rows.len()).collect());
        }
        let mut changed: Vec<RowId> = noted
            .changed
            .iter()
            .filter(|(xid, _)| unseen(xid))
            .map(|(_, row)| *row)
            .collect();
        changed.sort_unstable();
        let is_changed = |row: &LogRow| {
            let Some((key, tenant)) = noted.row_id(row, row.new.as_deref()) else {
                return false;
            };
            let mut same = changed[changed.partition_point(|one| one.0 < key)..]
                .iter()
                .take_while(|one| one.0 == key);
            // Of a row whose old image was not sent, the tenant is not known.
            same.any(|one| one.1.is_none() || one.1 == tenant)
        };
        let places = rows.iter().enumerate();
        Verdict::Append(
            places
                .filter(|(_, row)| is_changed(row))
                .map(|(place, _)| place)
                .collect(),
        )
    }
}

/// Whether a snapshot sees a transaction that is named by the lower half of its number. It is the nearest to the
/// snapshot's end: the server keeps all that are alive within half of what that half can count.
fn sees(snapshot: &Snapshot, xid: u32) -> bool {
    const HALF: u64 = 1 << 31;
    let end = snapshot.xmax();
    let mut whole = (end & !u64::from(u32::MAX)) | u64::from(xid);
    if whole > end.saturating_add(HALF) {
        whole = whole.saturating_sub(1 << 32);
    } else if whole.saturating_add(HALF) < end {
        whole += 1 << 32;
    }
    snapshot.sees(whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn row(operation: char, key: &str, tenant: Option<&str>) -> LogRow {
        LogRow {
            operation,
            entity: Arc::from("public.orders"),
            key: Some(key.to_owned()),
            tenant: tenant.map(str::to_owned),
            occurred_at: chrono::DateTime::UNIX_EPOCH,
            old: None,
            new: None,
            trace: None,
        }
    }

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_row_is_left_out_if_a_change_of_it_was_not_seen() {
        let mut strikes = Strikes::default();
        strikes.transaction(90);
        strikes.begin(Arc::from("public.orders"), None);
        for (xid, key) in [(95, "seen"), (97, "open"), (101, "later")] {
            strikes.transaction(xid);
            strikes.change(xid, &row('u', key, None));
        }
        strikes.change(102, &row('c', "custom", None));
        let page: Vec<LogRow> = ["seen", "open", "other", "later", "custom"]
            .map(|key| row('r', key, None))
            .into();
        let of = |text: &str| strikes.judge(&snapshot(text), &page);
        assert_eq!(of("97:100:97"), Verdict::Append(vec![1, 3]));
        assert_eq!(of("101:101:"), Verdict::Append(vec![3]));
        assert_eq!(of("103:103:"), Verdict::Append(vec![]));
        // What came before the notes is not seen: a commit may wait for a standby.
        assert_eq!(of("90:100:90"), Verdict::Discard);
    }

    #[test]
    fn the_emptying_of_a_table_that_was_not_seen_leaves_all_out() {
        let mut strikes = Strikes::default();
        let page = [row('r', "1", None), row('r', "2", None)];
        assert_eq!(strikes.judge(&snapshot("5:5:"), &page), Verdict::Discard);
        strikes.begin(Arc::from("public.orders"), None);
        strikes.change(7, &row('t', "", None));
        assert_eq!(
            strikes.judge(&snapshot("8:8:"), &page),
            Verdict::Append(vec![])
        );
        assert_eq!(
            strikes.judge(&snapshot("7:7:"), &page),
            Verdict::Append(vec![0, 1])
        );
        let mut other = row('t', "", None);
        other.entity = Arc::from("public.items");
        strikes.begin(Arc::from("public.orders"), None);
        strikes.change(7, &other);
        assert_eq!(
            strikes.judge(&snapshot("7:7:"), &page),
            Verdict::Append(vec![])
        );
    }

    #[test]
    fn tenants_tell_rows_apart_unless_one_is_not_known() {
        let mut strikes = Strikes::default();
        strikes.begin(Arc::from("public.orders"), None);
        strikes.change(7, &row('u', "1", Some("a")));
        strikes.change(7, &row('d', "2", None));
        let page = [
            row('r', "1", Some("a")),
            row('r', "1", Some("b")),
            row('r', "2", Some("a")),
        ];
        assert_eq!(
            strikes.judge(&snapshot("7:7:"), &page),
            Verdict::Append(vec![0, 2])
        );
    }

    #[test]
    fn transactions_are_the_nearest_of_their_lower_half() {
        let epoch = 3_u64 << 32;
        let at = |low: u64| snapshot(&format!("{}:{}:", epoch + low, epoch + low));
        assert!(sees(&at(100), 99) && !sees(&at(100), 100));
        // From the round before, and of the next one.
        assert!(sees(&at(100), u32::MAX - 5));
        assert!(!sees(&at(u64::from(u32::MAX) - 5), 4));
        assert!(sees(&snapshot("100:100:"), 99) && !sees(&snapshot("100:100:"), 101));
    }

    #[test]
    fn rows_of_one_key_are_told_apart_by_their_columns() {
        let of = |operation, [old, new]: [Option<&str>; 2]| LogRow {
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            ..row(operation, "customer", None)
        };
        let image = |id: u32| format!("{{\"id\":{id},\"note\":\"\\u0000\"}}");
        let images: Vec<String> = (0..5).map(image).collect();
        let image = |id: usize| Some(images[id].as_str());
        let mut strikes = Strikes::default();
        let columns = Some(vec!["id".to_owned()]);
        let begin =
            |strikes: &mut Strikes| strikes.begin(Arc::from("public.orders"), columns.clone());
        begin(&mut strikes);
        strikes.change(7, &of('u', [image(1), image(2)]));
        strikes.change(7, &of('d', [image(3), None]));
        strikes.change(7, &of('i', [None, image(4)]));
        let page: Vec<LogRow> = (0..5).map(|id| of('r', [None, image(id)])).collect();
        let judged = |strikes: &Strikes| strikes.judge(&snapshot("7:7:"), &page);
        assert_eq!(judged(&strikes), Verdict::Append(vec![1, 2, 3, 4]));
        // Which row that is, is not known.
        for unknown in [
            of('u', [None, image(1)]),
            of('d', [Some("{}"), None]),
            of('d', [None, None]),
        ] {
            begin(&mut strikes);
            strikes.change(7, &unknown);
            assert_eq!(judged(&strikes), Verdict::Discard);
        }
    }
}
