//! Parsing of database URLs.

use crds::config::Redacted;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use super::DatabaseError;

/// Parameters of a URL that are supported.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

const SSL_MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Parses a database URL.
pub fn options(url: &Redacted) -> Result<PgConnectOptions, DatabaseError> {
    let scheme = url.reveal().split("://").next().unwrap_or_default();
    if !matches!(scheme, "postgres" | "postgresql") {
        return Err(DatabaseError::Url(
            "it does not begin with postgres://".to_owned(),
        ));
    }
    let wrong = |error: &dyn std::fmt::Display| DatabaseError::Url(error.to_string());
    let mut url = Url::parse(url.reveal()).map_err(|error| wrong(&error))?;
    keep_known_parameters(&mut url)?;
    PgConnectOptions::from_url(&url)
        .map(|options| {
            options
                .application_name("observer-listener")
                .disable_statement_logging()
        })
        .map_err(|error| wrong(&error))
}

/// Parameters that name files of the local machine, directly or not.
const FILES: [&str; 13] = [
    "passfile",
    "service",
    "servicefile",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-root-cert",
    "sslcert",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslpassword",
    "sslrootcert",
];

/// Variables by which the driver would present the listener's own certificate.
const CLIENT_KEYS: [&str; 2] = ["PGSSLCERT", "PGSSLKEY"];

/// Parses an untrusted URL, such as an observer's. Nothing of the listener's own, from its environment or
/// its files, is presented to the server; `identity` says that a certificate comes with the URL.
pub fn foreign_options(url: &Redacted, identity: bool) -> Result<PgConnectOptions, DatabaseError> {
    let has_keys = CLIENT_KEYS
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    alone(url, identity, has_keys)
}

fn alone(
    url: &Redacted,
    identity: bool,
    has_keys: bool,
) -> Result<PgConnectOptions, DatabaseError> {
    let wrong = |error: &dyn std::fmt::Display| DatabaseError::Url(error.to_string());
    let mut parsed = Url::parse(url.reveal()).map_err(|error| wrong(&error))?;
    let names: Vec<String> = parsed
        .query_pairs()
        .map(|(name, _)| name.into_owned())
        .collect();
    let has = |name: &str| names.iter().any(|known| known == name);
    if let Some(name) = names.iter().find(|name| FILES.contains(&name.as_str())) {
        return Err(wrong(&format!(
            "{name} names a file of the listener's, which an action may not: use tls of the action instead"
        )));
    }
    let is_named = parsed.host_str().is_some_and(|host| !host.is_empty());
    if !is_named && !has("host") && !has("hostaddr") {
        return Err(wrong(&"it names no host"));
    }
    // What is not said would be taken from the environment.
    if !has("sslmode") && !has("ssl-mode") {
        parsed.query_pairs_mut().append_pair("sslmode", "prefer");
    }
    if parsed.password().is_none() && !has("password") {
        parsed.query_pairs_mut().append_pair("password", "");
    }
    let options = options(&Redacted::new(parsed.as_str()))?;
    // The driver has no way to leave them out.
    if has_keys && !identity && !matches!(options.get_ssl_mode(), PgSslMode::Disable) {
        return Err(wrong(
            &"the listener has a client certificate by PGSSLCERT and PGSSLKEY, which would be shown to this server: \
              give the action one of its own (tls.certificate and tls.key), or the listener none by these variables",
        ));
    }
    Ok(options)
}

/// Removes unsupported parameters: the driver would log their values, and one may be a password.
fn keep_known_parameters(url: &mut Url) -> Result<(), DatabaseError> {
    let mut kept = Vec::new();
    for (name, value) in url.query_pairs() {
        if matches!(&*name, "sslmode" | "ssl-mode")
            && !SSL_MODES.contains(&&*value.to_ascii_lowercase())
        {
            return Err(DatabaseError::Url(format!(
                "sslmode is none of {}",
                SSL_MODES.join(", ")
            )));
        }
        if PARAMETERS.contains(&&*name) || name.starts_with("options[") {
            kept.push((name.into_owned(), value.into_owned()));
        } else {
            tracing::warn!(
                parameter = &*name,
                "the database URL has a parameter that is not known and is ignored"
            );
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
