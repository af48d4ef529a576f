//! What a client of a test's servers is configured with.

use crds::config::{Redacted, TlsConfig};
use testkit::certs::Certs;

/// Settings of a client that knows the authority, and shows its certificate if it `shows` one.
pub(crate) fn known(certs: &Certs, shows: bool) -> TlsConfig {
    let (certificate, key) = &certs.client;
    let own = (Redacted::new(&**certificate), Redacted::new(&**key));
    TlsConfig {
        ca: Some(Redacted::new(&*certs.ca)),
        identity: shows.then_some(own),
    }
}
