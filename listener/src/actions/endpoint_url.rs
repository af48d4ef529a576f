//! Endpoint of an action, as logs and metrics name it.

use url::Url;

use super::Action;

impl Action {
    /// Returns scheme, host and port of the endpoint, without path, user or anything else that may be a
    /// secret.
    #[must_use]
    pub fn endpoint_url(&self) -> String {
        self.compiled
            .endpoint()
            .map_or_else(|| "the log".to_owned(), |(key, host)| named(key, host))
    }
}

fn named(key: &str, host: &str) -> String {
    let Ok(url) = Url::parse(key) else {
        return host.to_owned();
    };
    let scheme = url.scheme();
    match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => format!("{scheme}://{host}:{port}"),
        (Some(_), None) => format!("{scheme}://{host}"),
        (None, _) => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn endpoint_url_holds_no_secrets() {
        let url = "https://user:secret@shop.example/hook/secret?token=secret";
        assert_eq!(named(url, "shop.example"), "https://shop.example:443");
        let url = "postgres://user:secret@db/secret";
        assert_eq!(named(url, "db:5432"), "postgres://db:5432");
        let own = "the listener's own database";
        assert_eq!(named(own, own), own);
        assert_eq!(named("secret value://x", "host:1"), "host:1");
    }
}
