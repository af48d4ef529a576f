//! One window of a browser: a session of `WebDriver`, which is JSON over HTTP.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Client;
use serde_json::{Value, json};

use super::{HEIGHT, View};
use crate::servers::prepared;
use crate::wait::eventually_or;

/// The key under which `WebDriver` tells the id of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// What a reader sees of the first element that is like the argument, also in `noscript`; null if there is none.
const SHOWN: &str = "
const element = document.querySelector(arguments[0]);
return element && (element.checkVisibility({visibilityProperty: true}) ? element.innerText : '');
";

/// Runs after axe-core itself; the last argument is called with the result. It fetches no style sheets again.
const AXE: &str = "
const done = arguments[arguments.length - 1];
axe.run(document, {preload: false, resultTypes: ['violations']}).then(
    found => done(found.violations.map(({id, impact, help, nodes}) =>
        `${id} (${impact}): ${help}: ${nodes.map(node => node.target.join(' ')).join(', ')}`)),
    error => done('axe: ' + error));
";

/// A window with a profile of its own: cookies and a cache that no other has. What it is asked and cannot do
/// fails the test.
#[derive(Debug)]
pub struct Tab {
    client: Client,
    url: String,
    view: View,
}

impl Tab {
    /// The key that moves the focus on.
    pub const TAB: &str = "\u{E004}";
    /// The key that presses what has the focus, and sends a form.
    pub const ENTER: &str = "\u{E007}";

    /// Shows pages so in a new session.
    pub(super) async fn new(client: Client, url: String, view: View) -> Self {
        let tab = Self { client, url, view };
        // A window has a least width, and a frame.
        let metrics =
            json!({"width": view.width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": false});
        tab.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let scheme = if view.dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        tab.devtools("Emulation.setEmulatedMedia", media).await;
        tab.run_scripts(view.javascript).await;
        tab
    }

    /// Closes the window; else it is open until its browser ends.
    pub async fn close(self) {
        let answer = self.client.delete(&self.url).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Goes to a page, and waits until it is loaded.
    pub async fn goto(&self, url: &str) {
        self.post("url", json!({"url": url})).await;
    }

    /// Address of the page.
    pub async fn url(&self) -> String {
        text_of(self.get("url").await)
    }

    /// The page's HTML as it is now.
    pub async fn source(&self) -> String {
        text_of(self.get("source").await)
    }

    /// Text that a reader sees of the first such element.
    pub async fn text(&self, css: &str) -> String {
        match self.shown(css).await {
            Ok(Some(text)) => text,
            Ok(None) => self.lacks(css).await,
            Err(error) => panic!("text of {css:?}: {error}"),
        }
    }

    /// An attribute of the first such element, if it has that.
    pub async fn attribute(&self, css: &str, name: &str) -> Option<String> {
        let element = self.element(css).await;
        let value = self.get(&format!("{element}/attribute/{name}")).await;
        value.as_str().map(str::to_owned)
    }

    /// Clicks the first such element as a mouse does: one that is hidden or covered fails the test.
    pub async fn click(&self, css: &str) {
        let element = self.element(css).await;
        self.post(&format!("{element}/click"), json!({})).await;
    }

    /// Types a text into the first such element, in place of what is there.
    pub async fn fill(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.post(&format!("{element}/clear"), json!({})).await;
        self.post(&format!("{element}/value"), json!({"text": text}))
            .await;
    }

    /// Presses a key, [`Self::TAB`] for example, and lets it go; it goes to what has the focus, which is `:focus`
    /// in CSS.
    pub async fn press(&self, key: &str) {
        let strokes = ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key}));
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": strokes});
        self.post("actions", json!({"actions": [keyboard]})).await;
    }

    /// Waits until an element is like that and has this text in what a reader sees of it; any text if empty.
    pub async fn wait_for(&self, css: &str, text: &str) {
        // Where a page goes, its script may end with it.
        let found = async || {
            let shown = self.shown(css).await.ok()??;
            shown.contains(text).then_some(())
        };
        eventually_or(found, async || {
            let (url, source) = (self.url().await, self.source().await);
            let errors = self.console_errors().await.join("\n");
            format!("{css:?} with {text:?} at {url}\n{errors}\n{source}")
        })
        .await;
    }

    /// Errors and warnings of the page's console since the last call, a line each: what scripts said and threw,
    /// what could not be loaded, and what the policy of the page forbade.
    pub async fn console_errors(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().unwrap().iter();
        let told =
            entries.filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        told.map(|entry| format!("{}: {}", text_at(entry, "level"), text_at(entry, "message")))
            .collect()
    }

