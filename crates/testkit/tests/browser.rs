//! The browser: that it shows pages as asked for, tells what is wrong with them, reaches nothing else, and leaves
//! nothing behind.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, SET_COOKIE};
use axum::response::Html;
use axum::routing::get;
use observer_testkit::servers::browser::{Browser, Tab, View};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const POLICY: &str = "default-src 'none'; script-src 'self'";

const GOOD: &str = r#"<!doctype html>
<html lang="en">
<head><title>Orders</title><script src="/script.js" defer></script></head>
<body><main>
<h1>Orders</h1>
<p id="written">No script ran.</p>
<p id="hidden" hidden>Nobody sees this.</p>
<noscript>Scripts are off.</noscript>
<form action="/sent"><label>Name <input name="name" value="old"></label> <button>Send</button></form>
</main></body>
</html>"#;

const BAD: &str = r#"<!doctype html>
<html lang="en">
<head><title>Orders</title></head>
<body><main>
<h1>Orders</h1>
<img id="logo" src="/missing.png">
<input id="name">
<div style="height: 3000px"></div>
<script>
console.error("an error of the page");
console.warn("a warning of the page");
console.info("nothing to warn of");
</script>
</main></body>
</html>"#;

const SCRIPT: &str = "document.getElementById('written').textContent = 'A script ran.'";

/// Pages on an address of the loopback network, while this is kept.
struct Site {
    url: String,
    _server: JoinSet<()>,
}

async fn site(address: Ipv4Addr) -> Site {
    let policy = || [(CONTENT_SECURITY_POLICY, POLICY)];
    let script = [(CONTENT_TYPE, "text/javascript")];
    let cookie = [(SET_COOKIE, "session=secret; HttpOnly; SameSite=Strict")];
    let pages = Router::new()
        .route("/good", get(async move || (policy(), Html(GOOD))))
        .route("/bad", get(async || Html(BAD)))
        .route("/forbidden", get(async move || (policy(), Html(BAD))))
        .route("/script.js", get(async move || (script, SCRIPT)))
        .route("/login", get(async move || (cookie, Html(GOOD))))
        .route("/sent", get(async || Html("<h1>Sent</h1>")))
        .route("/favicon.ico", get(async || ""));
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, pages).await.unwrap() });
    Site {
        url,
        _server: server,
    }
}

/// A browser with one window, and the pages.
async fn shown(view: View) -> (Site, Browser, Tab) {
    let site = site(Ipv4Addr::LOCALHOST).await;
    let browser = Browser::start().await;
    let tab = browser.open(view).await;
    (site, browser, tab)
}

#[tokio::test]
async fn faults_are_named_and_a_good_page_has_none() {
    let (site, _browser, tab) = shown(View::default()).await;
    tab.goto(&format!("{}/good", site.url)).await;
    tab.wait_for("#written", "A script ran.").await;
    assert_eq!(tab.axe().await, [""; 0]);
    assert_eq!(tab.console_errors().await, [""; 0]);

    tab.goto(&format!("{}/bad", site.url)).await;
    let faults = tab.axe().await;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults[0].starts_with("image-alt (critical): "),
        "{faults:?}"
    );
    assert!(faults[0].ends_with(": #logo"), "{faults:?}");
    assert!(faults[1].starts_with("label (critical): "), "{faults:?}");
    assert!(faults[1].ends_with(": #name"), "{faults:?}");
    let told = tab.console_errors().await;
    assert_eq!(told.len(), 3, "{told:?}");
    for (severity, message) in [
        ("SEVERE: ", "an error of the page"),
        ("WARNING: ", "a warning of the page"),
        ("SEVERE: ", "/missing.png"),
    ] {
        let is_told = |line: &String| line.starts_with(severity) && line.contains(message);
        assert!(told.iter().any(is_told), "{message}: {told:?}");
    }
    assert_eq!(tab.console_errors().await, [""; 0], "they are told once");

    tab.goto(&format!("{}/forbidden", site.url)).await;
    let told = tab.console_errors().await.join("\n");
    assert!(told.contains("Content Security Policy"), "{told}");
    assert!(!told.contains("an error of the page"), "{told}");
}

#[tokio::test]
async fn width_and_colours_are_as_asked_for() {
    let site = site(Ipv4Addr::LOCALHOST).await;
    let browser = Browser::start().await;
    for (width, dark) in [(360, true), (1280, false)] {
        let view = View {
            width,
            dark,
            ..View::default()
        };
        let tab = browser.open(view).await;
        tab.goto(&format!("{}/bad", site.url)).await;
        let matches = format!(
            "return [matchMedia('(width: {width}px)').matches, matchMedia('(prefers-color-scheme: dark)').matches]"
        );
        assert_eq!(
            tab.evaluate(&matches).await,
            serde_json::json!([true, dark])
        );

        let picture = browser.folder().join("picture.png");
        tab.screenshot(&picture).await;
        let (wide, high) = size_of(&picture);
        assert_eq!(wide, width);
        assert!((3000..4000).contains(&high), "{high} pixels high");
        tab.close().await;
    }
}

