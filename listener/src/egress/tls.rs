//! TLS for protocols other than HTTP.

use std::fmt::Display;
use std::sync::{Arc, LazyLock};

use crds::config::{Redacted, TlsConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::templating::compile_error::CompileError;

/// Verification of a server's certificate.
#[derive(Clone, Debug)]
pub(crate) enum Verify {
    /// Trusted authority, and the name of the host that was dialled.
    Host,
    /// Trusted authority, and this name in place of the one that was dialled.
    As(ServerName<'static>),
    /// Trusted authority, any name.
    Authority,
    /// No verification.
    Nothing,
}

/// The authorities that the system trusts, read once: each action would read all of them again.
static SYSTEM: LazyLock<Vec<CertificateDer<'static>>> =
    LazyLock::new(|| rustls_native_certs::load_native_certs().certs);

/// Returns the client configuration of the settings at `place`, which also trusts the authorities that
/// the system trusts. The library has no versions before 1.2.
pub(crate) fn client_config(place: &str, config: &TlsConfig) -> Result<ClientConfig, CompileError> {
    client_config_with(place, config, Verify::Host)
}

/// Returns it with another verification of certificates.
pub(crate) fn client_config_with(
    place: &str,
    config: &TlsConfig,
    verify: Verify,
) -> Result<ClientConfig, CompileError> {
    let wrong = |field: &str, what: &str| CompileError::field(format!("{place}.{field}"), what);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(SYSTEM.iter().cloned());
    if let Some(ca) = &config.ca {
        let what = "holds no certificates; give them as PEM";
        for certificate in certificates(ca).ok_or_else(|| wrong("ca", what))? {
            roots.add(certificate).map_err(|_| wrong("ca", what))?;
        }
    }
    let unusable =
        |error: &dyn Display| CompileError::field(place, format!("cannot be used: {error}"));
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    let builder = if matches!(verify, Verify::Host) {
        builder.with_root_certificates(roots)
    } else {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| unusable(&error))?;
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { verify, inner }))
    };
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

/// Verifier of certificates as [`Verify`] says.
#[derive(Debug)]
struct Verifier {
    verify: Verify,
    inner: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let verify = |name| self.inner.verify_server_cert(own, chain, name, ocsp, now);
        match &self.verify {
            Verify::Host => verify(dialled),
            Verify::As(name) => verify(name),
            Verify::Authority => match verify(dialled) {
                Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                    Ok(ServerCertVerified::assertion())
                }
                verified => verified,
            },
            Verify::Nothing => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, own, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, own, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Parses at least one certificate; nothing where they cannot be read.
fn certificates(pem: &Redacted) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem.reveal().as_bytes());
    let all: Vec<_> = all.collect::<Result<_, _>>().ok()?;
    (!all.is_empty()).then_some(all)
}
