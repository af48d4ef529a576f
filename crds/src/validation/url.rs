//! URLs of servers. They are used as they are, so they hold no templates.

use url::Url;

use super::context::ValidationContext;
use crate::config::{Redacted, ServerUrl};
use crate::v1alpha1::ValueSource;

/// What is said of an address whose port is 0.
pub(super) const PORT_ZERO: &str =
    "has port 0, at which no server can be reached; write the port of the server";

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
        return url;
    }
    match rule.parse(&url) {
        None => context.error(&at, rule.message()),
        Some((parsed, _)) if parsed.port() == Some(0) => context.error(&at, PORT_ZERO),
        Some(_) => {}
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
    } else if has_port_zero(text) {
        context.error(&at, PORT_ZERO);
    }
    url
}

/// Returns whether the URL of a database has port 0, which may also be a parameter.
fn has_port_zero(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let mut parameters = url.query_pairs();
    url.port() == Some(0)
        || parameters.any(|(name, value)| name == "port" && value.parse::<u16>() == Ok(0))
}
