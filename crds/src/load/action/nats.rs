//! The rules for a message to NATS that its schema cannot say.

use url::Url;

use super::super::checks::Checks;
use super::super::report::field;
use super::webhook::content_type;
use crate::config::{NatsConfig, Redacted};
use crate::resources::Nats;

/// Turns a message into what is published, with stand-ins for what it reports.
pub(super) fn check(at: &str, nats: &Nats, checks: &mut Checks<'_>) -> NatsConfig {
    let credentials = nats.credentials.as_ref();
    NatsConfig {
        url: url(&field(at, "url"), nats, checks),
        credentials: credentials.and_then(|source| {
            let (at, value) = checks.resolve(&field(at, "credentials"), source)?;
            if !value.reveal().contains("NATS USER JWT") {
                checks.wrong(
                    &at,
                    "holds no credentials of NATS; give what nsc writes to a file .creds",
                );
            }
            Some(value)
        }),
        subject: nats.subject.clone(),
        message: nats.message.clone(),
        content_type: content_type(&field(at, "contentType"), &nats.content_type, checks),
    }
}

fn url(at: &str, nats: &Nats, checks: &mut Checks<'_>) -> Redacted {
    let Some((at, url)) = checks.resolve(at, &nats.url) else {
        return Redacted::default();
    };
    let proper = Url::parse(url.reveal()).is_ok_and(|url| {
        matches!(url.scheme(), "nats" | "tls")
            && url.host_str().is_some_and(|host| !host.is_empty())
    });
    if !proper {
        checks.wrong(
            &at,
            "is not the URL of a NATS server; write nats://user:password@host:4222, or tls://",
        );
    }
    url
}
