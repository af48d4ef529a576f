//! The rules for TLS that its schema cannot say.

use super::checks::Checks;
use super::report::field;
use crate::config::{Redacted, TlsConfig};
use crate::resources::{Tls, ValueSource};

/// Turns settings into what a connection needs, with stand-ins for what they report.
pub(super) fn check(at: &str, tls: &Tls, checks: &mut Checks<'_>) -> TlsConfig {
    if tls.certificate.is_some() != tls.key.is_some() {
        checks.wrong(at, "must have both `certificate` and `key`, or neither");
    }
    let ca = pem(&field(at, "ca"), tls.ca.as_ref(), "CERTIFICATE", checks);
    let certificate = pem(
        &field(at, "certificate"),
        tls.certificate.as_ref(),
        "CERTIFICATE",
        checks,
    );
    let key = pem(&field(at, "key"), tls.key.as_ref(), "PRIVATE KEY", checks);
    TlsConfig {
        ca,
        identity: certificate.zip(key),
    }
}

/// The same of an action at `at` whose URL says by its scheme whether the connection is encrypted.
pub(super) fn of_url(
    at: &str,
    tls: Option<&Tls>,
    (url, scheme): (&Redacted, &str),
    checks: &mut Checks<'_>,
) -> Option<TlsConfig> {
    let at_tls = field(at, "tls");
    let url = url.reveal();
    // One that is missing is told elsewhere.
    if tls.is_some() && !url.is_empty() && !url.starts_with(&format!("{scheme}:")) {
        checks.wrong(
            &at_tls,
            format!("is of no use, as the URL is not encrypted; make it {scheme}://"),
        );
    }
    tls.map(|tls| check(&at_tls, tls, checks))
}

/// A value that holds a block of PEM of some kind.
fn pem(
    at: &str,
    source: Option<&ValueSource>,
    kind: &str,
    checks: &mut Checks<'_>,
) -> Option<Redacted> {
    let (at, value) = checks.resolve(at, source?)?;
    let begins = |line: &str| {
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"))
    };
    if !value.reveal().lines().any(begins) {
        checks.wrong(
            &at,
            format!("holds no {kind} as PEM; it has a line such as -----BEGIN {kind}-----"),
        );
        return None;
    }
    Some(value)
}
