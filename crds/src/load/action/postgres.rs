//! The rules for a statement in Postgres that its schema cannot say.

use super::super::checks::Checks;
use super::super::listener::database_url;
use super::super::report::field;
use super::super::tls;
use crate::config::PostgresConfig;
use crate::resources::Postgres;

/// Turns a statement into what is run, with stand-ins for what it reports.
pub(super) fn check(at: &str, postgres: &Postgres, checks: &mut Checks<'_>) -> PostgresConfig {
    if postgres.statement.contains("{{") {
        checks.wrong(
            &field(at, "statement"),
            "holds a template, but a statement is used as it is; give `parameters` and refer to them as \
             `$1`, cast as in `$1::bigint`",
        );
    }
    let (url, tls) = (postgres.url.as_ref(), postgres.tls.as_ref());
    if url.is_none() && tls.is_some() {
        checks.wrong(
            &field(at, "tls"),
            "is for a server at `url`; the listener's own database is reached by `spec.egress.ownDatabase.url`",
        );
    }
    PostgresConfig {
        tls: tls.map(|tls| tls::check(&field(at, "tls"), tls, checks)),
        url: url.map(|url| database_url(&field(at, "url"), url, checks)),
        statement: postgres.statement.clone(),
        parameters: postgres.parameters.clone(),
    }
}
