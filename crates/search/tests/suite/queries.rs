//! What queries find.

use observer_search::{Document, SearchError, SearchIndex};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::corpus::{LISTENER, QUERIES, corpus};
use crate::support::builders::with_new;
use crate::support::{Fixture, found, ids, request, seed, write};

pub(crate) async fn table_of_queries_finds_the_expected_documents(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let documents = corpus();
    write(&*index, &documents, documents.len() as u64).await;
    let mut wrong = Vec::new();
    for (query, expected) in QUERIES {
        let page = match index.search(&request(LISTENER, query)).await {
            Ok(page) => page,
            Err(error) => {
                wrong.push(format!("{query}: {error}"));
                continue;
            }
        };
        let mut found: Vec<&str> = ids(&page);
        found.reverse();
        let found = found.join(" ");
        let all: Vec<&str> = documents.iter().map(|one| one.id.as_str()).collect();
        let expected = if *expected == "all" {
            all.join(" ")
        } else {
            (*expected).to_owned()
        };
        if found != expected || page.total != page.hits.len() as u64 {
            wrong.push(format!(
                "{query}: expected [{expected}], found [{found}], {}",
                page.total
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} queries:\n{}",
        wrong.len(),
        QUERIES.len(),
        wrong.join("\n")
    );
    assert!(QUERIES.len() >= 40);
}

pub(crate) async fn invalid_queries_are_refused_with_their_position(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let deep = format!("{}x{}", "(".repeat(17), ")".repeat(17));
    let many = "x ".repeat(65);
    let long = "x".repeat(1025);
    let cases = [
        ("total:5", 0, "no field total: columns are new.total"),
        ("a (b", 2, "not closed"),
        ("a) b", 1, "no open parenthesis"),
        ("a \"b", 2, "quote is not closed"),
        ("a AND", 5, "missing"),
        ("OR a", 0, "missing"),
        ("()", 1, "missing"),
        ("NOT", 3, "missing"),
        ("new.total:", 10, "value must follow"),
        ("new.total: 5", 10, "value must follow"),
        ("new:5", 0, "name a column"),
        ("new.:5", 0, "empty"),
        ("new.total:>abc", 0, "numbers or of times"),
        ("new.total:>", 10, "must follow"),
        ("new.total:[1 TO", 10, "written as"),
        ("new.total:[1 TO 2", 10, "not closed"),
        ("new.total:[1 2]", 10, "written as"),
        ("new.total:[1 TO 2026-01-01]", 0, "from a number to a time"),
        ("[1 TO 2]", 0, "needs a field"),
        ("new.total:(1 OR 2)", 10, "takes one value"),
        ("word^2", 4, "weights"),
        ("\"a b\"~3", 5, "near each other"),
        ("roam~", 4, "like another"),
        ("roam~1", 4, "like another"),
        ("/jo.*n/", 0, "regular expressions"),
        ("a*b", 0, "end of a word"),
        ("*a", 0, "end of a word"),
        ("\"a b\"*", 5, "cannot end"),
        ("a && b", 2, "write AND"),
        ("a || b", 2, "write OR"),
        ("!a", 0, "write NOT"),
        ("a\\", 1, "backslash"),
        ("&", 0, "no word"),
        ("\u{e9} (b", 2, "not closed"),
        (&deep, 16, "nested"),
        (&many, 128, "at most 64"),
        (&long, 1024, "at most 1024 bytes"),
    ];
    for (query, expected, part) in cases {
        match index.search(&request("queries/invalid", query)).await {
            Err(SearchError::Query { position, message }) => {
                assert_eq!(position, expected, "{query}: {message}");
                assert!(message.contains(part), "{query}: {message}");
            }
            other => panic!("{query}: {other:?}"),
        }
    }
    let ranges = "new.a:>1 ".repeat(9);
    assert!(matches!(
        index.search(&request("queries/invalid", &ranges)).await,
        Err(SearchError::Query { position: 72, .. })
    ));
}

pub(crate) async fn words_and_values_beyond_the_bounds_do_no_harm(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let listener = "queries/bounds";
    let words: String = (0..30_000).map(|n| format!("w{n} ")).collect();
    let columns: Vec<String> = (0..5_000).map(|n| format!(r#""c{n}": {n}"#)).collect();
    let long = "é".repeat(100_000);
    let deep = format!(
        "{}\"bottom\"{}",
        "{\"a\":[".repeat(10_000),
        "]}".repeat(10_000)
    );
    let documents = [
        with_new(
            listener,
            1,
            &format!(r#"{{"text": "{words}", "next": "behind"}}"#),
        ),
        with_new(listener, 2, &format!("{{{}}}", columns.join(","))),
        with_new(
            listener,
            3,
            &format!(
                r#"{{"long": "{long}", "same": "{}"}}"#,
                "again ".repeat(2000)
            ),
        ),
        with_new(
            listener,
            4,
            &format!(r#"{{"deep": {deep}, "{}": "odd"}}"#, "n".repeat(5000)),
        ),
    ];
    write(&*index, &documents, 4).await;
    let cut = "é".repeat(127);
    for (query, expected) in [
        ("w1 w5000", 1),
        ("new.next:behind", 1),
        ("new.c5:5", 1),
        ("new.c5:>4", 1),
        (cut.as_str(), 1),
        (&"é".repeat(300), 1),
        (&format!("new.long:{}*", "é".repeat(300)), 1),
        (&format!("new.long:\"{}\"", "é".repeat(400)), 0),
        ("\"again again again\"", 1),
        ("bottom", 1),
        ("odd", 1),
        ("new.deep.a.a:*", 0),
    ] {
        let page = index.search(&request(listener, query)).await.unwrap();
        assert_eq!(page.total, expected, "{query}");
    }
}

/// Pieces of text that mean something to some server.
const PIECES: [&str; 44] = [
    "'",
    "\"",
    "\\",
    "*",
    ":*",
    "(",
    ")",
    "&",
    "|",
    "!",
    "<->",
    "<2>",
    ":A",
    "/",
    "//",
    "~",
    "^",
    "{",
    "}",
    "[",
    "]",
    "-",
    "AND",
    "OR",
    "NOT",
    "TO",
    ":",
    ">",
    "new.",
    "new.a:",
    "1e400",
    "--",
    ";",
    "$1",
    "%",
    "_",
    "\u{0}",
    "\u{200d}",
    "ß",
    "\u{301}",
    "{\"match_all\":{}}",
    " ",
    "word",
    "\u{1f389}",
];

pub(crate) async fn any_text_is_searched_or_refused(fixture: &dyn Fixture) {
    let index = fixture.open().await;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let listener = "queries/any";
    let mut documents = Vec::new();
    let text = |random: &mut StdRng, most| -> String {
        let count = random.random_range(0..most);
        (0..count)
            .map(|_| *PIECES.choose(random).unwrap())
            .collect()
    };
    for number in 0..20 {
        let (name, value) = (text(&mut random, 5), text(&mut random, 30));
        let new = serde_json::json!({ name: value, "text": text(&mut random, 30) });
        documents.push(with_new(listener, number, &new.to_string()));
    }
    write(&*index, &documents, 20).await;
    let mut searched = 0;
    for _ in 0..300 {
        let query = text(&mut random, 8);
        match index.search(&request(listener, &query)).await {
            Ok(page) => {
                searched += 1;
                assert!(page.total <= 20);
            }
            Err(SearchError::Query { .. }) => {}
            Err(error) => panic!("{query:?}, seed {seed}: {error}"),
        }
    }
    assert!(searched > 0);
    finds_itself(&*index, listener, &documents).await;
}

/// Every document is found by what it holds, put in quotes.
async fn finds_itself(index: &dyn SearchIndex, listener: &str, documents: &[Document]) {
    found(index, listener, documents.len() as u64).await;
    for document in documents {
        let new: serde_json::Value =
            serde_json::from_str(document.new.as_ref().unwrap().get()).unwrap();
        let text = new["text"].as_str().unwrap();
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let query = format!("new.text:\"{quoted}\"");
        let page = index.search(&request(listener, &query)).await.unwrap();
        assert!(ids(&page).contains(&document.id.as_str()), "{query:?}");
    }
}
