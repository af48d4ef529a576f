//! Where an action goes, in words for logs.

use super::Action;

impl Action {
    /// Scheme, host and port of the receiver, without path, user or anything else that may be a
    /// secret.
    #[must_use]
    pub fn receiver(&self) -> String {
        self.kind
            .endpoint()
            .map_or_else(|| "the log".to_owned(), |(key, host)| named(key, host))
    }
}

fn named(key: &str, host: &str) -> String {
    let scheme = key.split_once("://").map(|(scheme, _)| scheme);
    match scheme.filter(|scheme| scheme.chars().all(|c| c.is_ascii_alphanumeric())) {
        Some(scheme) => format!("{scheme}://{host}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_receiver_is_named_without_secrets() {
        let url = "https://user:secret@shop.example/hook/secret?token=secret";
        assert_eq!(named(url, "shop.example:443"), "https://shop.example:443");
        let own = "the listener's own database";
        assert_eq!(named(own, own), own);
        assert_eq!(named("secret value://x", "host:1"), "host:1");
    }
}
