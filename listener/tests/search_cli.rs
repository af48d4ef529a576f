//! `search`, and `events` with a history: what is found, what is shown of it, and what is refused.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::elasticsearch::{SearchServer, SearchServerKind};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;
use unicode_width::UnicodeWidthStr;

use crate::support::listener::{Config, Process, observer, program};
use crate::support::program::{Ended, command, on_terminal};
use crate::support::{TestDb, comes, database, eventually};

const SEARCH: &str = "  search: {postgres: {}}\n";

/// One observer whose endpoint accepts, one whose endpoint rejects, and one that large orders concern.
async fn shop(sink: &Sink, search: &str) -> (TestDb, Config) {
    let db = database().await;
    db.run(
        "create table orders (id text primary key, tenant text, total int, note text);
         select observer.track('orders', tenant => 'tenant')",
    )
    .await;
    sink.behave_at("/no", Behaviour::Status(400));
    let of =
        |name: &str, path: &str, more: &str| observer(name, "public.orders", &sink.url(path), more);
    let observers = [
        of("ok", "/ok", ""),
        of("rejected", "/no", ""),
        of("large", "/large", "  when: 'new.total > 1000'\n"),
    ];
    let config = Config::new(&db.url, search, &observers.concat());
    (db, config)
}

async fn run(config: &Config, command_line: &[&str]) -> Ended {
    let path = config.path();
    command(&[command_line, &["-f", path.to_str().unwrap()]].concat()).await
}

/// A page that a search finds.
async fn found(config: &Config, args: &[&str]) -> Value {
    let text = run(config, &[&["search", "-o", "json"], args].concat())
        .await
        .ok();
    serde_json::from_str(&text).unwrap()
}

fn total(page: &Value) -> u64 {
    page["total"].as_u64().unwrap()
}

fn keys(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|one| one["key"].as_str().unwrap())
        .collect()
}

fn deliveries<'a>(event: &'a Value, observer: &str) -> &'a Value {
    let observers = event["observers"].as_array().unwrap();
    let name = format!("default/{observer}");
    &observers
        .iter()
        .find(|one| one["observer"] == *name)
        .unwrap()["deliveries"]
}

/// Waits until so many events are found, all over.
async fn all_over(config: &Config, events: u64) {
    eventually(&format!("{events} events in the history"), async || {
        let over = [
            "NOT state:pending NOT state:retrying state:deadLetter",
            "--limit",
            "0",
        ];
        let all = total(&found(config, &["--limit", "0"]).await);
        (all == events && total(&found(config, &over).await) == events).then_some(())
    })
    .await;
}

