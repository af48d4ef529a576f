//! The rules for TLS that its schema cannot say.

use crate::config::{Redacted, TlsConfig};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Tls, ValueSource};
use crate::validation::context::ValidationContext;

/// Turns settings into what a connection needs, with placeholders for what they report.
pub(crate) fn check(at: &str, tls: &Tls, context: &mut ValidationContext<'_>) -> TlsConfig {
    if tls.certificate.is_some() != tls.key.is_some() {
        context.error(at, "must have both `certificate` and `key`, or neither");
    }
    let ca = pem(&field(at, "ca"), tls.ca.as_ref(), "CERTIFICATE", context);
    let certificate = pem(
        &field(at, "certificate"),
        tls.certificate.as_ref(),
        "CERTIFICATE",
        context,
    );
    let key = pem(&field(at, "key"), tls.key.as_ref(), "PRIVATE KEY", context);
    TlsConfig {
        ca,
        identity: certificate.zip(key),
    }
}

/// The same of an action at `at` whose URL says by its scheme whether the connection is encrypted.
pub(crate) fn of_url(
    at: &str,
    tls: Option<&Tls>,
    (url, scheme): (&Redacted, &str),
    context: &mut ValidationContext<'_>,
) -> Option<TlsConfig> {
    let at_tls = field(at, "tls");
    let url = url.reveal();
    // One that is missing is told elsewhere.
    if tls.is_some() && !url.is_empty() && !url.starts_with(&format!("{scheme}:")) {
        context.error(
            &at_tls,
            format!("is of no use, as the URL is not encrypted; make it {scheme}://"),
        );
    }
    tls.map(|tls| check(&at_tls, tls, context))
}

/// A value that holds a block of PEM of some kind.
fn pem(
    at: &str,
    source: Option<&ValueSource>,
    kind: &str,
    context: &mut ValidationContext<'_>,
) -> Option<Redacted> {
    let (at, value) = context.resolve(at, source?)?;
    let begins = |line: &str| {
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"))
    };
    if !value.reveal().lines().any(begins) {
        context.error(
            &at,
            format!("holds no {kind} as PEM; it has a line such as -----BEGIN {kind}-----"),
        );
        return None;
    }
    Some(value)
}
