//! Redaction: takes an action's secrets out of what other parties say about it.
//!
//! Endpoints repeat what they were sent ("no such token: ..."), and errors name addresses.
//! Both end up in dead letters and logs, so both pass through here.

use crate::text::on_one_line;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use crds::config::Redacted;
use url::Url;

use crate::delivery::failure::Failure;
use crate::delivery::outcome::Outcome;

/// What stands for a secret.
const MARK: &str = "[redacted]";

/// Longest excerpt, in characters.
const MAX_EXCERPT: usize = 200;

/// Longest message, in characters.
const MAX_MESSAGE: usize = 1000;

/// Parts of a URL shorter than this are words rather than tokens.
const MIN_PART: usize = 6;

/// Redactor of texts, the longest first.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Vec<String>);

/// Secrets of an action.
#[derive(Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds the secrets of a URL: user, password, path, query, and their parts. What is no URL is a
    /// secret as a whole; validation reports it.
    pub(crate) fn url(&mut self, url: &Redacted) {
        match Url::parse(url.reveal()) {
            Ok(url) => self.0.extend(of_url(&url)),
            Err(_) => self.0.push(url.reveal().to_owned()),
        }
    }

    /// Adds a secret, with and without a prefix such as `Bearer ` or `whsec_`.
    pub(crate) fn secret(&mut self, secret: &str) {
        add(&mut self.0, secret);
    }

    /// Adds a password, also as protocols send it with its user.
    pub(crate) fn login(&mut self, user: &Redacted, password: &Redacted) {
        add_login(&mut self.0, user.reveal(), password.reveal());
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scrub({} secrets)", self.0.len())
    }
}

impl Redactor {
    /// Redacts the URL's secrets: user, password, path, query, and each part of them that is
    /// long enough to be a token; and the `secrets` themselves, with and without a prefix
    /// such as `Bearer ` or `whsec_`.
    pub(crate) fn new<'a>(url: &Url, secrets: impl Iterator<Item = &'a str>) -> Self {
        let mut texts = of_url(url);
        for secret in secrets {
            add(&mut texts, secret);
        }
        Self::of_texts(texts)
    }

    /// Redacts these secrets.
    pub(crate) fn of(secrets: Secrets) -> Self {
        Self::of_texts(secrets.0)
    }

    fn of_texts(mut texts: Vec<String>) -> Self {
        // The path of a URL without one, or an empty password, is no secret.
        texts.retain(|text| text.len() > 1);
        texts.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        texts.dedup();
        Self(texts)
    }

    /// Redacts the message of an outcome.
    pub(crate) fn redact_outcome(&self, mut outcome: Outcome) -> Outcome {
        if let Outcome::Retry { failure, .. } | Outcome::Rejected(failure) = &mut outcome {
            self.redact_failure(failure);
        }
        outcome
    }

    fn redact_failure(&self, failure: &mut Failure) {
        failure.message = cut(self.redact(&on_one_line(&failure.message)), MAX_MESSAGE);
    }

    /// Redacts a text.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            if text.contains(secret.as_str()) {
                text.replace(secret.as_str(), MARK)
            } else {
                text
            }
        })
    }

    /// Returns the beginning of a body, on one line and redacted.
    pub(crate) fn excerpt(&self, body: &[u8]) -> String {
        let line = on_one_line(&String::from_utf8_lossy(body));
        cut(self.redact(line.trim()), MAX_EXCERPT)
    }
}

