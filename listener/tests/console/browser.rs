//! The console in a real browser, with a real listener behind it.
//!
//! Pictures of all pages are left in `target/console`.

use std::path::{Path, PathBuf};

use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::browser::{Browser, Tab, View};

use crate::api::shop::{ALL, Shop, texts};
use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, ready};
use crate::support::told::letters;
use crate::support::{database, eventually};

const WIDE: View = View {
    width: 1280,
    dark: false,
    javascript: true,
};

/// Ways to look at a page, and what their pictures are called.
const VIEWS: [(&str, View); 4] = [
    ("wide", WIDE),
    ("wide-dark", View { dark: true, ..WIDE }),
    ("narrow", View { width: 360, ..WIDE }),
    (
        "narrow-dark-without-javascript",
        View {
            width: 360,
            dark: true,
            javascript: false,
        },
    ),
];

fn pictures() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/console");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Logs in by the form.
async fn log_in(tab: &Tab, address: &str, token: &str) {
    tab.goto(&format!("http://{address}/console")).await;
    tab.fill("#token", token).await;
    tab.click("#login button").await;
    tab.wait_for("h1", "Overview").await;
}

/// Asserts that a page is as pages are to be: accessible, without errors, and not wider than the window.
async fn is_well(tab: &Tab, what: &str) {
    let found = tab.axe().await;
    assert!(found.is_empty(), "{what}: {found:#?}");
    let mut errors = tab.console_errors().await;
    // A query that is refused has a status that says so.
    errors.retain(|one| !(one.contains("q=%22") && one.contains("status of 400")));
    assert!(errors.is_empty(), "{what}: {errors:#?}");
    let excess =
        "const page = document.documentElement; return page.scrollWidth - page.clientWidth";
    assert_eq!(
        tab.evaluate(excess).await,
        0,
        "{what} is wider than the window"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_well_in_every_view() {
    let shop = Shop::open().await;
    let first = async |path: &str| {
        let page = shop.json(ALL, &format!("{path}?limit=1")).await;
        texts(&page, "id").remove(0)
    };
    let (event, letter, job) = (
        first("/search").await,
        first("/dead-letters").await,
        first("/jobs").await,
    );
    let pages = [
        ("overview", "/console".to_owned()),
        ("observers", "/console/observers".to_owned()),
        ("observer", "/console/observers/default%2Fall".to_owned()),
        ("events", "/console/events".to_owned()),
        (
            "events-found",
            "/console/events?q=marker&outcome=deadLetter".to_owned(),
        ),
        ("events-wrong", "/console/events?q=%22".to_owned()),
        ("event", format!("/console/events/{event}")),
        ("live", "/console/live".to_owned()),
        ("dead-letters", "/console/dead-letters".to_owned()),
        ("dead-letter", format!("/console/dead-letters/{letter}")),
        (
            "redrive",
            "/console/acts/redrive-dead-letters?all=true&kind=status".to_owned(),
        ),
        ("jobs", "/console/jobs".to_owned()),
        ("job", format!("/console/jobs/{job}")),
        ("backfills", "/console/backfills".to_owned()),
        ("caches", "/console/caches".to_owned()),
        ("audit", "/console/audit".to_owned()),
    ];
    let (browser, pictures) = (Browser::start().await, pictures());
    for (view, how) in VIEWS {
        let tab = browser.open(how).await;
        tab.goto(&format!("http://{}/console", shop.address)).await;
        is_well(&tab, &format!("login, {view}")).await;
        tab.screenshot(&pictures.join(format!("login-{view}.png")))
            .await;
        log_in(&tab, &shop.address, ALL).await;
        for (name, path) in &pages {
            tab.goto(&format!("http://{}{path}", shop.address)).await;
            tab.wait_for("h1", "").await;
            let failure = tab
                .evaluate(
                    "return document.querySelector('.problem[role=alert]')?.textContent ?? ''",
                )
                .await;
            assert!(
                failure == "" || *name == "events-wrong",
                "{name}, {view}: {failure}"
            );
            tab.screenshot(&pictures.join(format!("{name}-{view}.png")))
                .await;
            is_well(&tab, &format!("{name}, {view}")).await;
        }
        tab.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomer_finds_a_failing_receiver_and_redrives_what_it_refused() {
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let observers = observer("orders", "public.orders", &sink.url("/"), "");
    let config = Config::new(&db.url, "", &observers);
    let (health, address) = (free_address(), free_address());
    let args = [
        "run",
        "--listen",
        &health,
        "--api-listen",
        &address,
        "--console",
        "-f",
    ];
    let mut process = Process::start(&args, &config.path());
    ready(&health, 200).await;
    process.says("The console is at").await;
    let said = process.said();
    let link = said
        .split_whitespace()
        .find(|word| word.contains("/console/login#token="));
    db.run("insert into orders select generate_series(1, 7)")
        .await;
    letters(&db, 7).await;

    let browser = Browser::start().await;
    let tab = browser.open(WIDE).await;
    // The link fills in the form, and the address has no token afterwards.
    tab.goto(link.unwrap()).await;
    tab.wait_for("h1", "Log in").await;
    assert_eq!(tab.url().await, format!("http://{address}/console/login"));
    tab.click("#login button").await;
    tab.wait_for("h1", "Overview").await;
    assert_eq!(tab.url().await, format!("http://{address}/console"));
    tab.wait_for(".problem", "7 deliveries were given up").await;
    sink.behave(Behaviour::Ok);
    tab.click(".problem a").await;
    tab.wait_for("h1", "Dead letters").await;
    tab.click("[href*='/console/acts/redrive-dead-letters']")
        .await;
    tab.wait_for("main", "7").await;
    tab.click("main form button").await;
    tab.wait_for("[role=status]", "7").await;
    eventually("all are delivered", async || {
        (sink.counts().succeeded >= 7).then_some(())
    })
    .await;
    tab.goto(&format!("http://{address}/console")).await;
    tab.wait_for(".done", "Nothing is wrong").await;
    assert_eq!(tab.console_errors().await, [""; 0]);
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_rows_never_leave_their_place() {
    let db = database().await;
    db.run("create table orders (id text primary key, note text); select observer.track('orders')")
        .await;
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let observers = observer("orders", "public.orders", &sink.url("/"), "");
    let token = "a-token-of-many-letters";
    let spec = format!(
        "  search: {{postgres: {{}}}}\n  console: {{}}\n  api: {{tokens: [{{name: a, token: {{value: {token}}}, role: Operate}}]}}\n"
    );
    let config = Config::new(&db.url, &spec, &observers);
    let (health, address) = (free_address(), free_address());
    let args = ["run", "--listen", &health, "--api-listen", &address, "-f"];
    let _process = Process::start(&args, &config.path());
    ready(&health, 200).await;
    // As keys, which stand in lists, links and forms, and as values.
    let script = r#"<script>window.hacked=1</script><img src=x onerror=window.hacked=1>""#;
    let hostile = [
        script,
        "'\"><svg onload=window.hacked=1>",
        "\u{202e}gnirts",
        "a\u{7}b\u{1b}[31m",
        "javascript:window.hacked=1",
    ];
    for value in hostile {
        sqlx::query("insert into orders values ($1, $1)")
            .bind(value)
            .execute(&db.pool)
            .await
            .unwrap();
    }
    db.run("insert into orders values ('large', repeat('<b>x', 2500000))")
        .await;
    letters(&db, hostile.len() + 1).await;

    let browser = Browser::start().await;
    let tab = browser.open(WIDE).await;
    log_in(&tab, &address, token).await;
    let mut paths: Vec<String> = [
        "/console",
        "/console/events",
        "/console/dead-letters",
        "/console/live",
    ]
    .map(str::to_owned)
    .into();
    let ids: Vec<i64> = sqlx::query_scalar("select id from observer.dead_letter")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    paths.extend(ids.iter().map(|id| format!("/console/dead-letters/{id}")));
    let events: Vec<String> = sqlx::query_scalar("select event_id from observer.dead_letter")
        .fetch_all(&db.pool)
        .await
        .unwrap();
    paths.extend(events.iter().map(|id| format!("/console/events/{id}")));
    for value in hostile {
        let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        paths.push(format!("/console/events?q={value}&key={value}"));
        paths.push(format!("/console/dead-letters?key={value}"));
        paths.push(format!(
            "/console/acts/redrive-dead-letters?all=true&key={value}"
        ));
        paths.push(format!("/console/login?next={value}"));
        paths.push(format!("/console/observers/{}", value.replace('+', "%20")));
    }
    for path in &paths {
        tab.goto(&format!("http://{address}{path}")).await;
        tab.wait_for("h1", "").await;
        assert!(
            tab.evaluate("return window.hacked ?? null").await.is_null(),
            "{path}"
        );
        let length = tab.source().await.len();
        assert!(length < 1 << 20, "{path} has {length} bytes");
        let errors = tab.console_errors().await;
        // A value that is no query is refused, and says so with its status.
        let others: Vec<_> = errors
            .iter()
            .filter(|one| !one.contains("status of 4"))
            .collect();
        assert!(others.is_empty(), "{path}: {others:#?}");
    }
}
