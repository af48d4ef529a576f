//! The rules for a message to NATS that its schema cannot say.

use super::super::checks::Checks;
use super::super::report::field;
use super::super::tls;
use super::url;
use super::webhook::content_type;
use crate::config::NatsConfig;
use crate::resources::Nats;

/// What its URL is.
const URL: (&[&str], &str) = (
    &["nats", "tls"],
    "is not the URL of a NATS server; write nats://user:password@host:4222, or tls://",
);

/// Turns a message into what is published, with stand-ins for what it reports.
pub(super) fn check(at: &str, nats: &Nats, checks: &mut Checks<'_>) -> NatsConfig {
    let credentials = nats.credentials.as_ref();
    let url = url(&field(at, "url"), &nats.url, URL, checks);
    NatsConfig {
        tls: tls::of_url(at, nats.tls.as_ref(), (&url, "tls"), checks),
        url,
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