/// Width and height of a PNG.
fn size_of(picture: &Path) -> (u32, u32) {
    let bytes = std::fs::read(picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[tokio::test]
async fn without_javascript_no_script_runs() {
    let view = View {
        javascript: false,
        ..View::default()
    };
    let (site, _browser, tab) = shown(view).await;
    tab.goto(&format!("{}/good", site.url)).await;
    assert_eq!(tab.text("#written").await, "No script ran.");
    assert_eq!(tab.text("noscript").await, "Scripts are off.");
    assert_eq!(tab.axe().await, [""; 0]);
    assert_eq!(tab.text("#written").await, "No script ran.");
    tab.goto(&format!("{}/bad", site.url)).await;
    assert_eq!(tab.axe().await.len(), 2);
    assert_eq!(tab.console_errors().await.len(), 1, "the picture");
}

#[tokio::test]
async fn forms_are_filled_by_hand_and_by_keyboard() {
    let (site, _browser, tab) = shown(View::default()).await;
    tab.goto(&format!("{}/good", site.url)).await;
    assert_eq!(tab.attribute("input", "name").await.unwrap(), "name");
    assert_eq!(tab.attribute("input", "alt").await, None);
    assert_eq!(tab.text("#hidden").await, "");
    tab.fill("input", "new").await;
    tab.click("button").await;
    tab.wait_for("h1", "Sent").await;
    assert_eq!(tab.url().await, format!("{}/sent?name=new", site.url));
    assert!(tab.source().await.contains("<h1>Sent</h1>"));

    tab.goto(&format!("{}/good", site.url)).await;
    for focused in ["input:focus", "button:focus"] {
        tab.press(Tab::TAB).await;
        tab.wait_for(focused, "").await;
    }
    tab.press(Tab::ENTER).await;
    tab.wait_for("h1", "Sent").await;
    assert_eq!(tab.url().await, format!("{}/sent?name=old", site.url));
}

#[tokio::test]
async fn each_window_has_cookies_of_its_own() {
    let (site, browser, tab) = shown(View::default()).await;
    tab.goto(&format!("{}/login", site.url)).await;
    tab.set_cookie("theme", "plain").await;
    let mut cookies = tab.cookies().await;
    cookies.sort_by_key(|cookie| cookie["name"].to_string());
    let [session, theme] = cookies.as_slice() else {
        panic!("two cookies: {cookies:?}");
    };
    assert_eq!(session["value"], "secret");
    assert_eq!(session["httpOnly"], true);
    assert_eq!(session["sameSite"], "Strict");
    assert_eq!(session.get("expiry"), None, "it ends with the browser");
    assert_eq!(theme["value"], "plain");

    let other = browser.open(View::default()).await;
    other.goto(&format!("{}/good", site.url)).await;
    assert_eq!(other.cookies().await.len(), 0);

    tab.delete_cookie("session").await;
    let left = tab.cookies().await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["name"], "theme");
}

#[tokio::test]
async fn nothing_but_its_own_address_is_reached() {
    let elsewhere = site(Ipv4Addr::new(127, 0, 0, 2)).await;
    let (site, _browser, tab) = shown(View::default()).await;
    tab.goto(&format!("{}/good", site.url)).await;
    for url in ["http://observers.test/", &elsewhere.url] {
        let go = format!(
            "return fetch('{url}', {{mode: 'no-cors'}}).then(() => 'reached', error => String(error))"
        );
        tab.goto(&format!("{}/bad", site.url)).await;
        tab.console_errors().await;
        assert_eq!(tab.evaluate(&go).await, "TypeError: Failed to fetch");
        let told = tab.console_errors().await.join("\n");
        assert!(told.contains("ERR_NAME_NOT_RESOLVED"), "{url}: {told}");
    }
}

#[tokio::test(flavor = "local")]
async fn nothing_is_left_of_a_browser_whose_test_panics() {
    let before = profiles();
    let (tell, told) = tokio::sync::oneshot::channel();
    let test = tokio::task::spawn_local(async move {
        let (site, browser, tab) = shown(View::default()).await;
        tab.goto(&format!("{}/good", site.url)).await;
        let alive = processes(browser.id(), browser.folder());
        tell.send((browser.id(), browser.folder().to_owned(), alive))
            .unwrap();
        panic!("as a test does");
    });
    assert!(test.await.unwrap_err().is_panic());
    let (id, folder, alive) = told.await.unwrap();
    assert!(alive > 3, "{alive} processes were found while it ran");
    assert_eq!(processes(id, &folder), 0);
    assert!(!folder.exists());
    assert_eq!(profiles(), before);
}

/// How many processes are in the session, or name the folder.
fn processes(session: u32, folder: &Path) -> usize {
    let folder = folder.to_str().unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|process| {
        let read = |name: &str| std::fs::read(process.path().join(name)).unwrap_or_default();
        let (status, line) = (read("stat"), read("cmdline"));
        let status = String::from_utf8_lossy(&status);
        let fields = status.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = fields.split(' ').collect();
        let is_in_session = fields.get(3) == Some(&session.to_string().as_str());
        let is_zombie = fields.first() == Some(&"Z");
        (is_in_session && !is_zombie) || String::from_utf8_lossy(&line).contains(folder)
    })
    .count()
}

/// What Chromium's own names are given to, in the folder for what is temporary.
fn profiles() -> Vec<PathBuf> {
    let all = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let paths = all.map(|entry| entry.path());
    paths
        .filter(|path| path.to_string_lossy().to_lowercase().contains("chrom"))
        .collect()
}
