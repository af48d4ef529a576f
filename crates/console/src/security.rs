//! What browsers are told, and which requests of theirs are refused.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};

/// Nothing from elsewhere, no script or style that stands in a page, no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Adds what browsers are told with every response.
pub(crate) fn add_headers(headers: &mut HeaderMap) {
    let all = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "same-origin"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
    ];
    for (name, value) in all {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pages hold data of rows.
    let no_store = HeaderValue::from_static("no-store");
    headers.entry(CACHE_CONTROL).or_insert(no_store);
}

/// Returns whether a form was sent by a page of the console itself.
///
/// After Go's `http.CrossOriginProtection`: browsers say so in `Sec-Fetch-Site` where they were reached by TLS
/// or on this machine, and send `Origin` with every form. What sends neither is no browser, and refused too.
pub(crate) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    match (text(FETCH_SITE), text(ORIGIN), text(HOST)) {
        (Some(site), _, _) => site == "same-origin",
        (None, Some(origin), Some(host)) => origin
            .split_once("://")
            .is_some_and(|(_, of_origin)| of_origin == host),
        _ => false,
    }
}

/// Returns whether the browser reached the console by TLS, as its form or a proxy says.
pub(crate) fn is_https(headers: &HeaderMap) -> bool {
    let begins = |name, with: &str| {
        let text = headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok());
        text.is_some_and(|text| text.to_ascii_lowercase().starts_with(with))
    };
    begins(ORIGIN, "https://") || begins(FORWARDED_PROTO, "https")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn forms_of_other_sites_are_refused() {
        let sent = |all: &[(HeaderName, &str)]| {
            let pairs = all.iter().cloned();
            let headers: HeaderMap = pairs
                .map(|(name, value)| (name, value.parse().unwrap()))
                .collect();
            is_same_origin(&headers)
        };
        let host = (HOST, "shop.example:9465");
        assert!(sent(&[(FETCH_SITE, "same-origin")]));
        assert!(sent(&[(ORIGIN, "http://shop.example:9465"), host.clone()]));
        for site in ["cross-site", "same-site", "none", ""] {
            let origin = (ORIGIN, "http://shop.example:9465");
            assert!(!sent(&[(FETCH_SITE, site), origin, host.clone()]), "{site}");
        }
        for origin in [
            "http://shop.example",
            "null",
            "http://evil.example",
            "shop.example:9465",
        ] {
            assert!(!sent(&[(ORIGIN, origin), host.clone()]), "{origin}");
        }
        assert!(!sent(&[host]));
        assert!(!sent(&[]));
    }
}
