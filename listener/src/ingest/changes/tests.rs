#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgoutput::{TypeCatalog, TypeEntry};
use proptest::prelude::*;

use super::super::catalog::PublishedTable;
use super::*;

const TABLE: u32 = 7;
const INT: u32 = 23;
const TEXT: u32 = 25;

fn catalog() -> Catalog {
    let table = PublishedTable {
        entity: "public.kv".to_owned(),
        primary_key: vec!["k".to_owned()],
        columns: vec![("k".to_owned(), INT), ("v".to_owned(), TEXT)],
    };
    let types = [INT, TEXT].map(|of| (of, TypeEntry::default()));
    Catalog {
        types: TypeCatalog::from_iter(types),
        tables: [(TABLE, table)].into(),
        publication: 1,
    }
}

fn changes(progress: Progress) -> Changes {
    Changes::new(catalog(), Vec::new(), progress, BTreeSet::new())
}

fn at(confirmed: u64, partial: Option<(u64, u64)>) -> Progress {
    Progress {
        confirmed: Lsn(confirmed),
        partial: partial.map(|(commit, ordinal)| (Lsn(commit), ordinal)),
    }
}

fn relation(identity: u8) -> Vec<u8> {
    let mut bytes = b"R\0\0\0\x07public\0kv\0".to_vec();
    bytes.push(identity);
    bytes.extend(b"\0\x02\x01k\0\0\0\0\x17\xff\xff\xff\xff");
    bytes.extend(if identity == b'f' { [1] } else { [0] });
    bytes.extend(b"v\0\0\0\0\x19\xff\xff\xff\xff");
    bytes
}

fn tuple(k: &str, v: Option<&str>) -> Vec<u8> {
    let text = |text: &str| {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [b"t", &length[..], text.as_bytes()].concat()
    };
    let v = v.map_or_else(|| b"n".to_vec(), text);
    [&[0, 2][..], &text(k), &v].concat()
}

fn insert(k: &str) -> Vec<u8> {
    [&b"I\0\0\0\x07N"[..], &tuple(k, Some("x"))].concat()
}

fn update(old: Option<(u8, &str)>, k: &str) -> Vec<u8> {
    let old = old.map_or_else(Vec::new, |(kind, k)| {
        let v = (kind == b'O').then_some("old");
        [&[kind][..], &tuple(k, v)].concat()
    });
    [&b"U\0\0\0\x07"[..], &old, b"N", &tuple(k, Some("x"))].concat()
}

/// Operations and keys that are taken.
fn taken(changes: &mut Changes) -> Vec<(String, Option<String>)> {
    let (batch, _) = changes.take().unwrap();
    let rows = batch.rows().into_iter();
    rows.map(|(operation, key, _, _)| (operation, key))
        .collect()
}

fn event(operation: &str, key: &str) -> (String, Option<String>) {
    (operation.to_owned(), Some(key.to_owned()))
}

#[test]
fn transaction_that_is_in_the_log_in_part_goes_on_where_it_was_left() {
    let mut first = changes(at(100, None));
    first.begin((0, Lsn(200)), 0);
    first.message(&relation(b'f')).unwrap();
    for key in ["1", "2", "3"] {
        first.message(&insert(key)).unwrap();
    }
    let (batch, saved) = first.take().unwrap();
    assert_eq!((batch.len(), saved), (3, at(100, Some((200, 3)))));
    // After a restart, all of it comes again, and what was committed before too.
    let mut second = changes(saved);
    second.begin((0, Lsn(90)), 0);
    second.message(&relation(b'f')).unwrap();
    second.message(&insert("0")).unwrap();
    second.commit(Lsn(95));
    second.begin((0, Lsn(200)), 0);
    for key in ["1", "2", "3", "4"] {
        second.message(&insert(key)).unwrap();
    }
    assert!(second.is_in_transaction());
    second.commit(Lsn(210));
    assert_eq!(taken(&mut second), [event("i", "4")]);
    assert_eq!(second.take().unwrap().1, at(210, None));
}

#[test]
fn deletions_of_a_run_of_updates_of_keys_come_before_its_insertions() {
    let mut changes = changes(at(100, None));
    changes.begin((0, Lsn(200)), 0);
    changes.message(&relation(b'f')).unwrap();
    // Each row takes the key of the next.
    for (old, new) in [("1", "2"), ("2", "3")] {
        changes.message(&update(Some((b'O', old)), new)).unwrap();
        assert!(changes.take().is_none(), "such a run is not cut");
    }
    changes.commit(Lsn(210));
    assert_eq!(
        taken(&mut changes),
        [
            event("d", "1"),
            event("d", "2"),
            event("i", "2"),
            event("i", "3")
        ]
    );
}

