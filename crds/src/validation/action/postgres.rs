//! Validation of a Postgres statement: the rules that its schema cannot say.

use crate::config::PostgresConfig;
use crate::manifest::diagnostics::field;
use crate::v1alpha1::Postgres;
use crate::validation::context::ValidationContext;
use crate::validation::tls;
use crate::validation::url::database_url;

/// Validates a Postgres statement and returns its configuration, with placeholders for what it
/// reports.
pub(in crate::validation) fn check(
    at: &str,
    postgres: &Postgres,
    context: &mut ValidationContext<'_>,
) -> PostgresConfig {
    if postgres.statement.contains("{{") {
        context.error(
            &field(at, "statement"),
            "holds a template, but a statement is used as it is; give `parameters` and refer to them as \
             `$1`, cast as in `$1::bigint`",
        );
    }
    let (url, tls) = (postgres.url.as_ref(), postgres.tls.as_ref());
    if url.is_none() && tls.is_some() {
        context.error(
            &field(at, "tls"),
            "is for a server at `url`; the listener's own database is reached by `spec.egress.ownDatabase.url`",
        );
    }
    PostgresConfig {
        tls: tls.map(|tls| tls::check(&field(at, "tls"), tls, context)),
        url: url.map(|url| database_url(&field(at, "url"), url, context)),
        statement: postgres.statement.clone(),
        parameters: postgres.parameters.clone(),
    }
}
