//! Validation of a NATS message: the rules that its schema cannot say.

use super::format::{check_format, format_content_type};
use crate::config::{NatsConfig, ServerUrl};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::Nats;
use crate::validation::context::ValidationContext;
use crate::validation::tls;
use crate::validation::url::url;

/// Validates a NATS message and returns its configuration, with placeholders for what it reports.
pub(super) fn check(at: &str, nats: &Nats, context: &mut ValidationContext<'_>) -> NatsConfig {
    let credentials = nats.credentials.as_ref();
    let url = url(&field(at, "url"), &nats.url, ServerUrl::NATS, context);
    check_format(at, nats.format, ("message", nats.message.as_ref()), context);
    NatsConfig {
        tls: tls::of_url(at, nats.tls.as_ref(), (&url, "tls"), context),
        url,
        credentials: credentials.and_then(|source| {
            let (at, value) = context.resolve(&field(at, "credentials"), source)?;
            if !value.reveal().contains("NATS USER JWT") {
                context.error(
                    &at,
                    "holds no credentials of NATS; give what nsc writes to a file .creds",
                );
            }
            Some(value)
        }),
        subject: nats.subject.clone(),
        message: nats.message.clone(),
        format: nats.format,
        content_type: format_content_type(at, nats.format, (&nats.content_type, false), context),
    }
}
