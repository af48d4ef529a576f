//! Proxy of HTTP requests, where the listener has one.

use crds::config::{Egress, ProxyConfig};
use percent_encoding::percent_decode_str;
use reqwest::Proxy;
use url::Url;

/// Returns the proxy of these rules, if there is one.
pub(crate) fn proxy(egress: &Egress) -> Option<Proxy> {
    let config = egress.proxy.clone()?;
    // Validation has parsed it.
    let mut url = Url::parse(config.url.reveal()).ok()?;
    let plain = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let user = plain(url.username());
    let password = url.password().map(plain).unwrap_or_default();
    let known = url.set_username("").and_then(|()| url.set_password(None));
    known.ok()?;
    let proxy = Proxy::custom(move |target| (!is_direct(&config, target)).then(|| url.clone()));
    Some(if user.is_empty() {
        proxy
    } else {
        proxy.basic_auth(&user, &password)
    })
}

/// Returns the name that is resolved to dial the proxy, where it has one.
pub(crate) fn name(egress: &Egress) -> Option<String> {
    let url = Url::parse(egress.proxy.as_ref()?.url.reveal()).ok()?;
    url.domain().map(str::to_owned)
}

/// Returns whether requests to a target bypass the proxy.
fn is_direct(config: &ProxyConfig, target: &Url) -> bool {
    target
        .host_str()
        .is_none_or(|host| config.is_bypassed(host))
}

#[cfg(test)]
mod tests;
