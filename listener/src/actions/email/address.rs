//! Parsing of one mailbox out of a rendered text, however hostile.

use lettre::Address;
use lettre::address::AddressError;
use lettre::message::Mailbox;
use url::Host;

/// Why a text is not a mailbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum MailboxError {
    #[error("there is no @ in it")]
    NoAt,
    #[error("there is {0:?} in its address")]
    Letter(char),
    #[error("its domain is none")]
    Domain(#[source] url::ParseError),
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// Parses one mailbox: an address, or any name and then an address in angle brackets at its end. The name needs no quotes, and may have them.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, MailboxError> {
    let text = text.trim();
    let bracketed = text
        .strip_suffix('>')
        .and_then(|text| text.rsplit_once('<'));
    let Some((name, address)) = bracketed else {
        return Ok(Mailbox::new(None, parsed(text)?));
    };
    let name = unquoted(name.trim());
    let name = Some(name).filter(|name| !name.is_empty());
    Ok(Mailbox::new(name, parsed(address.trim())?))
}

/// Splits at commas outside of quotes.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(move |letter| {
        let ends = letter == ',' && !quoted;
        if letter == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = letter == '\\' && !escaped;
        ends
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// An address that means the same however it is written into a command or a header. Domains go out in
/// ASCII, so that only what stands before the @ may need SMTPUTF8.
fn parsed(text: &str) -> Result<Address, MailboxError> {
    let special = |letter: &char| {
        letter.is_whitespace() || letter.is_control() || "\"(),:;<>\\".contains(*letter)
    };
    let (user, domain) = text.rsplit_once('@').ok_or(MailboxError::NoAt)?;
    if let Some(letter) = user
        .chars()
        .find(|letter| special(letter) || *letter == '@')
    {
        return Err(MailboxError::Letter(letter));
    }
    let literal = domain.starts_with('[') && domain.ends_with(']');
    if let Some(letter) = domain
        .chars()
        .find(|letter| special(letter) && !(literal && *letter == ':'))
    {
        return Err(MailboxError::Letter(letter));
    }
    if domain.is_ascii() {
        return Ok(Address::new(user, domain)?);
    }
    let domain = Host::parse(domain).map_err(MailboxError::Domain)?;
    Ok(Address::new(user, domain.to_string())?)
}

/// Returns a name without the quotes around it.
fn unquoted(name: &str) -> String {
    let inner = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'));
    let Some(inner) = inner else {
        return name.to_owned();
    };
    let mut text = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_text_is_one_mailbox() {
        for (text, name, address) in [
            ("ada@example.com", None, "ada@example.com"),
            (
                "Doe, John <john@example.com>",
                Some("Doe, John"),
                "john@example.com",
            ),
            (
                "\"Doe, John\" <john@example.com>",
                Some("Doe, John"),
                "john@example.com",
            ),
            (
                "\"a \\\" b\" <b@example.com>",
                Some("a \" b"),
                "b@example.com",
            ),
            (
                "x@evil.example, Bob <bob@example.com>",
                Some("x@evil.example, Bob"),
                "bob@example.com",
            ),
            (
                "Eve <eve@evil.example> <bob@example.com>",
                Some("Eve <eve@evil.example>"),
                "bob@example.com",
            ),
            ("<bob@example.com>", None, "bob@example.com"),
            ("jörg@example.com", None, "jörg@example.com"),
            ("ann@bücher.example", None, "ann@xn--bcher-kva.example"),
        ] {
            let mailbox = mailbox(text).unwrap();
            assert_eq!(mailbox.name.as_deref(), name, "{text}");
            assert_eq!(mailbox.email.as_ref() as &str, address, "{text}");
        }
        for text in [
            "bob@example.com, other@evil.example",
            "bob@example.com other@evil.example",
            "Bob <bob@example.com, other@evil.example>",
            "bob@example.com; other@evil.example",
            "\"bob@example.com, x\"@evil.example",
            "a@b@example.com",
            "bob",
            "bob@",
            "@example.com",
            "Bob <bob@example.com> x",
        ] {
            assert!(mailbox(text).is_err(), "{text}");
        }
    }

    #[test]
    fn commas_in_quotes_part_nothing() {
        let parts: Vec<&str> = split("a@x.y, \"Doe, \\\"J\\\", K\" <j@x.y>,, b@x.y").collect();
        assert_eq!(parts, ["a@x.y", "\"Doe, \\\"J\\\", K\" <j@x.y>", "b@x.y"]);
    }

    proptest! {
        /// Whatever stands for a name, the address is the one in the brackets that follow it.
        #[test]
        fn no_name_changes_who_gets_it(name in "\\PC*") {
            let mailbox = mailbox(&format!("{name} <bob@example.com>")).unwrap();
            prop_assert_eq!(mailbox.email.as_ref() as &str, "bob@example.com");
        }

        /// What is taken for an address holds nothing that parts addresses or ends a line.
        #[test]
        fn no_address_is_two(text in "[a-z@.,;<>\" \r\n\\[\\]]{0,30}") {
            if let Ok(mailbox) = mailbox(&text) {
                let address: &str = mailbox.email.as_ref();
                prop_assert_eq!(address.matches('@').count(), 1);
                prop_assert!(!address.contains([',', ';', ' ', '\r', '\n', '<', '>']));
            }
        }
    }
}