#[test]
fn update_without_an_image_before_is_one_of_the_same_row() {
    let mut changes = changes(at(100, None));
    changes.begin((0, Lsn(200)), 0);
    changes.message(&relation(b'd')).unwrap();
    changes.message(&update(None, "1")).unwrap();
    changes.message(&update(Some((b'K', "1")), "2")).unwrap();
    changes.commit(Lsn(210));
    let (batch, _) = changes.take().unwrap();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        batch.rows(),
        [
            ("u".to_owned(), some("1"), None, some(r#"{"k":1,"v":"x"}"#)),
            ("d".to_owned(), some("1"), some(r#"{"k":1}"#), None),
            ("i".to_owned(), some("2"), None, some(r#"{"k":2,"v":"x"}"#)),
        ]
    );
}

#[test]
fn position_follows_the_server_only_while_nothing_is_open_or_unsaved() {
    let mut changes = changes(at(100, None));
    changes.advance(Lsn(150));
    assert_eq!(changes.take().unwrap().1, at(150, None));
    changes.begin((0, Lsn(200)), 0);
    changes.advance(Lsn(220));
    changes.message(&relation(b'f')).unwrap();
    changes.message(&insert("1")).unwrap();
    changes.commit(Lsn(210));
    changes.advance(Lsn(230));
    let (batch, progress) = changes.take().unwrap();
    assert_eq!((batch.len(), progress), (1, at(210, None)));
    changes.advance(Lsn(140));
    assert_eq!(changes.take().unwrap().1, at(210, None), "never back");
}

#[test]
fn table_that_looks_different_is_asked_for_once() {
    let mut first = Changes::new(Catalog::default(), Vec::new(), at(1, None), BTreeSet::new());
    first.begin((0, Lsn(200)), 0);
    let asked = first.message(&relation(b'f'));
    assert!(matches!(asked, Err(IngestError::CatalogOutdated)));
    let asked = first.into_asked();
    let mut second = Changes::new(Catalog::default(), Vec::new(), at(1, None), asked);
    second.begin((0, Lsn(200)), 0);
    second.message(&relation(b'd')).unwrap();
    second.message(&insert("1")).unwrap();
    second.commit(Lsn(210));
    assert_eq!(
        taken(&mut second),
        [event("i", "1")],
        "by its replica identity"
    );
}

#[test]
fn custom_events_are_messages_of_a_transaction() {
    let mut changes = changes(at(1, None));
    let mut end = 200;
    let mut send = |transactional, content: &str| {
        end += 10;
        changes.begin((0, Lsn(end)), 0);
        changes.custom_event(&LogicalMessage {
            transactional,
            prefix: MESSAGE_PREFIX,
            content: content.as_bytes(),
        });
        changes.commit(Lsn(end + 5));
        (changes.take().unwrap().0.rows(), changes.malformed)
    };
    let text = r#"{"entity": "shop.paid", "key": "1", "payload": {"a" : 1e400}}"#;
    let row = (
        "c".to_owned(),
        Some("1".to_owned()),
        None,
        Some(r#"{"a" : 1e400}"#.to_owned()),
    );
    assert_eq!(send(true, text), (vec![row], 0));
    assert_eq!(send(false, text), (vec![], 0));
    for bad in ["", "{}", r#"{"entity": ""}"#, "\u{0}"] {
        assert_eq!(send(true, bad).0, []);
    }
    assert_eq!(send(true, "[]").1, 5);
    // What Postgres cannot store would be read again for ever.
    let deep = "[".repeat(2000) + &"]".repeat(2000);
    for bad in [
        r#"{"entity": "a", "key": "\u0000"}"#,
        &format!(r#"{{"entity": "a", "payload": {deep}}}"#),
    ] {
        assert_eq!(send(true, bad).0, []);
    }
    assert_eq!(send(true, "{}").1, 8);
    let change = r#"{"op": "u", "before": {"id": 1}, "after": {"id": 1, "v": 2},
        "source": {"schema": "core", "table": "orders"}, "ts_ms": 7, "key": "1"}"#;
    let row = (
        "u".to_owned(),
        Some("1".to_owned()),
        Some(r#"{"id": 1}"#.to_owned()),
        Some(r#"{"id": 1, "v": 2}"#.to_owned()),
    );
    assert_eq!(send(true, change), (vec![row], 8));
}

proptest! {
    /// However batches are cut, each change is taken once, and in order.
    #[test]
    fn restarts_anywhere_lose_and_repeat_nothing(
        sizes in proptest::collection::vec(1_usize..6, 1..8),
        cuts in proptest::collection::vec(1_usize..7, 1..30),
    ) {
        let mut taken = Vec::new();
        let mut progress = at(1, None);
        let mut cuts = cuts.into_iter().cycle();
        let mut expected = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            expected.extend((0..*size).map(|row| format!("{n}{row}")));
        }
        let mut rounds = 0;
        while taken.len() < expected.len() {
            rounds += 1;
            prop_assert!(rounds < 500);
            // A session that reads so many changes and is cut off then.
            let mut left = cuts.next().unwrap();
            let mut session = changes(progress);
            'session: for (n, size) in sizes.iter().enumerate() {
                let commit = u64::try_from(n * 10 + 10).unwrap();
                session.begin((0, Lsn(commit)), 0);
                session.message(&relation(b'f')).unwrap();
                for row in 0..*size {
                    session.message(&insert(&format!("{n}{row}"))).unwrap();
                    left = left.saturating_sub(usize::from(session.waiting().0 > 0));
                    if left == 0 {
                        break 'session;
                    }
                }
                session.commit(Lsn(commit + 5));
            }
            let (batch, saved) = session.take().unwrap();
            taken.extend(batch.rows().into_iter().map(|(_, key, _, _)| key.unwrap()));
            progress = saved;
        }
        prop_assert_eq!(taken, expected);
    }

    #[test]
    fn no_message_panics(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6)) {
        let mut changes = changes(at(1, None));
        changes.begin((0, Lsn(200)), i64::MAX);
        let _ = changes.message(&relation(b'f'));
        for message in messages {
            let _ = changes.message(&message);
        }
    }
}