    /// What axe-core finds wrong with the accessibility of the page, a line for each rule: its id, the impact,
    /// what it asks for, and selectors of the elements.
    pub async fn axe(&self) -> Vec<String> {
        let folder = prepared("axe-core-").expect("no axe-core in the cache: run `make prepare`");
        let axe = std::fs::read_to_string(folder.join("axe.min.js")).unwrap();
        let script = json!({"script": format!("{axe}\n{AXE}"), "args": []});
        // It waits for timers, which count as the page's scripts. Those that did not run do not run now either.
        self.run_scripts(true).await;
        let found = self.post("execute/async", script).await;
        self.run_scripts(self.view.javascript).await;
        let found = found.as_array().unwrap_or_else(|| panic!("{found}"));
        found.iter().map(|line| text_of(line.clone())).collect()
    }

    /// What the body of a function comes to in the page, whatever the page's policy forbids.
    pub async fn evaluate(&self, body: &str) -> Value {
        self.post("execute/sync", json!({"script": body, "args": []}))
            .await
    }

    /// Writes a picture of the whole page, also of what is to be scrolled to, as PNG.
    pub async fn screenshot(&self, path: &Path) {
        let metrics = self.devtools("Page.getLayoutMetrics", json!({})).await;
        let size = &metrics["cssContentSize"];
        let clip =
            json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let whole = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.devtools("Page.captureScreenshot", whole).await;
        let picture = BASE64_STANDARD.decode(text_at(&picture, "data")).unwrap();
        std::fs::write(path, picture).unwrap();
    }

    /// Cookies that the page's requests have, with their attributes as `WebDriver` names them.
    pub async fn cookies(&self) -> Vec<Value> {
        let Value::Array(cookies) = self.get("cookie").await else {
            panic!("cookies are a list");
        };
        cookies
    }

    /// Sets a cookie for the page's host, which must be open.
    pub async fn set_cookie(&self, name: &str, value: &str) {
        let cookie = json!({"name": name, "value": value});
        self.post("cookie", json!({"cookie": cookie})).await;
    }

    /// Removes a cookie of the page's host.
    pub async fn delete_cookie(&self, name: &str) {
        let url = format!("{}/cookie/{name}", self.url);
        let answer = self.client.delete(url).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Whether scripts of pages run from now on.
    async fn run_scripts(&self, run: bool) {
        let disabled = json!({"value": !run});
        self.devtools("Emulation.setScriptExecutionDisabled", disabled)
            .await;
    }

    /// Sends a command of the `DevTools` protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = json!({"cmd": command, "params": parameters});
        self.post("goog/cdp/execute", command).await
    }

    async fn shown(&self, css: &str) -> Result<Option<String>, String> {
        let script = json!({"script": SHOWN, "args": [css]});
        let shown = self.ask("execute/sync", Some(&script)).await?;
        Ok(shown.as_str().map(str::to_owned))
    }

    /// Path of the first such element, which must be there.
    async fn element(&self, css: &str) -> String {
        let by = json!({"using": "css selector", "value": css});
        let found = self.post("elements", by).await;
        match found[0][ELEMENT].as_str() {
            Some(id) => format!("element/{id}"),
            None => self.lacks(css).await,
        }
    }

    async fn lacks(&self, css: &str) -> ! {
        panic!(
            "no {css:?} at {}:\n{}",
            self.url().await,
            self.source().await
        )
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.ask(path, None).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.ask(path, Some(&body)).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, String> {
        ask(&self.client, &format!("{}/{path}", self.url), body).await
    }
}

/// Sends a command, and returns its value or why it failed.
pub(super) async fn ask(client: &Client, url: &str, body: Option<&Value>) -> Result<Value, String> {
    let request = match body {
        Some(body) => client.post(url).body(body.to_string()),
        None => client.get(url),
    };
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let failed = !answer.status().is_success();
    let answer = answer.text().await.map_err(|error| format!("{error:?}"))?;
    let mut answer: Value = serde_json::from_str(&answer).map_err(|_| answer)?;
    let value = answer["value"].take();
    if failed {
        Err(format!(
            "{}: {}",
            text_at(&value, "error"),
            text_at(&value, "message")
        ))
    } else {
        Ok(value)
    }
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => panic!("no text: {other}"),
    }
}

fn text_at<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
