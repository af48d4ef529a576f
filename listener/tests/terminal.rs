//! Tables on terminals of any width, and where there is none.

use unicode_width::UnicodeWidthStr;

use crate::support::program::{command, command_by, on_terminal};
use crate::support::{TestDb, database};

async fn orders() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id text primary key);
         select observer.track('orders');
         insert into orders values (repeat('注文', 40)), (repeat('k', 300)), (E'a\\n\\x1b[2Jb\\u202ec')",
    )
    .await;
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_the_terminal_and_are_whole_elsewhere() {
    let db = orders().await;
    let list = ["events", "list", "--database-url", &db.url];
    let url = ("OBSERVER_DATABASE_URL", &*db.url);
    for (columns, width) in [
        ("100", 100),
        ("90", 90),
        ("0", 80),
        ("wide", 80),
        ("", 80),
        ("-1", 80),
        ("100000", 400),
    ] {
        let lines = on_terminal(&["events", "list"], &[url, ("COLUMNS", columns)]).await;
        assert_eq!(lines.len(), 4, "{lines:?}");
        // The id and the time are 27 and 20 wide, and stay whole.
        for line in &lines {
            assert!(
                line.width() <= width,
                "{} columns for {columns:?}: {line}",
                line.width()
            );
        }
        let is_cut = lines.iter().any(|line| line.ends_with('…'));
        assert_eq!(is_cut, width < 400, "{lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| !line.contains(['\u{1b}', '\u{202e}'])),
            "{lines:?}"
        );
    }
    // However narrow, ids can be copied.
    let narrow = on_terminal(&["events", "list"], &[url, ("COLUMNS", "1")]).await;
    assert!(
        narrow[1]
            .split_whitespace()
            .next()
            .unwrap()
            .matches('-')
            .count()
            == 2,
        "{narrow:?}"
    );
    assert!(
        !narrow[1].split_whitespace().next().unwrap().contains('…'),
        "{narrow:?}"
    );

    let piped = command_by(&list, &[("COLUMNS", "40")]).await.ok();
    assert!(
        piped.contains(&"k".repeat(300)) && piped.contains(&"注文".repeat(40)),
        "{piped}"
    );
    assert!(!piped.contains('…'), "{piped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_lists_say_how_to_see_more() {
    let db = orders().await;
    let list = ["events", "list", "--database-url", &db.url];
    let said = command(&[&list[..], &["--limit", "2"]].concat()).await.ok();
    assert!(
        said.contains("the newest 2; use --limit to see more"),
        "{said}"
    );
    let said = command(&[&list[..], &["--limit", "3"]].concat()).await.ok();
    assert!(!said.contains("--limit"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_script_are_found() {
    let db = orders().await;
    let key = "注文".repeat(40);
    let said = command(&[
        "events",
        "list",
        "-o",
        "json",
        "--key",
        &key,
        "--database-url",
        &db.url,
    ])
    .await
    .ok();
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found[0]["key"], *key);
}