/// Cuts a text.
fn cut(text: String, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The secrets of a URL.
fn of_url(url: &Url) -> Vec<String> {
    let path = url.path();
    let query = url.query().unwrap_or_default();
    let mut texts = vec![url.as_str().to_owned(), format!("{path}?{query}")];
    let user = plain(url.username());
    match url.password() {
        Some(password) => {
            texts.push(password.to_owned());
            add_login(&mut texts, &user, &plain(password));
        }
        // A token, as of NATS.
        None if user.len() >= MIN_PART => add(&mut texts, &user),
        None => {}
    }
    let pairs = url.query_pairs().map(|(_, value)| value.into_owned());
    let parts = path
        .split('/')
        .chain(query.split(['&', '=']))
        .chain([path, query, url.username()])
        .map(str::to_owned)
        .chain(pairs);
    texts.extend(parts.filter(|part| part.len() >= MIN_PART));
    let named = url.query_pairs().filter(|(name, _)| name == "password");
    for (_, password) in named {
        add_login(&mut texts, &user, &password);
    }
    texts
}

/// A secret, with and without a prefix, and encoded.
fn add(texts: &mut Vec<String>, secret: &str) {
    let secret = secret.trim();
    if secret.is_empty() {
        return;
    }
    texts.push(secret.to_owned());
    texts.extend(encoded(secret.as_bytes()));
    if let Some((_, token)) = secret.split_once([' ', '_', ':']) {
        let token = token.trim();
        texts.push(token.to_owned());
        if token.len() > 1 {
            texts.extend(encoded(token.as_bytes()));
        }
    }
}

/// A password, and with its user as protocols send both.
fn add_login(texts: &mut Vec<String>, user: &str, password: &str) {
    let (user, password) = (user.trim(), password.trim());
    if password.is_empty() {
        return;
    }
    texts.push(password.to_owned());
    texts.extend(encoded(password.as_bytes()));
    texts.extend(encoded(format!("{user}:{password}").as_bytes()));
    texts.extend(encoded(format!("\0{user}\0{password}").as_bytes()));
}

fn encoded(secret: &[u8]) -> [String; 4] {
    // Without padding last, since that is a part of what has some.
    [STANDARD, URL_SAFE, STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|engine| engine.encode(secret))
}

/// A part of a URL without its escapes.
fn plain(part: &str) -> String {
    percent_encoding::percent_decode_str(part)
        .decode_utf8_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::delivery::failure::FailureKind;

    fn redactor() -> Redactor {
        let url = Url::parse(
            "https://user:pa55@hooks.example.com/services/T000AAAA/tok%21en99?sig=abc%20def",
        );
        let secrets = ["Bearer s3cr3t", "whsec_MfKQ9r8GKYqr"];
        Redactor::new(&url.unwrap(), secrets.into_iter())
    }

    #[test]
    fn echoed_secrets_are_redacted() {
        let redactor = redactor();
        for (said, secret) in [
            ("no service /services/T000AAAA/tok%21en99", "T000AAAA"),
            ("unknown team T000AAAA", "T000AAAA"),
            ("bad tok%21en99", "en99"),
            ("sig `abc def` is wrong", "abc def"),
            ("password pa55?", "pa55"),
            ("Authorization: Bearer s3cr3t", "s3cr3t"),
            ("token s3cr3t", "s3cr3t"),
            ("s3c\u{0}r3t", "s3c"),
            ("key MfKQ9r8GKYqr", "MfKQ"),
        ] {
            let excerpt = redactor.excerpt(said.as_bytes());
            assert!(!excerpt.contains(secret), "{said} became {excerpt}");
            assert!(excerpt.contains(MARK), "{said} became {excerpt}");
        }
        assert!(!format!("{redactor:?}").contains("s3cr3t"));
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let redactor = redactor();
        assert_eq!(
            redactor.excerpt(b"\n a\r\nb\x1b[31m \xff\n"),
            "a  b[31m \u{fffd}"
        );
        let long = redactor.excerpt("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), MAX_EXCERPT + 1);
    }

    #[test]
    fn a_secret_at_the_cut_is_not_half_shown() {
        let text = format!("{}s3cr3t", "x".repeat(MAX_EXCERPT - 3));
        assert!(!redactor().excerpt(text.as_bytes()).contains("s3c"));
    }

    #[test]
    fn passwords_are_known_decoded_and_encoded() {
        let url = Url::parse("postgres://shop:hunter%402x@h.example/shop").unwrap();
        let redactor = Redactor::new(&url, std::iter::empty());
        let login = STANDARD.encode("\0shop\0hunter@2x");
        for said in ["hunter%402x", "hunter@2x", "aHVudGVyQDJ4", &login] {
            let clean = redactor.redact(&format!("no: {said}!"));
            assert_eq!(clean, "no: [redacted]!", "{said}");
        }
        let token = Url::parse("nats://s3cr3t-t0ken@h.example").unwrap();
        let clean = Redactor::new(&token, std::iter::empty()).redact("bad token s3cr3t-t0ken");
        assert!(!clean.contains("s3cr3t"), "{clean}");
    }

    #[test]
    fn messages_are_bounded_after_redaction() {
        let redactor = redactor();
        let message = format!("{}s3c\u{7}r3t", "x".repeat(MAX_MESSAGE - 3));
        let outcome = Outcome::Rejected(Failure::of(FailureKind::Status, message));
        let Outcome::Rejected(failure) = redactor.redact_outcome(outcome) else {
            unreachable!()
        };
        assert!(!failure.message.contains("s3c"));
        assert!(failure.message.chars().count() <= MAX_MESSAGE + 1);
    }

    #[test]
    fn a_bare_url_hides_no_slashes() {
        let redactor = Redactor::new(
            &Url::parse("http://h.example/").unwrap(),
            std::iter::empty(),
        );
        assert_eq!(redactor.redact("a / b"), "a / b");
    }
}
