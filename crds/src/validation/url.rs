//! URLs of servers. They are used as they are, so they hold no templates.

use super::context::ValidationContext;
use crate::config::{Redacted, ServerUrl};
use crate::v1alpha1::ValueSource;

/// Returns the URL of a server, or reports it.
pub(crate) fn url(
    at: &str,
    source: &ValueSource,
    rule: ServerUrl,
    context: &mut ValidationContext<'_>,
) -> Redacted {
    let Some((at, url)) = context.resolve(at, source) else {
        return Redacted::default();
    };
    if url.reveal().contains("{{") {
        context.error(
            &at,
            "holds a template, but a URL is used as it is; templates are for what is sent",
        );
    } else if rule.parse(&url).is_none() {
        context.error(&at, rule.message());
    }
    url
}

/// Returns the URL of a Postgres database.
pub(crate) fn database_url(
    at: &str,
    source: &ValueSource,
    context: &mut ValidationContext<'_>,
) -> Redacted {
    let Some((at, url)) = context.resolve(at, source) else {
        return Redacted::default();
    };
    let text = url.reveal();
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        context.error(
            &at,
            "is not the URL of a Postgres database; write postgres://user:password@host:5432/database",
        );
    }
    url
}
