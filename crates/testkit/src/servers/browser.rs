//! A Chromium that pages are looked at with, driven over `WebDriver`.
//!
//! It reaches nothing but the loopback address. It keeps its profiles in a folder of its own, and ends
//! with its owner: a guardian kills the driver with all that it started, and removes the folder.

mod tab;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use serde_json::json;

use super::guardian::Guardian;
use crate::wait::{STALLED, eventually_or};

pub use tab::Tab;

/// The driver, of Debian's package chromium-driver; found along the path.
const PROGRAM: &str = "chromedriver";

/// Chromium's options. Its sandbox needs rights that containers do not give; what it shows here is the tests' own.
const OPTIONS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-proxy-server",
    "--force-color-profile=srgb",
    // They take no room on a phone.
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// Height of what a tab shows, in pixels.
const HEIGHT: u32 = 800;

/// `$1` the folder, `$2` the driver's process, which leads a session that the browsers are in. A read ends
/// when the owner does.
const GUARDIAN: &str = r#"
cat >/dev/null
# Some may be starting others.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    # After the name in parentheses: state, parent, group, session. The owner reaps the driver.
    alive=$(
        sed -n "s/^\([0-9]*\) (.*) [^ZX] [0-9]* [0-9]* $2 .*/\1/p" /proc/[0-9]*/stat 2>/dev/null
        # The handler of crashes leaves the session, and is given a place in the folder.
        echo "$1/" | grep -lsFf - /proc/[0-9]*/cmdline | sed 's/[^0-9]//g'
    )
    [ "$alive" ] || break
    kill -9 $alive
    sleep 0.1
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf "$1" && break
    sleep 0.1
done
"#;

/// How a page is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Width in pixels.
    pub width: u32,
    /// Whether the user prefers dark colours.
    pub dark: bool,
    /// Whether pages' scripts run.
    pub javascript: bool,
}

impl Default for View {
    fn default() -> Self {
        Self {
            width: 1280,
            dark: false,
            javascript: true,
        }
    }
}

/// A running driver, without a browser before a tab is opened; killed with all of them and removed when
/// dropped, or when the owner's process ends.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    folder: PathBuf,
    client: Client,
    url: String,
    guardian: Option<Guardian>,
}

impl Browser {
    /// Starts a driver, and waits until it listens.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("observers-browser-")
            .tempdir()
            .unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        // A session of its own is how the guardian knows what belongs to it, however it is started.
        let driver = Command::new("setsid")
            .args([PROGRAM, "--port=0"])
            .current_dir(folder.path())
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("setsid: {error}"));
        let id = driver.id().to_string();
        let guarded = [folder.path(), Path::new(&id)];
        let guardian = Guardian::watch(GUARDIAN, &guarded, None).unwrap();
        let mut browser = Self {
            driver,
            // From here on the guardian removes it.
            folder: folder.keep(),
            client: Client::builder()
                .no_proxy()
                // The driver itself ends a page or a script after that time.
                .timeout(STALLED * 2)
                .build()
                .unwrap(),
            url: String::new(),
            guardian: Some(guardian),
        };
        let port = eventually_or(
            async || browser.port(),
            async || format!("{PROGRAM} listens; it says:\n{}", browser.said()),
        )
        .await;
        browser.url = format!("http://127.0.0.1:{port}");
        browser
    }

    /// Opens a window that shows pages so, with a profile of its own.
    pub async fn open(&self, view: View) -> Tab {
        let limit = u64::try_from(STALLED.as_millis()).unwrap();
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": {"args": OPTIONS},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"pageLoad": limit, "script": limit},
        });
        let asked = json!({"capabilities": {"alwaysMatch": capabilities}});
        let sessions = format!("{}/session", self.url);
        let session = tab::ask(&self.client, &sessions, Some(&asked)).await;
        let session = session.unwrap_or_else(|error| {
            panic!(
                "no browser starts: {error}; the driver says:\n{}",
                self.said()
            )
        });
        let id = session["sessionId"].as_str().unwrap();
        Tab::new(self.client.clone(), format!("{sessions}/{id}"), view).await
    }

    /// Id of the driver's process and of the session that all its browsers are in.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.driver.id()
    }

    /// The folder that all it writes is in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the driver logged.
    fn said(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Where the driver listens, once it says so.
    fn port(&self) -> Option<u16> {
        let said = self.said();
        let (_, port) = said.split_once("started successfully on port ")?;
        port.split_once('.')?.0.parse().ok()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let killed = self.driver.kill();
        drop(self.guardian.take());
        if let Err(error) = killed.and_then(|()| self.driver.wait()) {
            tracing::warn!(%error, "{PROGRAM} may still be running");
        }
    }
}
