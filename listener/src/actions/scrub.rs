//! Takes an action's secrets out of what other parties say about it.
//!
//! Endpoints repeat what they were sent ("no such token: ..."), and errors name addresses.
//! Both end up in dead letters and logs, so both pass through here.

use url::Url;

/// What stands for a secret.
const MARK: &str = "[redacted]";

/// Longest excerpt, in characters.
const MAX_EXCERPT: usize = 200;

/// Parts of a URL shorter than this are words rather than tokens.
const MIN_PART: usize = 6;

/// Texts that must not be repeated, the longest first.
#[derive(Clone, Default)]
pub(super) struct Scrub(Vec<String>);

impl std::fmt::Debug for Scrub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scrub({} secrets)", self.0.len())
    }
}

impl Scrub {
    /// Knows the URL's secrets: user, password, path, query, and each part of them that is
    /// long enough to be a token; and the `secrets` themselves, with and without a prefix
    /// such as `Bearer ` or `whsec_`.
    pub(super) fn new<'a>(url: &Url, secrets: impl Iterator<Item = &'a str>) -> Self {
        let path = url.path();
        let query = url.query().unwrap_or_default();
        let mut texts = vec![
            url.as_str().to_owned(),
            format!("{path}?{query}"),
            url.password().unwrap_or_default().to_owned(),
        ];
        let pairs = url.query_pairs().map(|(_, value)| value.into_owned());
        let parts = path
            .split('/')
            .chain(query.split(['&', '=']))
            .chain([path, query, url.username()])
            .map(str::to_owned)
            .chain(pairs);
        texts.extend(parts.filter(|part| part.len() >= MIN_PART));
        for secret in secrets {
            let secret = secret.trim();
            texts.push(secret.to_owned());
            if let Some((_, token)) = secret.split_once([' ', '_', ':']) {
                texts.push(token.trim().to_owned());
            }
        }
        // The path of a URL without one, or an empty password, is no secret.
        texts.retain(|text| text.len() > 1);
        texts.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        texts.dedup();
        Self(texts)
    }

    /// The text without secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| {
            if text.contains(secret.as_str()) {
                text.replace(secret.as_str(), MARK)
            } else {
                text
            }
        })
    }

    /// The beginning of a body, on one line and without secrets.
    pub(super) fn excerpt(&self, body: &[u8]) -> String {
        // Control characters go first, so that none splits a secret; the cut comes last, so
        // that none is cut in half and missed.
        let line: String = String::from_utf8_lossy(body)
            .chars()
            .filter_map(|letter| match letter {
                '\n' | '\r' | '\t' => Some(' '),
                letter if letter.is_control() => None,
                letter => Some(letter),
            })
            .collect();
        let clean = self.clean(line.trim());
        match clean.char_indices().nth(MAX_EXCERPT) {
            Some((end, _)) => format!("{}…", &clean[..end]),
            None => clean,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn scrub() -> Scrub {
        let url = Url::parse(
            "https://user:pa55@hooks.example.com/services/T000AAAA/tok%21en99?sig=abc%20def",
        );
        let secrets = ["Bearer s3cr3t", "whsec_MfKQ9r8GKYqr"];
        Scrub::new(&url.unwrap(), secrets.into_iter())
    }

    #[test]
    fn what_an_endpoint_repeats_holds_no_secret() {
        let scrub = scrub();
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
            let excerpt = scrub.excerpt(said.as_bytes());
            assert!(!excerpt.contains(secret), "{said} became {excerpt}");
            assert!(excerpt.contains(MARK), "{said} became {excerpt}");
        }
        assert!(!format!("{scrub:?}").contains("s3cr3t"));
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let scrub = scrub();
        assert_eq!(
            scrub.excerpt(b"\n a\r\nb\x1b[31m \xff\n"),
            "a  b[31m \u{fffd}"
        );
        let long = scrub.excerpt("é".repeat(1000).as_bytes());
        assert_eq!(long.chars().count(), MAX_EXCERPT + 1);
    }

    #[test]
    fn a_secret_at_the_cut_is_not_half_shown() {
        let text = format!("{}s3cr3t", "x".repeat(MAX_EXCERPT - 3));
        assert!(!scrub().excerpt(text.as_bytes()).contains("s3c"));
    }

    #[test]
    fn a_bare_url_hides_no_slashes() {
        let scrub = Scrub::new(
            &Url::parse("http://h.example/").unwrap(),
            std::iter::empty(),
        );
        assert_eq!(scrub.clean("a / b"), "a / b");
    }
}