/// Three orders of two tenants in the history, without a running listener.
async fn three_orders(sink: &Sink) -> (TestDb, Config) {
    let (db, config) = shop(sink, SEARCH).await;
    let process = Process::run(&config);
    db.run(
        "insert into orders values ('a', 'acme', 2000, 'a needle in the hay');
         insert into orders values ('b', 'acme', 50, 'hay «only»');
         insert into orders values ('注文', 'globex', 7, repeat('long ', 200) || 'needle')",
    )
    .await;
    all_over(&config, 3).await;
    process.stop().await;
    (db, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_events_are_found_with_their_outcomes() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (_db, config) = three_orders(&sink).await;

    let page = found(&config, &["needle", "new.total:>100"]).await;
    assert_eq!((total(&page), keys(&page)), (1, vec!["a"]));
    let event = &page["items"][0];
    assert_eq!(deliveries(event, "ok")[0]["state"], "delivered");
    assert_eq!(deliveries(event, "rejected")[0]["state"], "deadLetter");
    assert_eq!(event["new"]["total"], 2000);
    let highlight = json!({"field": "new.note", "text": "a «needle» in the hay"});
    let highlights = event["highlights"].as_array().unwrap();
    assert!(highlights.contains(&highlight), "{highlights:?}");
    assert_eq!(page["next"], Value::Null);

    let count = async |args: &[&str]| total(&found(&config, args).await);
    assert_eq!(count(&[]).await, 3);
    assert_eq!(count(&["--tenant", "acme"]).await, 2);
    assert_eq!(count(&["--tenant", "acme", "needle"]).await, 1);
    assert_eq!(count(&["--tenant", "nobody"]).await, 0);
    assert_eq!(count(&["--key", "注文"]).await, 1);
    assert_eq!(
        count(&["--entity", "public.orders", "--operation", "insert"]).await,
        3
    );
    assert_eq!(count(&["--operation", "delete,update"]).await, 0);
    assert_eq!(count(&["--observer", "large"]).await, 1);
    assert_eq!(
        count(&["--observer", "default/ok", "--outcome", "delivered"]).await,
        3
    );
    assert_eq!(
        count(&["--observer", "ok", "--outcome", "dead-letter"]).await,
        0
    );
    assert_eq!(
        count(&["--outcome", "dead-letter,dropped", "--action", "post"]).await,
        3
    );
    assert_eq!(count(&["--from", "1h"]).await, 3);
    assert_eq!(count(&["--to", "1h"]).await, 0);
    assert_eq!(count(&["status:400"]).await, 3);

    let page = found(&config, &["--facets", "--limit", "0", "--tenant", "acme"]).await;
    assert_eq!(page["items"], json!([]));
    assert_eq!(
        page["facets"]["entity"],
        json!([{"value": "public.orders", "count": 2}])
    );
    let outcomes = page["facets"]["outcome"].as_array().unwrap();
    assert!(
        outcomes.contains(&json!({"value": "deadLetter", "count": 2})),
        "{outcomes:?}"
    );

    let text = run(&config, &["search", "needle", "--facets"]).await.ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("ID  ") && lines[0].ends_with("  OUTCOME"),
        "{text}"
    );
    assert!(
        lines[1].contains("  注文  ") && lines[1].ends_with("  delivered, dead letter"),
        "{text}"
    );
    assert!(
        text.contains("\n    new.note: a «needle» in the hay\n2 events match\n"),
        "{text}"
    );
    assert!(
        text.contains("\nFACET ") && text.contains("public.orders"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_from_the_history_with_their_attempts() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at(
        "/ok",
        Behaviour::FailFirst {
            times: 1,
            status: 503,
        },
    );
    let (db, config) = three_orders(&sink).await;
    // What the log no longer holds, the history still tells.
    db.run("delete from observer.change_log").await;
    let listed = run(&config, &["events", "list", "--key", "a", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&listed.ok()).unwrap();
    assert_eq!(listed[0]["readFrom"], "history");
    let id = listed[0]["id"].as_str().unwrap();

    let text = run(&config, &["events", "show", id]).await.ok();
    for part in [
        "Insert of public.orders at 20",
        "\ntenant: acme\n",
        "\ndefault/large: matched\n  post: delivered, 1 attempt\n    20",
        "default/ok: matched\n  post: delivered, 2 attempts\n    20",
        "Z  failed after ",
        " ms, status 503: ",
        "Z  succeeded in ",
        "default/rejected: matched\n  post: dead letter ",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let received = sink.received();
    let webhook = &received
        .iter()
        .find(|one| one.target() == "/large")
        .unwrap()
        .webhook_id;
    let shown = run(&config, &["events", "show", webhook, "-o", "json"]).await;
    let shown: Value = serde_json::from_str(&shown.ok()).unwrap();
    assert_eq!(
        (&shown["key"], &shown["readFrom"]),
        (&"a".into(), &"history".into())
    );
    let delivery = &deliveries(&shown, "large")[0];
    assert!(delivery["history"][0]["tookMs"].is_u64(), "{delivery}");

    let list = run(
        &config,
        &["events", "list", "--tenant", "acme", "--limit", "1"],
    )
    .await;
    assert!(
        list.out.contains("  b  ") && list.out.contains("the newest 1"),
        "{}",
        list.said()
    );
    let small = run(&config, &["events", "show", &second(&list.out)])
        .await
        .ok();
    assert!(
        small.contains("default/large: not matched, `new.total > 1000` is false"),
        "{small}"
    );

    let ended = run(&config, &["events", "show", "3c5bf38d-140-6615e1afaa36c"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .err
            .contains("the history of default/test holds 3 events since 20"),
        "{}",
        ended.said()
    );
    let ended = run(&config, &["events", "list", "--log"]).await;
    assert!(
        ended
            .out
            .contains("no event matches; the change log is empty"),
        "{}",
        ended.said()
    );
}

/// The id in the first row of a table.
fn second(table: &str) -> String {
    let row = table.lines().nth(1).unwrap();
    row.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_continue_and_all_come_to_an_end() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (db, config) = shop(&sink, SEARCH).await;
    let process = Process::run(&config);
    db.run("insert into orders select n::text, 't', n, 'x' from generate_series(1, 1207) n")
        .await;
    all_over(&config, 1207).await;
    process.stop().await;

    for sort in ["newest", "oldest"] {
        let mut seen = Vec::new();
        let mut page = found(&config, &["--sort", sort, "--limit", "700"]).await;
        loop {
            seen.extend(keys(&page).into_iter().map(str::to_owned));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            page = found(
                &config,
                &["--sort", sort, "--limit", "700", "--cursor", next],
            )
            .await;
        }
        let all = run(&config, &["search", "--all", "-o", "json", "--sort", sort])
            .await
            .ok();
        let all: Vec<String> = all
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["key"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(all.len(), 1207);
        assert_eq!(seen, all);
        let ends = (all[0].as_str(), all[1206].as_str());
        let expected = if sort == "oldest" {
            ("1", "1207")
        } else {
            ("1207", "1")
        };
        assert_eq!(ends, expected);
    }
    let text = run(&config, &["search", "--limit", "2"]).await.ok();
    let next = text.lines().last().unwrap();
    assert!(
        next.starts_with("2 of 1207 events that match; --cursor "),
        "{text}"
    );
    let text = run(&config, &["search", "--all"]).await.ok();
    assert!(text.ends_with("\n1207 events match\n"), "{text}");

    // As `| head -1` does.
    for output in ["json", "table"] {
        let path = config.path();
        let mut child = Command::new(program())
            .args([
                "search",
                "--all",
                "-o",
                output,
                "-f",
                path.to_str().unwrap(),
            ])
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = BufReader::with_capacity(1, child.stdout.take().unwrap());
        let mut first = String::new();
        comes("a line", out.read_line(&mut first)).await.unwrap();
        drop(out);
        let mut err = String::new();
        let mut stderr = child.stderr.take().unwrap();
        comes("its end", stderr.read_to_string(&mut err))
            .await
            .unwrap();
        let status = comes("its end", child.wait()).await.unwrap();
        assert_eq!((status.code(), &*err), (Some(0), ""), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colour_and_width_are_those_of_the_terminal() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (_db, config) = three_orders(&sink).await;
    let path = config.path();
    let search = ["search", "-f", path.to_str().unwrap(), "needle", "--facets"];
    for (columns, width) in [("90", 90), ("120", 120), ("", 80)] {
        let lines = on_terminal(&search, &[("COLUMNS", columns)]).await;
        let coloured = lines
            .iter()
            .filter(|line| line.contains("\u{1b}[1;33mneedle\u{1b}[0m"));
        assert_eq!(coloured.count(), 2, "{lines:?}");
        for line in &lines {
            let shown = line.replace("\u{1b}[1;33m", "").replace("\u{1b}[0m", "");
            assert!(
                shown.width() <= width && !shown.contains('\u{1b}'),
                "{line:?}"
            );
            assert!(!line.contains('«'), "{line:?}");
        }
    }
    let plain = [("COLUMNS", "90"), ("NO_COLOR", "1")];
    let lines = on_terminal(&search, &plain).await;
    assert!(
        lines.iter().any(|line| line.contains("«needle»")),
        "{lines:?}"
    );
    assert!(!lines.concat().contains('\u{1b}'), "{lines:?}");
    let dumb = [("TERM", "dumb")];
    assert!(
        !on_terminal(&search, &dumb)
            .await
            .concat()
            .contains('\u{1b}')
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_that_cannot_be_are_refused_with_a_remedy() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (_db, config) = three_orders(&sink).await;
    for (args, told) in [
        (
            vec!["paid", "new.total:>abc"],
            "at character 6: a range is one of numbers or of times",
        ),
        (vec!["total:1"], "columns are new.total and old.total"),
        (vec!["a", "(b"], "  a (b\n    ^"),
        (
            vec!["--observer", "nobody"],
            "no observer default/nobody; its observers are default/large, default/ok",
        ),
        (
            vec!["--action", "fax"],
            "no action fax; its actions are post",
        ),
        (vec!["--cursor", "3"], "3c5bf38d-140-6615e1afaa36c"),
        (vec!["--outcome", "lost"], "dead-letter"),
        (vec!["--from", "soon"], "2026-03-01T12:00:00Z"),
        (vec!["--limit", "1001"], "0..=1000"),
        (vec!["--all", "--limit", "3"], "cannot be used with"),
    ] {
        let ended = run(&config, &[&["search"], &*args].concat()).await;
        assert_eq!(ended.code, Some(2), "{args:?} {}", ended.said());
        assert!(ended.err.contains(told), "{told:?} in {}", ended.said());
        assert_eq!(ended.out, "");
    }
    let text = run(&config, &["search", "--entity", "orders"]).await.ok();
    let told = "no event matches; the history of default/test holds 3 events since 20";
    assert!(
        text.starts_with(told) && text.contains("such as public.orders"),
        "{text}"
    );
    let text = run(&config, &["search", "--tenant", "nobody"]).await.ok();
    assert!(text.contains("holds no event of tenant nobody"), "{text}");
    let ended = command(&["search", "needle"]).await;
    assert!(ended.err.contains("--file <FILE>"), "{}", ended.said());

    config.change("  search: {postgres: {}}\n", "");
    let ended = run(&config, &["search", "needle"]).await;
    assert_eq!(ended.code, Some(2));
    assert!(
        ended
            .err
            .contains("keeps no history to search: add `search: {postgres: {}}`"),
        "{}",
        ended.said()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn change_log_is_read_while_the_index_is_away() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let nowhere = "  search: {elasticsearch: {url: {value: \"http://127.0.0.1:1\"}}}\n";
    let (db, config) = shop(&sink, nowhere).await;
    db.run("insert into orders values ('a', 'acme', 2000, '')")
        .await;
    let ended = run(&config, &["events", "list", "-o", "json"]).await;
    let told = "reading the change log instead";
    assert!(ended.err.contains(told), "{}", ended.said());
    let listed: Value = serde_json::from_str(&ended.ok()).unwrap();
    assert_eq!(
        (&listed[0]["key"], &listed[0]["readFrom"]),
        (&"a".into(), &"changeLog".into())
    );
    let ended = run(
        &config,
        &["events", "show", listed[0]["id"].as_str().unwrap()],
    )
    .await;
    assert!(ended.err.contains(told), "{}", ended.said());
    assert!(ended.ok().contains("post: pending"));
    let quiet = run(&config, &["events", "list", "--log"]).await;
    assert!(!quiet.err.contains(told), "{}", quiet.said());

    let ended = run(&config, &["search", "needle"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("the search index is not available")
            && ended.err.contains("`events list --log`"),
        "{}",
        ended.said()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_elasticsearch_is_searched() {
    let server = SearchServer::start(SearchServerKind::Elasticsearch9, &[]).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let search = format!(
        "  search: {{elasticsearch: {{url: {{value: \"{}\"}}, index: shop}}}}\n",
        server.url()
    );
    let (db, config) = shop(&sink, &search).await;
    let empty = run(&config, &["search", "needle"]).await.ok();
    assert!(
        empty.contains("holds no event: the listener writes them while it runs"),
        "{empty}"
    );
    let process = Process::run(&config);
    db.run(
        "insert into orders values ('a', 'acme', 2000, 'a needle'), ('b', 'globex', 3, 'a needle')",
    )
    .await;
    all_over(&config, 2).await;
    process.stop().await;
    let page = found(&config, &["needle", "new.total:>100", "--facets"]).await;
    assert_eq!((total(&page), keys(&page)), (1, vec!["a"]));
    assert_eq!(
        deliveries(&page["items"][0], "large")[0]["state"],
        "delivered"
    );
    assert_eq!(page["facets"]["entity"][0]["count"], 1);
    let first = found(&config, &["--limit", "1"]).await;
    let next = first["next"].as_str().unwrap();
    let second = found(&config, &["--limit", "1", "--cursor", next]).await;
    assert_eq!((keys(&first), keys(&second)), (vec!["b"], vec!["a"]));
    let of_tenant = found(&config, &["--tenant", "globex"]).await;
    assert_eq!(keys(&of_tenant), vec!["b"]);
    let id = second["items"][0]["id"].as_str().unwrap();
    let shown = run(&config, &["events", "show", id]).await.ok();
    assert!(
        shown.contains("post: delivered, 1 attempt\n    20"),
        "{shown}"
    );
    let ended = run(&config, &["search", "paid new.total:>abc"]).await;
    assert!(ended.err.contains("at character 6:"), "{}", ended.said());
}
