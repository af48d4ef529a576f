//! Files that pages refer to. Their paths hold a digest, so that browsers may keep them for good.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::BASE;

/// A file that pages refer to.
#[derive(Debug)]
pub(crate) struct Asset {
    /// Path from the root.
    pub(crate) path: String,
    content_type: &'static str,
    content: &'static str,
}

/// Style of all pages.
pub(crate) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../assets/console.css");
    Asset::new("console", "css", "text/css; charset=utf-8", content)
});

/// htmx 2.0.11, which renews parts of pages; under the Zero-Clause BSD licence.
pub(crate) static HTMX: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../assets/htmx.min.js");
    Asset::new("htmx", "js", "text/javascript; charset=utf-8", content)
});

/// What htmx does not do.
pub(crate) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../assets/console.js");
    Asset::new("console", "js", "text/javascript; charset=utf-8", content)
});

/// The icon of the console.
pub(crate) static ICON: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../assets/icon.svg");
    Asset::new("icon", "svg", "image/svg+xml", content)
});

impl Asset {
    fn new(name: &str, extension: &str, content_type: &'static str, content: &'static str) -> Self {
        let digest = URL_SAFE_NO_PAD.encode(&Sha256::digest(content)[..9]);
        Self {
            path: format!("{BASE}/assets/{name}-{digest}.{extension}"),
            content_type,
            content,
        }
    }
}

/// Returns all of them.
pub(crate) fn all() -> [&'static Asset; 4] {
    [&STYLE, &HTMX, &SCRIPT, &ICON]
}

impl IntoResponse for &'static Asset {
    fn into_response(self) -> Response {
        let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
        let kind = HeaderValue::from_static(self.content_type);
        (
            [(CONTENT_TYPE, kind), (CACHE_CONTROL, forever)],
            self.content,
        )
            .into_response()
    }
}
