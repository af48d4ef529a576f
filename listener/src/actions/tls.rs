//! TLS for protocols other than HTTP.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crds::config::{Redacted, TlsConfig};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::CompileError;

/// The authorities that the system trusts, read once: each action would read all of them again.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| rustls_native_certs::load_native_certs().certs);

/// The settings at `place`, beside the authorities that the system trusts. Versions before 1.2 are
/// not known to the library.
pub(super) fn client_config(place: &str, config: &TlsConfig) -> Result<ClientConfig, CompileError> {
    let wrong = |field: &str, what: &str| CompileError::field(format!("{place}.{field}"), what);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(SYSTEM.iter().cloned());
    if let Some(ca) = &config.ca {
        let what = "holds no certificates; give them as PEM";
        for certificate in certificates(ca).ok_or_else(|| wrong("ca", what))? {
            roots.add(certificate).map_err(|_| wrong("ca", what))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| CompileError::field(place, format!("cannot be used: {error}")))?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &config.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let bad = |what| wrong("certificate", what);
    let chain = certificates(certificate);
    let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).ok();
    let (chain, key) = chain
        .zip(key)
        .ok_or_else(|| bad("and its key cannot be used; give both as PEM"))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|_| bad("does not fit its key, or one of them cannot be read"))
}

/// All authorities that are trusted, as PEM, for a client that trusts no others.
pub(super) fn trusted(ca: &Redacted) -> Vec<u8> {
    let system = SYSTEM.iter().map(|certificate| {
        let text = STANDARD.encode(certificate);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    });
    let own = std::iter::once(format!("{}\n", ca.reveal()));
    own.chain(system).collect::<String>().into_bytes()
}

/// At least one certificate; nothing where they cannot be read.
fn certificates(pem: &Redacted) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem.reveal().as_bytes());
    let all: Vec<_> = all.collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}
